//! Probes with a message of their own: sent while the gate holds, and told by what they came back as.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story fails by panicking")]

use std::net::SocketAddr;

use control::client::{Client as Api, ClientError, DEADLINE, PROBE_DEADLINE, fill, with_query};
use control::demo::server::{Options, Route, Server};
use control::probes::{self, Seen, SeenAnswer, Wanted};
use proxy::api::{Octets, ProbeAnswer, ProbeCopy, ProbeRequest, ProbeResult, path};
use tests::client::Client;
use tests::encrypting::Encrypting;
use tests::lockgate::{Gate, Lockgate, Member, Settings};
use tests::mail::{self, Mail};
use tests::sink::Sink;
use tests::wait::{self, LONG};
use tokio::runtime::Runtime;

/// A message by which a policy decides.
const GIVEN: &str = "From: lockgate@example.test\r\nTo: partner@x.test\r\nSubject: [secure] probe\r\n\
    X-Sensitivity: high\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n.hidden dot\r\nend\r\n";

/// lockgate before a server whose mail comes back through `back`.
struct Stage {
    mta: Sink,
    lockgate: Lockgate,
    runtime: Runtime,
}

impl Stage {
    fn back(mta: &Sink) -> Gate {
        Gate::new("back").member(Member::new("mta", mta.address())).set("returns", "\"outbound\"")
    }

    fn new(mta: Sink, back: Gate, server: SocketAddr) -> Self {
        let lockgate = Settings::with([Gate::to("outbound", server), back]).start();
        Self { mta, lockgate, runtime: Runtime::new().unwrap() }
    }

    fn api(&self) -> Api {
        Api::new(self.lockgate.data().join("lockgate.sock"))
    }

    fn probe(&self, message: &[u8]) -> Result<ProbeAnswer, ClientError> {
        let request = ProbeRequest {
            to: "partner@x.test".into(),
            from: Some("lockgate@example.test".into()),
            member: None,
            message: Some(Octets(message.to_vec())),
        };
        let target = fill(path::PROBE, "gate", "outbound");
        self.runtime.block_on(self.api().post(&target, &request, PROBE_DEADLINE))
    }

    /// Sends the message of the story; the result, and where the journal stood.
    fn accepted(&self) -> (ProbeResult, String) {
        let answer = self.probe(GIVEN.as_bytes()).unwrap();
        let result = answer.members[0].clone();
        assert!(result.accepted, "{result:?}");
        (result, answer.cursor)
    }

    fn seen(&self, wanted: &Wanted) -> SeenAnswer {
        self.runtime.block_on(probes::seen(&self.api(), wanted)).unwrap()
    }

    /// The one message that came back with this token, once it has.
    #[track_caller]
    fn one(&self, token: &str, after: Option<&str>) -> Seen {
        let wanted = Wanted {
            token: Some(token.to_owned()),
            after: after.map(str::to_owned),
            ..Wanted::default()
        };
        wait::until("the probe is seen", LONG, || {
            let mut answer = self.seen(&wanted);
            assert!(answer.seen.len() <= 1, "{answer:#?}");
            answer.seen.pop()
        })
    }

    fn copies(&self, token: &str) -> Vec<ProbeCopy> {
        let query = serde_json::json!({ "token": token });
        let target = with_query(path::PROBE_COPIES, &query).unwrap();
        self.runtime.block_on(self.api().get(&target, DEADLINE)).unwrap()
    }
}

/// Goal: while a gate holds, a message of a certain form can be sent through the server, and it is told what came out.
/// Method: a real server that encrypts; what the MTA got is compared with what is told.
#[test]
fn through_a_gate_that_holds_a_message_comes_out_encrypted_and_is_told_as_that() {
    let mta = Sink::start("mta.test");
    let back = Stage::back(&mta);
    let server = Encrypting::relaying("keys.test", back.listen());
    let stage = Stage::new(mta, back, server.address());
    stage.lockgate.hold("outbound");
    let (result, cursor) = stage.accepted();
    let token = result.token.unwrap();
    let seen = stage.one(&token, Some(&cursor));

    assert!(seen.known && !seen.header_only, "{seen:#?}");
    assert_eq!((seen.gate.as_str(), seen.outcome.as_str()), ("back", "relayed"));
    assert_eq!(seen.to, ["<partner@x.test>"]);
    assert_eq!(seen.message_id.as_deref(), Some(result.message_id.as_str()));
    assert_eq!(seen.claimed.as_deref(), Some("pgp-mime-encrypted"));
    assert!(!seen.header.processed, "this server has no such mark");
    let found = seen.found.unwrap();
    assert_eq!((found.form.as_str(), found.encrypted.as_str()), ("pgp-mime-encrypted", "all"));
    assert_eq!((found.protection.as_str(), found.confidential), ("encrypted", true));

    let got = stage.mta.one("partner@x.test");
    assert_eq!(mail::field(&got.data, "X-Sensitivity").as_deref(), Some("high"));
    let inner = server.decrypted(&got.data);
    assert_eq!(mail::body(&inner), b".hidden dot\r\nend\r\n", "nothing of it was changed");
    let copy = &stage.copies(&token)[0];
    assert_eq!(copy.message.0, tests::lax::unstuffed(got.data_without_trace()));
    assert_eq!(stage.lockgate.mode("outbound"), "hold");
}

/// Goal: a server that lets mail through in clear is told as that; only what came of a probe is kept, and not for ever.
/// Method: the stand-in marks mail and sends it on as it came (as in Learn Mode); then mail that forges a token.
#[test]
fn what_comes_out_in_clear_is_told_as_clear_and_a_forged_token_is_not_kept() {
    let mta = Sink::start("mta.test");
    let back = Stage::back(&mta);
    let runtime = Runtime::new().unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let options =
        Options::new("sems1.test", "3.4.2", vec![Route { listen, next_hop: back.listen() }]);
    let server = runtime.block_on(Server::start(options)).unwrap();
    let mut stage = Stage::new(mta, back, server.addresses()[0]);
    let (result, _) = stage.accepted();
    let token = result.token.unwrap();
    let seen = stage.one(&token, None);
    assert!(seen.known && seen.header.processed, "{seen:#?}");
    assert_eq!(seen.claimed, None);
    let found = seen.found.unwrap();
    assert_eq!((found.form.as_str(), found.protection.as_str()), ("clear", "clear"));
    assert!(!found.confidential);
    assert_eq!(found.processed_by, ["sems1.test"]);

    let (id, _) = token.split_once('-').unwrap();
    let forged = format!("{id}-0000000000000000");
    let mut mail = Mail::short("forged", 1).to(&["<partner@x.test>"]);
    mail.data.splice(0..0, format!("X-Lockgate-Probe: {forged}\r\n").into_bytes());
    Client::open(stage.lockgate.gate("back")).deliver(&mail);
    let stranger = stage.one(&forged, None);
    assert!(!stranger.known && stranger.header_only && stranger.found.is_none(), "{stranger:#?}");
    assert!(stage.copies(&forged).is_empty());
    assert_eq!(stage.copies(&token).len(), 1);

    stage.lockgate.restart();
    let after = stage.one(&token, None);
    assert!(after.known && after.header_only && after.header.processed, "{after:#?}");
    assert_eq!(stage.seen(&Wanted::default()).seen.len(), 2, "without a token: each");
}

/// Everything is to be encrypted, and what has no key is not sent.
const STRICT: &str = r#"
[globals]
learn_mode = false
unmanaged_domains = "bounce"
managed_domains = ["example.test"]

[[chain]]
name = "Default"

[[chain.rule]]
name = "Secure"
conditions = [ { subject = "message subject", contains = "[secure]" } ]
actions = [ { action = "send (encrypted/signed)", sign = false, key_not_found = "bounce" } ]

[[chain.rule]]
name = "Rest"
actions = [ { action = "send (encrypted/signed)", sign = false, key_not_found = "bounce" } ]

[[chain]]
name = "Exception"

[[chain.rule]]
name = "Bounce"
actions = [ { action = "bounce" } ]
"#;

impl Stage {
    /// Sends a probe for every rule of the policy by the command line: its exit code, and the record.
    fn probe_policy(&self, name: &str) -> (i32, String) {
        let folder = self.lockgate.data();
        let (policy, record) = (folder.join("strict.toml"), folder.join(name));
        std::fs::write(&policy, STRICT).unwrap();
        let (policy, record) = (policy.to_str().unwrap(), record.to_str().unwrap());
        let answer = self.lockgate.cli(&[
            "policy",
            "probe",
            "send",
            policy,
            "--gate",
            "outbound",
            "--to",
            "partner@x.test",
            "--from",
            "lockgate@example.test",
            "--record",
            record,
            "--wait",
            "60s",
        ]);
        (answer.code, record.to_owned())
    }
}

/// Goal: a server that protects mail before and not after the upgrade is found out by the same probes.
/// Method: the command line through a real server that encrypts, then through the stand-in that does not.
#[test]
fn probes_of_a_policy_are_good_before_and_a_leak_where_the_new_server_sends_in_clear() {
    let mta = Sink::start("mta.test");
    let back = Stage::back(&mta);
    let server = Encrypting::relaying("keys.test", back.listen());
    let before = Stage::new(mta, back, server.address());
    before.lockgate.hold("outbound");
    let (code, good) = before.probe_policy("before.json");
    assert_eq!(code, 0, "{}", std::fs::read_to_string(&good).unwrap());

    let mta = Sink::start("mta.test");
    let back = Stage::back(&mta);
    let runtime = Runtime::new().unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let options =
        Options::new("sems1.test", "10.5", vec![Route { listen, next_hop: back.listen() }]);
    let clear = runtime.block_on(Server::start(options)).unwrap();
    let after = Stage::new(mta, back, clear.addresses()[0]);
    let (code, leaky) = after.probe_policy("after.json");
    assert_eq!(code, 2, "{}", std::fs::read_to_string(&leaky).unwrap());

    let compare =
        |one: &str, two: &str| before.lockgate.cli(&["policy", "probe", "compare", one, two]);
    let same = compare(&good, &good);
    assert_eq!(same.code, 0, "{}", same.out);
    let found = compare(&good, &leaky);
    assert_eq!(found.code, 2);
    assert!(found.out.contains("LEAK") && found.out.contains("Default / Secure"), "{}", found.out);

    // What the mailbox got says the same, handed in as a file.
    let got = after.mta.taken().remove(0);
    let file = after.lockgate.data().join("got.eml");
    std::fs::write(&file, got.data_without_trace()).unwrap();
    let answer = after.lockgate.cli(&[
        "policy",
        "probe",
        "collect",
        "--record",
        &leaky,
        file.to_str().unwrap(),
    ]);
    assert_eq!(answer.code, 2, "{}", answer.out);
}

#[test]
fn a_message_that_could_smuggle_or_forge_is_refused_and_nothing_is_sent() {
    let sink = Sink::start("sink.test");
    let stage =
        Stage { lockgate: Lockgate::before(&sink), mta: sink, runtime: Runtime::new().unwrap() };
    for (message, what) in [
        ("Subject: x\r\n\r\nbody\n.\nRSET\n", "line 3: every line ends with CRLF"),
        ("Subject: x\r\n\r\na\rb\r\n", "line 3: every line ends with CRLF"),
        ("X-Lockgate-Probe: mine\r\n\r\n", "line 1: X-Lockgate-Probe is written by lockgate"),
        (" folded\r\n\r\n", "line 1: not a header field"),
    ] {
        match stage.probe(message.as_bytes()) {
            Err(ClientError::Refused { status, error }) => {
                assert_eq!(status, 400);
                assert!(error.contains(what), "{error}");
            }
            other => panic!("{message:?}: {other:?}"),
        }
    }
    assert_eq!(stage.mta.dots(), 0);
    assert!(stage.seen(&Wanted::default()).seen.is_empty());
}
