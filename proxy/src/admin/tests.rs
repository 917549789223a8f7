//! The admin socket over a real Unix socket, with real gates, spool and replayer on a disk in memory.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use disk::{Disk, FaultyDisk};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::api;
use crate::config::{Bounce, OnUnreachable, Settle};
use crate::gate::{Effect, Errand, Holder, HolderKind, Mode, OrderBook, Plan};
use crate::health::Health;
use crate::id::{Ids, TransactionId};
use crate::metrics::RelayCounts;
use crate::relay::{self, HostPort, Memory, NextHop, Relay, Tls, Trust};
use crate::replay::Settings;
use crate::spool::{self, Arrival, Key, Lane, SpoolId};
use crate::token::Tokens;

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct House {
    admin: Option<Admin>,
    desk: Desk,
    disk: FaultyDisk,
    ids: Arc<Ids>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {} {}", self.head, String::from_utf8_lossy(&self.body))
        })
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Gates `outbound`, `inbound` and `back` (the return gate of `outbound`); nobody answers behind.
async fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    shared.make_dir("spool".as_ref()).unwrap();
    OrderBook::create(&*shared).unwrap();
    let names: Vec<spool::GateName> = ["outbound", "inbound", "back"].map(Arc::from).into();
    let config = spool::Config { free_bytes_min: 1 << 20, ..spool::Config::default() };
    let key = Key::from_bytes([7; 32]);
    let journal = Journal::open(Arc::clone(&shared), &crate::journal::Config::default(), "", 0);
    let (spool, _) = Spool::open(Arc::clone(&shared), &config, key, &names).unwrap();
    let book = OrderBook::load(Arc::clone(&shared), &[], 1).unwrap();
    let plans = names
        .iter()
        .map(|name| Plan {
            name: Arc::clone(name),
            returns: (**name == *"back").then(|| Arc::from("outbound")),
            members: vec!["sems1".to_owned()],
        })
        .collect();
    let gates = Gates::new(plans, book, folder.path().join("hold"));
    let (memory, _) = Memory::load(shared).unwrap();
    let memory = Arc::new(memory);
    let ids = Arc::new(Ids::new(None));
    let metrics = Metrics::new();
    let tokens = Arc::new(Tokens::default());
    let doors = gates
        .all()
        .map(|gate| {
            let counts = metrics.of_gate(gate.name());
            let next_hop = NextHop {
                key: format!("{}/sems1", gate.name()),
                member: "sems1".to_owned(),
                address: HostPort::new("127.0.0.1", 9),
                source: None,
                helo: smtp::ClientName::new("mx.example").unwrap(),
                tls: Tls::none(),
            };
            let relay = Arc::new(Relay::new(
                relay::Config::default(),
                vec![next_hop],
                Arc::clone(&memory),
                Trust::Learned { outage_max: None },
                Box::new(RelayCounts(Arc::clone(&counts))),
            ));
            let health = Arc::new(Health::new(
                Arc::clone(&gates),
                gate.clone(),
                Arc::clone(&relay),
                spool.clone(),
                Arc::clone(&ids),
                crate::health::Settings {
                    on_unreachable: OnUnreachable::Refuse,
                    outage_max: Duration::from_secs(600),
                    fence: Duration::from_secs(60),
                },
            ));
            let corridor = Arc::new(Corridor {
                gate,
                relay,
                spool: spool.clone(),
                journal: journal.clone(),
                ids: Arc::clone(&ids),
                health,
                metrics: Arc::clone(&counts),
                host: Arc::from("mx.example"),
                trace: true,
                recipient_domains: Vec::new(),
                repeats: None,
                tokens: Arc::clone(&tokens),
            });
            let settings = Settings {
                config: crate::replay::Config::default(),
                bounce: Bounce::Keep,
                settle: Settle::Ask,
                settle_after: Duration::from_secs(900),
            };
            let replayer = Replayer::new(Arc::clone(&corridor), Arc::clone(&gates), settings, None);
            Door {
                corridor,
                replayer,
                listen: SocketAddr::from(([127, 0, 0, 1], 2525)),
                metrics: counts,
                fence: Duration::ZERO,
            }
        })
        .collect();
    let socket = folder.path().join("proxy.sock");
    let admin = Admin::start(Parts {
        gates,
        doors,
        spool,
        journal,
        tokens,
        metrics,
        started_unix_ms: 0,
        host: Arc::from("mx.example"),
        data: PathBuf::from("/data"),
        socket: socket.clone(),
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        more: None,
    })
    .await
    .unwrap();
    let desk = admin.desk.clone();
    House { admin: Some(admin), desk, disk, ids, socket, _folder: folder }
}

impl House {
    /// One request in HTTP/1.0: the answer ends where the connection does.
    async fn ask(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, method, target, body).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, b"").await
    }

    async fn post(&self, target: &str, body: &Value) -> Answer {
        self.ask("POST", target, body.to_string().as_bytes()).await
    }

    async fn hold(&self, gate: Option<&str>) -> Answer {
        let order = json!({
            "gate": gate, "member": null, "effect": "hold", "holder": ada(), "reason": "upgrade"
        });
        self.post("/v1/orders", &order).await
    }

    async fn page(&self, target: &str) -> Answer {
        let address = self.admin.as_ref().unwrap().metrics_address().unwrap();
        exchange(TcpStream::connect(address).await.unwrap(), "GET", target, b"").await
    }

    /// A held message of a gate.
    async fn held(&self, gate: &str, from: &str, to: &str, wire: &[u8]) -> SpoolId {
        let parts = &self.desk.parts;
        let gate = parts.gates.named(gate).unwrap();
        let envelope = format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n");
        let envelope = smtp::Envelope::decode(envelope.as_bytes()).unwrap();
        let arrival = Arrival {
            held_at_unix_ms: 1_700_000_000_000,
            client: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            client_name: "mta.example".into(),
            protocol: "ESMTP".into(),
            tls: false,
        };
        let reservation = parts.spool.reserve(wire.len() as u64).unwrap();
        let id = self.ids.next(1_700_000_000_000_000);
        let name = &gate.plan().name;
        let mut writer =
            parts.spool.begin(reservation, id, name, Lane::Mail, envelope, arrival).unwrap();
        writer.write(wire).await.unwrap();
        writer.commit(Some(&format!("<{from}-{to}>"))).await.unwrap()
    }

    async fn stop(mut self) {
        let admin = self.admin.take().unwrap();
        timeout(PATIENCE, admin.stop()).await.unwrap();
    }
}

async fn exchange<S>(mut stream: S, method: &str, target: &str, body: &[u8]) -> Answer
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let head = format!("{method} {target} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    let talk = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that answers before it has read everything may close early.
        stream.write_all(body).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(PATIENCE, talk).await.unwrap();
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

fn ada() -> Value {
    json!({"kind": "operator", "name": "ada"})
}

fn ids(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_house_where_all_is_well_is_ready_and_raises_no_alarm() {
    let house = house().await;
    let status: api::Status = serde_json::from_value(house.get("/v1/status").await.json()).unwrap();
    assert!(status.ready);
    assert_eq!(status.alarms, Vec::<String>::new());
    assert_eq!(status.spool.directory, "/data/spool");
    let gates: Vec<_> = status.gates.iter().map(|gate| gate.gate.as_str()).collect();
    assert_eq!(gates, ["outbound", "inbound", "back"]);
    assert_eq!(status.gates[2].returns.as_deref(), Some("outbound"));
    assert_eq!(status.gates[0].members[0].health, api::MemberHealth::Unknown);
    house.stop().await;
}

#[tokio::test]
async fn a_hold_of_all_gates_leaves_the_return_gate_open() {
    let house = house().await;
    let placed = house.hold(None).await;
    assert_eq!(placed.status, 200, "{}", placed.head);
    let placed: api::OrderPlaced = serde_json::from_value(placed.json()).unwrap();
    assert_eq!(placed.orders.len(), 2);
    assert_eq!(placed.epochs.len(), 2);
    let modes: Vec<Mode> = house.desk.parts.gates.all().map(|gate| gate.mode_shown()).collect();
    assert_eq!(modes, [Mode::Hold, Mode::Hold, Mode::Pass]);
    // What was answered is on disk.
    let after = house.disk.after_crash(disk::Crash::Lost);
    let book = OrderBook::load(Arc::new(after), &[], 1).unwrap();
    assert_eq!(book.orders().len(), 2);
    house.stop().await;
}

#[tokio::test]
async fn an_order_ends_by_its_holder_or_by_force_with_a_reason() {
    let house = house().await;
    let id = house.hold(Some("outbound")).await.json()["orders"][0]["id"].as_u64().unwrap();
    let end = format!("/v1/orders/{id}/end");
    let bob = json!({"kind": "operator", "name": "bob"});
    assert_eq!(house.post(&end, &json!({"holder": bob})).await.status, 409);
    assert_eq!(house.post(&end, &json!({"holder": bob, "force": true})).await.status, 400);
    let health = json!({"kind": "health", "name": "outage"});
    assert_eq!(house.post(&end, &json!({"holder": health})).await.status, 400);
    let ended = house.post(&end, &json!({"holder": ada()})).await;
    assert_eq!(ended.status, 200);
    assert_eq!(ended.json()["mode"], "pass");
    assert_eq!(house.post(&end, &json!({"holder": ada()})).await.status, 404);
    assert_eq!(house.post("/v1/orders/x/end", &json!({"holder": ada()})).await.status, 400);
    house.stop().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_as_a_problem_with_its_status() {
    let house = house().await;
    assert_eq!(house.hold(Some("nowhere")).await.status, 404);
    let refuse = |gate: &str, reason: &str| json!({"gate": gate, "member": null, "effect": "refuse", "holder": ada(), "reason": reason});
    assert_eq!(house.post("/v1/orders", &refuse("back", "upgrade")).await.status, 400);
    assert_eq!(house.post("/v1/orders", &refuse("outbound", " ")).await.status, 400);
    for (method, target, body, status) in [
        ("POST", "/v1/orders", "{", 400),
        ("GET", "/v1/nothing", "", 404),
        ("DELETE", "/v1/orders", "", 405),
        ("GET", "/v1/gates/nowhere/quiet", "", 404),
        ("GET", "/v1/gates/outbound/quiet?timeout_s=-1", "", 400),
        ("GET", "/v1/held?state=lost", "", 400),
        ("GET", "/v1/held?gate=nowhere", "", 404),
        ("GET", "/v1/held/nonsense", "", 400),
        ("GET", "/v1/held/0000000000001", "", 404),
        ("GET", "/v1/held/0000000000001/raw", "", 404),
    ] {
        let answer = house.ask(method, target, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(answer.json()["error"].is_string(), "{method} {target}");
    }
    let large = vec![b' '; BODY_MAX + 1];
    assert_eq!(house.ask("POST", "/v1/orders", &large).await.status, 413);
    house.stop().await;
}

#[tokio::test]
async fn a_message_of_a_probe_is_judged_at_the_door() {
    let house = house().await;
    let probe = |message: &str| {
        let body = json!({"to": "b@example.com", "message": message});
        let house = &house;
        async move { house.post("/v1/gates/outbound/probe", &body).await }
    };
    let encoded = |text: &str| crate::base64::encode(text.as_bytes());
    for (message, what) in [
        (encoded("Subject: x\n\nbody\n"), "line 1: every line ends with CRLF"),
        (encoded("Subject: x\r\nMessage-ID: <a@b>\r\n\r\n"), "line 2: Message-ID is written by"),
        ("Subject: x".to_owned(), "not base64"),
        (encoded(&"x".repeat((1 << 20) + 1)), "at most 1048576"),
    ] {
        let answer = probe(&message).await;
        assert_eq!(answer.status, 400, "{}", answer.json());
        let error = answer.json()["error"].to_string();
        assert!(error.contains(what), "{error}");
    }
    // Nobody listens there: it was taken at the door, whatever its size.
    let largest = format!("\r\n{}", "x\r\n".repeat((1 << 20) / 3 - 1));
    for message in [encoded("Subject: x\r\n\r\nbody"), encoded(&largest)] {
        let answer = probe(&message).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        let member = &answer.json()["members"][0];
        assert_eq!(member["accepted"], false);
        assert!(member["token"].as_str().unwrap().len() == 30, "{member}");
    }
    house.stop().await;
}

#[tokio::test]
async fn a_hold_that_the_disk_refuses_is_told_and_in_force_all_the_same() {
    let house = house().await;
    let gate = house.desk.parts.gates.named("outbound").unwrap();
    house.disk.fail_at(house.disk.operations(), io::ErrorKind::StorageFull);
    assert_eq!(house.hold(Some("outbound")).await.status, 503);
    assert_eq!(gate.mode_shown(), Mode::Hold);
    house.stop().await;
}

#[tokio::test]
async fn the_fence_aborts_what_is_older_and_the_wait_tells_who_is_left() {
    let house = house().await;
    let gate = house.desk.parts.gates.named("outbound").unwrap();
    let before_dot = gate.enter(TransactionId::from_u64(1), |_| true);
    let after_dot = gate.enter(TransactionId::from_u64(2), |_| true);
    after_dot.pass_final_dot().unwrap();
    let epoch = house.hold(Some("outbound")).await.json()["epochs"][0]["epoch"].as_u64().unwrap();
    timeout(PATIENCE, before_dot.fence().down()).await.unwrap();
    drop(before_dot);
    let quiet = format!("/v1/gates/outbound/quiet?epoch={epoch}");
    let answer = house.get(&quiet).await.json();
    assert_eq!(answer["quiet"], false);
    assert_eq!(answer["alive"].as_array().unwrap().len(), 1);
    assert_eq!(answer["alive"][0]["what"], "pass");
    assert_eq!(answer["alive"][0]["after_final_dot"], true);
    let waiting = format!("{quiet}&timeout_s=20");
    let (answer, ()) = tokio::join!(house.get(&waiting), async { drop(after_dot) });
    assert_eq!(answer.json()["quiet"], true);
    house.stop().await;
}

#[tokio::test]
async fn waits_and_lists_leave_room_for_an_order() {
    let house = house().await;
    let gate = house.desk.parts.gates.named("outbound").unwrap();
    let permit = gate.enter_for(TransactionId::from_u64(1), Errand::Probe, None, |_| true).unwrap();
    let epoch = gate.epoch().0 + 1;
    let wait = format!("/v1/gates/outbound/quiet?epoch={epoch}&timeout_s=60");
    let waits = futures_util::future::join_all((0..LONG_MAX).map(|_| house.get(&wait)));
    let others = async {
        let full = async {
            while house.desk.shared.long.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, full).await.unwrap();
        let refused = house.get("/v1/held").await.status;
        let placed = house.hold(Some("inbound")).await.status;
        drop(permit);
        (refused, placed)
    };
    let (answers, (refused, placed)) = tokio::join!(waits, others);
    assert_eq!((refused, placed), (503, 200));
    assert!(answers.iter().all(|answer| answer.json()["quiet"] == true));
    assert_eq!(house.get("/v1/held").await.status, 200);
    house.stop().await;
}

#[tokio::test]
async fn held_mail_is_listed_in_order_of_arrival_and_narrowed_by_every_filter() {
    let house = house().await;
    let mut all = Vec::new();
    // More than one page.
    for number in 0..PAGE_AND_MORE {
        let gate = if number % 2 == 0 { "outbound" } else { "inbound" };
        let from = format!("sender{number}@a.test");
        all.push(house.held(gate, &from, "Rcpt@B.test", b"Subject: x\r\n\r\nbody\r\n").await);
    }
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    let list = house.get("/v1/held").await;
    assert!(list.head.to_lowercase().contains("content-type: application/jsonl"), "{}", list.head);
    assert_eq!(ids(&list.lines()), texts);
    let first: api::Held = serde_json::from_value(list.lines()[0].clone()).unwrap();
    assert_eq!((first.gate.as_str(), first.state), ("outbound", api::HeldState::Held));
    assert_eq!(first.reverse_path, "sender0@a.test");
    assert_eq!(first.forward_paths[0].address, "Rcpt@B.test");
    assert_eq!(first.message_id.as_deref(), Some("<sender0@a.test-Rcpt@B.test>"));
    assert_eq!(first.held_at, "2023-11-14T22:13:20.000Z");
    for (query, expected) in [
        ("gate=inbound&limit=2", vec![1, 3]),
        ("sender=SENDER17%40", vec![17]),
        ("recipient=rcpt%40b&limit=3", vec![0, 1, 2]),
        ("recipient=nobody", vec![]),
        ("message_id=sender5%40", vec![5]),
        ("state=refused", vec![]),
        ("older_than_s=4000000000", vec![]),
        ("older_than_s=60&limit=1", vec![0]),
        ("limit=0", vec![]),
    ] {
        let expected: Vec<String> =
            expected.into_iter().map(|place: usize| texts[place].clone()).collect();
        let list = house.get(&format!("/v1/held?{query}")).await;
        assert_eq!(ids(&list.lines()), expected, "{query}");
    }
    let one = house.get(&format!("/v1/held/{}", texts[3])).await.json();
    assert_eq!(one["reverse_path"], "sender3@a.test");
    let status: api::Status = serde_json::from_value(house.get("/v1/status").await.json()).unwrap();
    assert_eq!(status.spool.messages, PAGE_AND_MORE as u64);
    assert_eq!(status.gates[0].held.held, PAGE_AND_MORE.div_ceil(2) as u64);
    house.stop().await;
}

/// Messages of a list that does not fit a page.
const PAGE_AND_MORE: usize = 70;

#[tokio::test]
async fn raw_mail_data_comes_with_its_dots_unstuffed() {
    let house = house().await;
    // Larger than a frame of the spool, with dots all over.
    let wire = b"Subject: x\r\n\r\n..dot\r\n...\r\nplain\r\n".repeat(6_000);
    let id = house.held("outbound", "", "b@b.test", &wire).await;
    let raw = house.get(&format!("/v1/held/{id}/raw")).await;
    assert!(raw.head.to_lowercase().contains("content-type: message/rfc822"), "{}", raw.head);
    assert!(raw.body == b"Subject: x\r\n\r\n.dot\r\n..\r\nplain\r\n".repeat(6_000));
    house.stop().await;
}

#[tokio::test]
async fn mail_is_removed_only_with_a_reason_and_what_is_gone_is_skipped() {
    let house = house().await;
    let first = house.held("outbound", "a@a.test", "b@b.test", b"x\r\n").await.to_string();
    let second = house.held("inbound", "a@a.test", "b@b.test", b"x\r\n").await.to_string();
    let removal = |ids: &[&str], filter: Value, reason: &str| json!({"ids": ids, "filter": filter, "change": "remove", "holder": ada(), "reason": reason});
    let change = "/v1/held/change";
    assert_eq!(house.post(change, &removal(&[&first], Value::Null, "")).await.status, 400);
    assert_eq!(house.post(change, &removal(&[], Value::Null, "spam")).await.status, 400);
    let answer = house.post(change, &removal(&[&first, "nonsense"], Value::Null, "spam")).await;
    assert_eq!(answer.json()["changed"], 1);
    assert_eq!(answer.json()["skipped"][0]["id"], "nonsense");
    let filter = json!({"gate": "inbound", "sender": "A@A"});
    let answer = house.post(change, &removal(&[], filter, "spam")).await.json();
    assert_eq!((answer["changed"].as_u64(), house.desk.parts.held().messages), (Some(1), 0));
    let answer = house.post(change, &removal(&[&second], Value::Null, "spam")).await.json();
    assert_eq!(answer["changed"], 0);
    assert_eq!(answer["skipped"][0]["id"], second.as_str());
    house.stop().await;
}

#[tokio::test]
async fn a_spool_without_room_is_the_first_alarm_and_mail_still_passes() {
    let house = house().await;
    house.disk.set_free_bytes(1 << 19);
    let seen = async {
        // The spool believes an answer of the disk for a moment.
        loop {
            let status = house.get("/v1/status").await.json();
            if status["spool"]["promising"] == false {
                return status;
            }
        }
    };
    let status = timeout(PATIENCE, seen).await.unwrap();
    let first = status["alarms"][0].as_str().unwrap();
    assert!(first.contains("takes no more mail"), "{first}");
    assert_eq!(house.page("/readyz").await.status, 200);
    house.stop().await;
}

#[tokio::test]
async fn the_metrics_page_shows_gates_and_spool_and_no_address() {
    let house = house().await;
    house.held("outbound", "secret@a.test", "b@b.test", b"x\r\n").await;
    house.hold(Some("outbound")).await;
    let page = house.page("/metrics").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("application/openmetrics-text; version=1.0.0"), "{}", page.head);
    let text = String::from_utf8(page.body).unwrap();
    for line in [
        "lockgate_held_messages{gate=\"outbound\",state=\"held\"} 1",
        "lockgate_held_messages{gate=\"inbound\",state=\"held\"} 0",
        "lockgate_held_bytes{gate=\"outbound\"} 3",
        "lockgate_gate_mode{gate=\"outbound\",mode=\"hold\"} 1",
        "lockgate_gate_mode{gate=\"outbound\",mode=\"pass\"} 0",
        "lockgate_gate_mode{gate=\"back\",mode=\"pass\"} 1",
        "lockgate_orders{gate=\"outbound\"} 1",
        "lockgate_replay_remaining_messages{gate=\"outbound\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    for name in
        ["lockgate_held_oldest_age_seconds", "lockgate_replay_rate", "lockgate_spool_free_bytes"]
    {
        assert!(text.contains(name), "{name} is missing");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains('@'), "an address stands in\n{text}");
    assert_eq!(house.page("/healthz").await.status, 200);
    assert_eq!(house.page("/readyz").await.status, 200);
    house.admin.as_ref().unwrap().closing();
    assert_eq!(house.page("/readyz").await.status, 503);
    assert_eq!(house.page("/healthz").await.status, 200);
    house.stop().await;
}

#[tokio::test]
async fn a_release_of_nothing_opens_the_gate_and_another_holder_keeps_it() {
    let house = house().await;
    house.hold(Some("outbound")).await;
    let runbook = json!({"kind": "runbook", "name": "7"});
    let second = json!({
        "gate": "outbound", "member": null, "effect": "hold", "holder": runbook, "reason": "drain"
    });
    house.post("/v1/orders", &second).await;
    let release = "/v1/gates/outbound/release";
    let answer = house.post(release, &json!({"holder": ada()})).await.json();
    assert_eq!(answer["released"], false);
    assert_eq!(answer["still_held_by"][0]["holder"]["name"], "7");
    let answer = house.post(release, &json!({"holder": runbook})).await.json();
    assert_eq!(answer["released"], true);
    let gate = house.desk.parts.gates.named("outbound").unwrap();
    assert_eq!(gate.mode_shown(), Mode::Pass);
    let unknown = json!({"holder": ada(), "only": ["0000000000001"]});
    assert_eq!(house.post(release, &unknown).await.status, 404);
    house.stop().await;
}

#[tokio::test]
async fn replay_pauses_goes_on_and_changes_its_pace() {
    let house = house().await;
    let replay = "/v1/gates/outbound/replay";
    let pause = json!({"action": "pause", "holder": ada(), "reason": "look"});
    assert_eq!(house.post(replay, &pause).await.status, 200);
    assert_eq!(house.get("/v1/orders").await.json()[0]["effect"], "pause_replay");
    let proceed = json!({"action": "continue", "holder": ada()});
    assert_eq!(house.post(replay, &proceed).await.status, 200);
    assert_eq!(house.get("/v1/orders").await.json(), json!([]));
    let rate = json!({"action": "rate", "connections": 3, "messages_per_second": null});
    assert_eq!(house.post(replay, &rate).await.json()["connections_max"], 3);
    let standstill = json!({"action": "rate", "connections": null, "messages_per_second": 0.0});
    assert_eq!(house.post(replay, &standstill).await.status, 400);
    house.stop().await;
}

#[tokio::test]
async fn a_stop_ends_waits_at_once_and_frees_the_socket() {
    let house = house().await;
    let gate = house.desk.parts.gates.named("outbound").unwrap();
    let permit = gate.enter_for(TransactionId::from_u64(1), Errand::Probe, None, |_| true).unwrap();
    let socket = house.socket.clone();
    let target = format!("/v1/gates/outbound/quiet?epoch={}&timeout_s=3000", gate.epoch().0 + 1);
    let stream = UnixStream::connect(&socket).await.unwrap();
    let waiting = tokio::spawn(async move { exchange(stream, "GET", &target, b"").await });
    let long = Arc::clone(&house.desk.shared.long);
    let begun = async {
        while long.available_permits() == LONG_MAX {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, begun).await.unwrap();
    house.stop().await;
    assert_eq!(waiting.await.unwrap().json()["quiet"], false);
    drop(permit);
    assert!(UnixStream::connect(&socket).await.is_err());
}

#[tokio::test]
async fn a_cordon_for_a_changed_identity_is_an_alarm_and_ends_by_force_with_the_new_one_accepted() {
    let house = house().await;
    let relay = &house.desk.parts.door("outbound").unwrap().corridor.relay;
    let key = &relay.next_hop(0).key;
    let seen = |identity: &str| relay::Seen {
        extensions: smtp::Extensions::from_words(""),
        identity: identity.to_owned(),
        tls: None,
        at_unix_ms: 1,
    };
    relay.memory().saw(key, &seen("old.example"), None).unwrap();
    relay.memory().saw(key, &seen("new.example"), None).unwrap_err();
    let gates = Arc::clone(&house.desk.parts.gates);
    let gate = gates.named("outbound").unwrap();
    let cordon = Effect::Cordon { member: "sems1".into() };
    let health = Holder::new(HolderKind::Health, "identity");
    let placed = gates
        .place(std::slice::from_ref(&gate), &cordon, &health, "another server answered")
        .unwrap();
    let status = house.get("/v1/status").await.json();
    let alarm = status["alarms"][0].as_str().unwrap();
    assert!(alarm.contains("sems1") && alarm.contains("another server answered"), "{alarm}");
    assert_eq!(status["gates"][0]["members"][0]["cordoned"], true);
    assert_eq!(status["gates"][0]["mode"], "hold");
    let end = format!("/v1/orders/{}/end", placed[0].0.id);
    assert_eq!(house.post(&end, &json!({"holder": ada()})).await.status, 409);
    let mut forced = json!({"holder": ada(), "force": true, "reason": "it was replaced by hand"});
    assert_eq!(house.post(&end, &forced).await.status, 409, "nobody has probed it");
    forced["unchecked"] = json!(true);
    assert_eq!(house.post(&end, &forced).await.status, 200);
    assert_eq!(relay.known(0).identity.as_deref(), Some("new.example"));
    assert_eq!(gate.mode_shown(), Mode::Pass);
    house.stop().await;
}
