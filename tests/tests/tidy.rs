//! The house rules that a program can check: the example configuration is complete and true, what the
//! documents name exists, and lines stay in their rooms (docs/ARCHITECTURE.md).
//!
//! Exceptions are listed here, each with its reason; one that is not needed any more is a failure
//! too, so that the lists stay short and true.
//!
//! Not here: style (rustfmt, clippy), sizes of files.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proxy::config::{Config, Gate, Log, Member};

/// The folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, by its path from the root; build output and hidden folders excepted.
fn files() -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            let path = folder.join(name);
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort_unstable();
    files
}

fn rust_files() -> Vec<String> {
    let mut files = files();
    files.retain(|path| path.ends_with(".rs"));
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

/// Files of the product itself: no tests.
fn product_files() -> Vec<String> {
    let mut files = rust_files();
    files.retain(|path| {
        let product = path.starts_with("proxy/") || path.starts_with("control/");
        product && !path.contains("/tests/") && !path.ends_with("/tests.rs")
    });
    files
}

/// The code of a file without comment lines and without its modules of tests.
fn code(path: &str) -> String {
    let text = read(path);
    let mut lines = text.lines().peekable();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        // A module of tests stands last (a declared one, `mod tests;`, has files of its own).
        if line == "#[cfg(test)]" {
            while lines.peek().is_some_and(|next| next.starts_with("#[")) {
                lines.next();
            }
            if lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{')) {
                break;
            }
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Compares what was found with what is allowed, both ways.
fn judge(found: &BTreeSet<String>, allowed: &[(&str, &str)], rule: &str) {
    for (_, reason) in allowed {
        assert!(!reason.is_empty(), "an exception has a reason");
    }
    let allowed: BTreeSet<String> = allowed.iter().map(|(what, _)| (*what).to_owned()).collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    assert!(new.is_empty(), "{rule}: {new:#?}");
    let stale: Vec<_> = allowed.difference(found).collect();
    assert!(stale.is_empty(), "exceptions that are not needed any more: {stale:#?}");
}

// deploy/lockgate.toml

const EXAMPLE: &str = "deploy/lockgate.toml";

/// The keys that a section's type reads, as its own refusal of an unknown key lists them.
macro_rules! keys_of {
    ($type:ty) => {{
        let unknown = serde_json::json!({ "no such key": 0 });
        let refusal = serde_json::from_value::<$type>(unknown).unwrap_err().to_string();
        let (_, known) = refusal.split_once("expected ").unwrap();
        let keys: Vec<String> = known.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert!(!keys.is_empty(), "{refusal}");
        keys
    }};
}

/// `key = value` of a line, also of one that is commented out.
fn key_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    let (key, _) = line.split_once(" = ")?;
    let plain = |octet: u8| octet.is_ascii_lowercase() || octet == b'_';
    key.bytes().all(plain).then_some(key)
}

/// Keys by section, as they stand in the example.
fn example_keys() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in read(EXAMPLE).lines() {
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
            let (outer, name) = section.rsplit_once('.').unwrap_or(("", &section));
            all.entry(outer.to_owned()).or_default().insert(name.to_owned());
        } else if let Some(key) = key_of(line) {
            all.entry(section.clone()).or_default().insert(key.to_owned());
        }
    }
    all
}

#[test]
fn the_example_configuration_names_every_key_and_no_other() {
    let shown = example_keys();
    let sections = [
        ("", keys_of!(Config)),
        ("log", keys_of!(Log)),
        ("metrics", keys_of!(proxy::metrics::Config)),
        ("session", keys_of!(proxy::session::Config)),
        ("relay", keys_of!(proxy::relay::Config)),
        ("spool", keys_of!(proxy::spool::Config)),
        ("replay", keys_of!(proxy::replay::Config)),
        ("gate", keys_of!(Gate)),
        ("gate.tls", keys_of!(proxy::session::tls::Config)),
        ("gate.member", keys_of!(Member)),
        ("journal", keys_of!(proxy::journal::Config)),
        ("drain", keys_of!(control::config::Drain)),
        ("maillog", keys_of!(control::config::Maillog)),
    ];
    for (section, known) in sections {
        let known: BTreeSet<String> = known.into_iter().collect();
        let shown = shown.get(section).cloned().unwrap_or_default();
        assert_eq!(shown, known, "keys of [{section}] in {EXAMPLE}");
    }
}

#[test]
fn the_example_configuration_is_accepted_also_with_what_is_commented_out() {
    let text = read(EXAMPLE);
    Config::parse(&text, Path::new(EXAMPLE)).unwrap();
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| key_of(line).map_or(line, |_| line.trim_start_matches("# ")))
        .collect();
    let config = Config::parse(&uncommented.join("\n"), Path::new(EXAMPLE)).unwrap();
    assert!(config.gates[0].members[0].ca_file.is_some(), "nothing was uncommented");
}

/// Goal: the example shows the defaults.
/// Method: after taking out what makes an example of it (names, addresses), it is the default.
#[test]
fn the_values_of_the_example_configuration_are_the_defaults() {
    let mut config = Config::parse(&read(EXAMPLE), Path::new(EXAMPLE)).unwrap();
    let own = control::config::Config::of(&config, Some(Path::new(EXAMPLE))).unwrap();
    assert_eq!(format!("{:?}", own.drain), format!("{:?}", control::config::Drain::default()));
    assert_eq!(own.logs.len(), 1, "it has a log");
    config.drain.clear();
    config.maillog.clear();
    let mut gates = std::mem::take(&mut config.gates);
    assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
    assert!(gates.iter().any(|gate| gate.returns.is_some()), "it has a return gate");
    for gate in &mut gates {
        let members = std::mem::take(&mut gate.members);
        let plain = Gate {
            name: gate.name.clone(),
            listen: gate.listen,
            returns: gate.returns.clone(),
            ..Gate::default()
        };
        assert_eq!(format!("{gate:#?}"), format!("{plain:#?}"));
        assert!(!members.is_empty());
        for member in members {
            let plain = Member {
                name: member.name.clone(),
                address: member.address.clone(),
                ..Member::default()
            };
            assert_eq!(format!("{member:#?}"), format!("{plain:#?}"));
        }
    }
}

/// Every key that has a default is given: else the comparison above would compare the default with
/// itself.
#[test]
fn only_keys_without_a_default_are_commented_out_in_the_example_configuration() {
    let optional = [
        "dsn_next_hop",
        "source_address",
        "helo_name",
        "certificate",
        "key",
        "tls_name",
        "ca_file",
        "sentinel_to",
        "sentinel_from",
        "next_of",
        "zone",
        "file",
        "journald",
        "syslog",
        "inside",
        "mailboxes",
        "host",
        "program",
        "unparsed_per_million_max",
        "pattern",
    ];
    let text = read(EXAMPLE);
    let commented: BTreeSet<&str> =
        text.lines().filter(|line| line.starts_with('#')).filter_map(key_of).collect();
    assert_eq!(commented, optional.into_iter().collect());
}

// Documents

/// The documents for readers, by path.
fn documents() -> Vec<String> {
    let mut documents = files();
    documents
        .retain(|path| path.ends_with(".md") && (path.starts_with("docs/") || !path.contains('/')));
    assert!(documents.len() > 5, "{documents:?}");
    documents
}

/// Does it look like a path of this repository?
fn is_own_path(text: &str) -> bool {
    const FOLDERS: [&str; 7] =
        ["proxy/", "control/", "tests/", "bench/", "docs/", "deploy/", ".ci/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    text.chars().all(plain) && FOLDERS.iter().any(|folder| text.starts_with(folder))
}

#[test]
fn paths_named_in_the_documents_exist() {
    let mut seen = 0;
    let mut missing = Vec::new();
    for document in documents() {
        let text = read(&document);
        let folder = Path::new(&document).parent().unwrap();
        let named =
            text.split('`').skip(1).step_by(2).filter(|span| is_own_path(span)).map(PathBuf::from);
        let linked = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|target| !target.contains("://") && !target.starts_with('#'))
            .map(|target| folder.join(target.split('#').next().unwrap_or_default()));
        for path in named.chain(linked) {
            seen += 1;
            if !root().join(&path).exists() {
                missing.push(format!("{document} names {}", path.display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The first string literal behind each `mark`.
fn literals_behind<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    text.split(mark).skip(1).filter_map(|rest| rest.split('"').nth(1)).collect()
}

/// Names in backticks or rules that are metrics of ours, without what Prometheus adds to them.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    text.split(|c| !word(c))
        .filter_map(|name| name.strip_prefix("lockgate_"))
        .map(|name| {
            let name = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name);
            let parts = ["_bucket", "_sum", "_count"];
            parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn every_metric_is_documented_and_no_other_is_named() {
    let (counted, readings) = (read("proxy/src/metrics.rs"), read("proxy/src/admin/health.rs"));
    let own = read("control/src/watch/metrics.rs");
    let mut registered: BTreeSet<String> = literals_behind(&counted, "registry.register(")
        .into_iter()
        .chain(literals_behind(&own, "registry.register("))
        .map(str::to_owned)
        .collect();
    for mark in ["encode_descriptor(\n", "encoder,\n", "gauge(encoder, "] {
        registered.extend(literals_behind(&readings, mark).into_iter().map(str::to_owned));
    }
    assert!(registered.len() > 15, "{registered:?}");
    assert_eq!(metrics_in(&read("docs/METRICS.md")), registered, "docs/METRICS.md");
    let alerts = metrics_in(&read("deploy/alerts.yml"));
    assert!(alerts.is_subset(&registered), "{:?}", alerts.difference(&registered));
}

// Lines and rooms

#[test]
fn every_file_begins_with_its_head() {
    let headless: Vec<String> =
        rust_files().into_iter().filter(|path| !read(path).starts_with("//! ")).collect();
    assert!(headless.is_empty(), "no `//!` head: {headless:#?}");
}

#[test]
fn no_file_or_folder_is_a_drawer_for_odds_and_ends() {
    let drawers = ["util", "utils", "common", "core", "helper", "helpers", "types", "misc"];
    let found: Vec<String> = files()
        .into_iter()
        .filter(|path| {
            path.split('/').any(|part| drawers.contains(&part.split('.').next().unwrap_or(part)))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn words_of_smtp_are_written_in_the_smtp_package() {
    let words = [
        "MAIL FROM",
        "RCPT TO",
        "EHLO",
        "HELO",
        "STARTTLS",
        "DATA\\r",
        "RSET",
        "NOOP",
        "QUIT",
        "VRFY",
        "BDAT",
        "AUTH",
        "XFORWARD",
        "XCLIENT",
    ];
    let mut found = BTreeSet::new();
    for path in product_files().into_iter().filter(|path| path.starts_with("proxy/src/")) {
        let code = code(&path);
        for word in words.iter().filter(|word| code.contains(&format!("\"{word}"))) {
            found.insert(format!("{path} {word}"));
        }
    }
    let allowed = [(
        "proxy/src/session/mod.rs QUIT",
        "a client that is turned away has no session to parse for",
    )];
    judge(&found, &allowed, "words of SMTP belong into proxy/smtp");
}

#[test]
fn only_the_real_disk_syncs_renames_and_unlinks() {
    let calls = [
        "fs::rename(",
        "remove_file(",
        "remove_dir",
        "sync_all(",
        "sync_data(",
        "fsync(",
        "fdatasync(",
        "unlink(",
        "unlinkat(",
        "renameat",
    ];
    let mut found = BTreeSet::new();
    for path in product_files().into_iter().filter(|path| path != "proxy/disk/src/real.rs") {
        let code = code(&path);
        for call in calls.iter().filter(|call| code.contains(*call)) {
            found.insert(format!("{path} {call}"));
        }
    }
    judge(&found, &[], "only proxy/disk/src/real.rs syncs, renames and unlinks");
}

#[test]
fn clocks_are_read_in_listed_files_only() {
    let clocks = ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"];
    let mut found = BTreeSet::new();
    for path in product_files() {
        let code = code(&path);
        for clock in clocks.iter().filter(|clock| code.contains(*clock)) {
            found.insert(format!("{path} {clock}"));
        }
    }
    let allowed = [
        ("control/src/check.rs Timestamp::now", "a look at the end of a log"),
        ("control/src/cli/journal.rs Timestamp::now", "a length of time before now"),
        ("control/src/api.rs Timestamp::now", "a file that is handed in is of now, unless it says"),
        ("control/src/cli/drain.rs Instant::now", "deadline of --wait"),
        ("control/src/moment.rs Timestamp::now", "the clock that the watch and its process read"),
        (
            "control/src/watch/mod.rs Instant::now",
            "when the books were kept, when mail was settled",
        ),
        ("control/src/watch/source.rs Timestamp::now", "the year of the first lines"),
        ("control/src/cli/held.rs Timestamp::now", "ages of held messages"),
        (
            "control/src/cli/policy/diff.rs Timestamp::now",
            "when a page was made, since when to look",
        ),
        (
            "control/src/cli/policy/probe.rs Instant::now",
            "deadline of the wait for what comes back",
        ),
        ("control/src/cli/policy/probe.rs Timestamp::now", "when probes were sent"),
        ("control/src/cli/offline.rs Timestamp::now", "ages of held messages"),
        ("control/src/cli/release.rs Instant::now", "deadline of --wait"),
        ("control/src/cli/status.rs Timestamp::now", "since when a member was seen"),
        ("control/src/cli/wait.rs Instant::now", "deadline of a wait"),
        ("control/src/demo/server/mod.rs Timestamp::now", "the clock of the stand-in"),
        ("control/src/demo/server/queue.rs Instant::now", "when an item of the stand-in may leave"),
        ("control/src/demo/story.rs Instant::now", "progress of the demo"),
        ("proxy/src/admin/gates.rs Instant::now", "rate of the spool's growth"),
        ("proxy/src/admin/mod.rs Instant::now", "samples of the spool's growth"),
        ("proxy/src/clock.rs SystemTime::now", "the clock on the wall, for all of the proxy"),
        ("proxy/src/gate/mod.rs Instant::now", "age of a permit, deadline of quiet"),
        ("proxy/src/probe/mod.rs Instant::now", "length of a probe"),
        ("proxy/src/stream.rs Instant::now", "when a wait began that was not over at once"),
        ("proxy/src/relay/connection.rs Instant::now", "since when a connection is idle"),
        ("proxy/src/relay/mod.rs Instant::now", "expiry of idle connections, next try"),
        ("proxy/src/replay/attempt.rs Instant::now", "length of an attempt, latency"),
        ("proxy/src/replay/mod.rs Instant::now", "the clock of pace and schedule"),
        ("proxy/src/replay/queue.rs Instant::now", "since when a message is uncertain"),
        ("proxy/src/spool/space.rs Instant::now", "age of the last answer on free space"),
        ("proxy/src/transaction/hold.rs Instant::now", "latency of a commit"),
        ("proxy/src/transaction/mod.rs Instant::now", "length of a transaction"),
        ("proxy/src/transaction/pass.rs Instant::now", "latency of a next hop"),
    ];
    judge(&found, &allowed, "a clock is read in task files, and handed on as a value");
}

/// Layer of each module, from the table in the head of `proxy/src/lib.rs`.
fn layers() -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    for line in read("proxy/src/lib.rs").lines() {
        let Some(row) = line.strip_prefix("//! | ") else {
            continue;
        };
        let Some((layer, modules)) = row.split_once(" | ") else {
            continue;
        };
        let Ok(layer) = layer.parse::<u32>() else {
            continue;
        };
        for module in modules.split('`').skip(1).step_by(2) {
            layers.insert(module.to_owned(), layer);
        }
    }
    layers
}

#[test]
fn modules_of_the_proxy_use_lower_layers_only() {
    let layers = layers();
    let declared: BTreeSet<String> = read("proxy/src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    assert_eq!(layers.keys().cloned().collect::<BTreeSet<_>>(), declared, "table and modules");
    let mut found = BTreeSet::new();
    for path in product_files() {
        let Some(inside) = path.strip_prefix("proxy/src/") else {
            continue;
        };
        let module = inside.split(['/', '.']).next().unwrap();
        let Some(layer) = layers.get(module) else {
            continue;
        };
        for rest in code(&path).split("crate::").skip(1) {
            let used: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if used != module && layers.get(&used).is_some_and(|other| other >= layer) {
                found.insert(format!("{module} -> {used}"));
            }
        }
    }
    let settings = "the type of a setting; no more of the configuration";
    let allowed = [
        ("admin -> api", "its own wire types, which are pure"),
        ("app -> config", "builds the parts from it"),
        ("check -> app", "finds key and next hops as a start would"),
        ("check -> config", "looks at what it says"),
        ("health -> config", settings),
        ("listener -> session", "opens sessions; both are the one door in"),
        ("probe -> transaction", "log line and ids; the same way as mail"),
        ("replay -> config", settings),
        ("replay -> transaction", "log line, ids and the corridor; never a transaction"),
    ];
    judge(&found, &allowed, "a module uses those of lower layers only");
}

#[test]
fn neither_leaf_package_uses_the_rest() {
    for path in product_files() {
        let leaf = path.starts_with("proxy/smtp/src/") || path.starts_with("proxy/disk/src/");
        let code = if leaf { code(&path) } else { continue };
        for foreign in ["tokio", "proxy::", "control::", "tracing"] {
            assert!(!code.contains(foreign), "{path} uses {foreign}");
        }
    }
}
