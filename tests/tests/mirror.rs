//! What control reads of a Postfix configuration, held against what that Postfix does.
//!
//! Every way leads to a service that throws mail away and writes its next hop to the log. Only the
//! reader is told that the service is an SMTP client: then it names the same next hop, or says that it
//! does not know.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use control::mirror::{FileError, Files, Folder, Gates, Reading, criteria_of};
use policy::message::samples;
use policy::mirror::Destination;
use tempfile::TempDir;
use tests::client::Client;
use tests::postfix::{Postfix, Settings};
use tests::wait::{self, LONG};

/// Throws mail away; `{probe}` is what the reader is told of it.
const PROBE: &str = "probe unix - - n - - discard\n";
const TOLD: &str = "probe unix - - n - - smtp\n";

/// A folder whose master.cf says of the probe that it is an SMTP client.
struct AsTold(Folder);

impl Files for AsTold {
    fn text(&self, path: &Path) -> Result<String, FileError> {
        Ok(self.0.text(path)?.replace(PROBE, TOLD))
    }

    fn written(&self, path: &Path) -> Option<SystemTime> {
        self.0.written(path)
    }
}

/// A message and what Postfix did with it.
struct Case {
    sender: String,
    recipient: String,
    data: String,
    did: String,
}

struct Story {
    tables: TempDir,
    settings: Settings,
}

impl Story {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let permissions = fs::Permissions::from_mode(0o755);
        let tables = tempfile::Builder::new().permissions(permissions).tempdir().unwrap();
        let settings = Settings::discarding("mirror.test")
            .service(PROBE)
            .set("default_transport", "probe")
            .set("relay_transport", "probe")
            .set("local_transport", "probe:[local]")
            .set("virtual_transport", "probe:[virtual]")
            .set("smtpd_reject_unlisted_recipient", "no")
            .set("smtpd_relay_restrictions", "permit_mynetworks, reject");
        Self { tables, settings }
    }

    fn table(&self, name: &str, text: &str) -> &Self {
        fs::write(self.tables.path().join(name), text).unwrap();
        self
    }

    /// `{}` in a value is the folder of tables.
    fn set(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("{}", self.tables.path().to_str().unwrap());
        self.settings = self.settings.set(name, &value);
        self
    }

    fn start(self) -> (Postfix, Reading, TempDir) {
        let postfix = self.settings.start();
        let folder = folder(&postfix);
        for entry in fs::read_dir(self.tables.path()).unwrap() {
            let path = entry.unwrap().path();
            if let Some(kind @ ("hash" | "btree")) = path.extension().and_then(|one| one.to_str()) {
                let table = format!("{kind}:{}", path.display());
                run("postmap", &folder, &[&table]);
            }
        }
        let reading = criteria_of(&AsTold(Folder::new(&folder)), &Gates::default()).unwrap();
        (postfix, reading, self.tables)
    }
}

fn folder(postfix: &Postfix) -> PathBuf {
    postfix.log_path().with_file_name("etc")
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> String {
    let program = Path::new("/usr/sbin").join(program);
    let output = Command::new(program).arg("-c").arg(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Sends a message for each pair, and waits for what the log says of each.
fn send(postfix: &Postfix, messages: &[(&str, &str, &str)]) -> Vec<Case> {
    let mut client = Client::open(postfix.address());
    assert!(client.command("EHLO client.test").is_positive());
    let mut ids = Vec::new();
    for (sender, recipient, header) in messages {
        assert!(client.command(&format!("MAIL FROM:<{sender}>")).is_positive());
        assert!(client.command(&format!("RCPT TO:<{recipient}>")).is_positive(), "{recipient}");
        assert_eq!(client.command("DATA").code, 354);
        let data = format!("From: <{sender}>\r\n{header}\r\nText.\r\n");
        client.send(format!("{data}.\r\n").as_bytes()).unwrap();
        let reply = client.expect_reply();
        assert!(reply.is_positive(), "{reply:?}");
        ids.push((reply.text().rsplit(' ').next().unwrap().to_owned(), data));
    }
    let cases = messages.iter().zip(ids).map(|((sender, recipient, _), (id, data))| {
        let did = wait::within(LONG, || done(&postfix.log(), &id));
        let did = did.unwrap_or_else(|| panic!("{recipient}: {}", postfix.log()));
        let (sender, recipient) = ((*sender).to_owned(), (*recipient).to_owned());
        Case { sender, recipient, data, did }
    });
    cases.collect()
}

/// The next hop that the probe wrote of a message, or how it ended otherwise.
fn done(log: &str, id: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains(&format!("{id}: to=<")))?;
    let (_, status) = line.split_once("status=")?;
    let (status, text) = status.split_once(" (")?;
    let text = text.trim_end_matches(')').to_owned();
    Some(if status == "sent" { text } else { format!("{status}: {text}") })
}

/// Holds each case against the criteria; gives those of which these do not tell.
fn agree<'a>(postfix: &Postfix, reading: &Reading, cases: &'a [Case]) -> Vec<&'a Case> {
    let port = SocketAddr::to_string(&postfix.address());
    let entrance = reading.entrances.iter().find(|one| one.services.contains(&port));
    let criteria = &entrance.unwrap().criteria;
    let mut open = Vec::new();
    for case in cases {
        let Case { sender, recipient, data, did } = case;
        let recipients = [recipient.clone()];
        let sample = samples(data.as_bytes(), sender, &recipients).remove(0);
        let said = match criteria.destination(&sample) {
            None | Some(Destination::Unknown { .. }) => {
                open.push(case);
                continue;
            }
            Some(Destination::Elsewhere { host } | Destination::Inside { host }) => {
                let host =
                    host.split(" (probe:").next().unwrap().trim_start_matches("the MX hosts of ");
                let domain = recipient.rsplit('@').next().unwrap();
                host.replace("the recipient's domain", domain)
            }
            Some(Destination::Nowhere) => did.split(':').next().unwrap().to_owned(),
            Some(other) => other.to_string(),
        };
        let nowhere = said == "bounced";
        assert!(
            said == *did || nowhere && did.starts_with("bounced"),
            "{sender} {recipient} {data:?}: Postfix {did}, we {said}"
        );
    }
    open
}

const SENDERS: [&str; 5] = ["s@one.test", "s+x@one.test", "t@two.test", "u@a.two.test", ""];

const RECIPIENTS: [&str; 20] = [
    "user@exact.test",
    "User@Exact.Test",
    "user+ext@exact.test",
    "other@exact.test",
    "a@domain.test",
    "a@below.domain.test",
    "a@deep.below.domain.test",
    "a@x.deep.below.domain.test",
    "a@keep.test",
    "a@hop.test",
    "a@reset.test",
    "a@error.test",
    "a@relayed.test",
    "a@below.relayed.test",
    "a@mapped.relayed.test",
    "a@local.test",
    "a@inline.test",
    "rule-1@rules.test",
    "rule-2@rules.test",
    "a@nothing.test",
];

fn pairs() -> Vec<(&'static str, &'static str, &'static str)> {
    let of =
        |sender| RECIPIENTS.iter().map(move |recipient| (sender, *recipient, "Subject: a\r\n"));
    SENDERS.into_iter().flat_map(of).collect()
}

const TRANSPORT: &str = "\
# what is more precise goes first, wherever it stands
.domain.test         probe:[below]
domain.test          probe:[domain]
.deep.below.domain.test probe:[deep]
user@exact.test      probe:[user]
exact.test           probe:[exact]
keep.test            :
hop.test             :[hop]
reset.test           probe:
error.test           error:5.1.1 not here
mapped.relayed.test  probe:[mapped]
domain.test          probe:[second]
\"quoted\"@exact.test
    probe:[quoted]
";

const RULES: &str = "\
if /@rules\\.test$/
/^RULE-1@/ probe:[rule-1]
!/^rule-1@/ probe:[rule-2]
endif
/^a@x\\./ probe:[rule-x]
";

/// Goal: classes, transport_maps and relay hosts decide as in trivial-rewrite(8).
#[test]
fn routes_by_addresses_are_those_of_postfix() {
    let story = Story::new();
    story.table("transport.hash", TRANSPORT).table("rules", RULES);
    story.table("relay", "@one.test [one]\nt@two.test DUNNO\n<> [null]\n");
    story.table("domains", "# a list\nrelayed.test\n");
    let (postfix, reading, _tables) = story
        .set("recipient_delimiter", "+")
        .set("relayhost", "[usual]")
        .set("mydestination", "$myhostname, local.test")
        .set("relay_domains", "{}/domains")
        .set("sender_dependent_relayhost_maps", "texthash:{}/relay")
        .set(
            "transport_maps",
            "hash:{}/transport.hash, regexp:{}/rules, inline:{ {inline.test = probe:[inline]} }",
        )
        .start();
    let cases = send(&postfix, &pairs());
    let open = agree(&postfix, &reading, &cases);
    assert_eq!(open.len(), 10, "of 100");
    for case in open {
        let extended = [&case.sender, &case.recipient].iter().any(|address| address.contains('+'));
        assert!(extended, "{} {}", case.sender, case.recipient);
    }
}

/// Goal: the same with transports by sender, a btree table, and a table of patterns for senders.
#[test]
fn routes_by_senders_are_those_of_postfix() {
    let story = Story::new();
    story.table("transport.btree", "domain.test :\n* probe:[all]\n");
    story.table("senders", "/@one\\.test$/ probe:[by-rule]\n/^<>$/ probe:[null]\n/two/ probe\n");
    story.table("relay", "/^t@/ [by-relay]\n/./ DUNNO\n");
    let (postfix, reading, _tables) = story
        .set("relayhost", "${strange?[no]}${strange:[usual]}")
        .set("sender_dependent_default_transport_maps", "regexp:{}/senders")
        .set("sender_dependent_relayhost_maps", "regexp:{}/relay")
        .set("transport_maps", "btree:{}/transport.btree")
        .set("relay_domains", "relayed.test")
        .start();
    let cases = send(&postfix, &pairs());
    let open = agree(&postfix, &reading, &cases);
    assert_eq!(open.len(), 1, "what $strange is, is not known, and one comes to it");
    drop(postfix);

    let story = Story::new();
    story.table("transport.btree", "domain.test :\n.domain.test :\nkeep.test :\n");
    story.table("senders", "/@one\\.test$/ probe:[by-rule]\n/^<>$/ probe:[null]\n/two/ probe\n");
    story.table("relay", "/^t@/ [by-relay]\n/./ DUNNO\n");
    let (postfix, reading, _tables) = story
        .set("strange", "")
        .set("relayhost", "${strange?[no]}${strange:[usual]}")
        .set("sender_dependent_default_transport_maps", "regexp:{}/senders")
        .set("sender_dependent_relayhost_maps", "regexp:{}/relay")
        .set("transport_maps", "btree:{}/transport.btree")
        .set("relay_domains", "relayed.test")
        .start();
    let cases = send(&postfix, &pairs());
    assert!(agree(&postfix, &reading, &cases).is_empty());
}

/// Goal: checks of fields win over restrictions, those over the content filter, that over routing.
#[test]
fn filters_win_as_in_postfix() {
    let story = Story::new();
    let checks = "/^Subject:.*\\[pass\\]/ DUNNO\n/^Subject: +\\[.*\\]/ FILTER probe:[subject]\n\
                  /^X-Filter:\\s*yes$/ FILTER probe:[subject]\n";
    story.table("checks", checks);
    let access = "domain.test FILTER probe:[access]\ndeep.below.domain.test DUNNO\n\
                  a@ FILTER probe:[user]\nkeep.test OK\n";
    story.table("access", access);
    let (postfix, reading, _tables) = story
        .set("content_filter", "probe:[content]")
        .set("header_checks", "regexp:{}/checks")
        .set(
            "smtpd_recipient_restrictions",
            "check_recipient_access texthash:{}/access, permit_mynetworks",
        )
        .start();
    let headers = [
        "Subject: a\r\n",
        "Subject: [b] c\r\n",
        "Subject: c [b]\r\n",
        "Subject: [b] [pass]\r\n",
        "X-Filter: yes\r\n",
        "X-Filter: yes no\r\n",
        "X-Other: yes\r\n",
    ];
    let of = |header| RECIPIENTS.iter().map(move |recipient| ("s@one.test", *recipient, header));
    let messages: Vec<_> = headers.into_iter().flat_map(of).collect();
    let cases = send(&postfix, &messages);
    assert!(agree(&postfix, &reading, &cases).is_empty());
}

/// Goal: values are expanded as Postfix expands them.
#[test]
fn values_are_those_of_postconf() {
    let values = [
        "[a]",
        "$myhostname",
        "[${gate}]:2525",
        "[$(gate)]:2525",
        "${gate?[yes]}",
        "${gate:[no]}${empty:[no]}",
        "${empty?{ [yes] } : { [no] }}",
        "${gate?{[$gate]}}",
        "[$mydomain]",
        "[a],\n  # a comment\n\n  [b]",
        "$$gate",
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("master.cf", "a inet n - n - - smtpd\nsmtp unix - - n - - smtp\n");
    for value in values {
        let text = format!(
            "myhostname = mx.mirror.test\ngate = first\ngate = gate.test\nempty =\n\
             mydestination =\nrelayhost = {value}\n"
        );
        write("main.cf", &text);
        let expected = run("postconf", folder.path(), &["-x", "-h", "relayhost"]);
        let reading = criteria_of(&Folder::new(folder.path()), &Gates::default()).unwrap();
        let routes = &reading.entrances[0].criteria.routes;
        let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let to = plain(&routes.last().unwrap().to.to_string());
        let way = format!("(smtp:{})", plain(&expected));
        assert!(to.ends_with(&way), "{value}: Postfix {expected}, we {to}");
    }
}
