//! What the parts of a message cost by themselves: `cargo bench -p bench`.
//!
//! parse, scan of mail data, seal (AES-256-GCM over a frame, the floor of what a held message costs),
//! group commit on the disk below the build folder.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot go on must stop")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use disk::RealDisk;
use proxy::id::Ids;
use proxy::spool::{Arrival, Config, Lane, Spool, seal};
use smtp::{
    Command, DataScanner, END_OF_DATA, Envelope, Extensions, ReplyLimits, Step, parse_reply,
};

const MESSAGE: usize = 10 * 1024;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let offered = Extensions::none();
    for (name, line) in [
        ("mail", &b"MAIL FROM:<sender@example.com>"[..]),
        ("rcpt", b"RCPT TO:<recipient@example.com>"),
        ("data", b"DATA"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Command::parse(black_box(line), &offered));
        });
    }
    let limits = ReplyLimits::default();
    group.bench_function("reply", |bencher| {
        bencher.iter(|| parse_reply(black_box(b"250 2.1.5 recipient ok\r\n"), &limits));
    });
    group.finish();
}

fn text(octets: usize) -> Vec<u8> {
    let mut text = ("x".repeat(76) + "\r\n").repeat(octets / 78 + 1).into_bytes();
    text.truncate(octets);
    text
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for octets in [MESSAGE, 1 << 20] {
        let mut wire = text(octets / 78 * 78);
        wire.extend_from_slice(END_OF_DATA);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(format!("{octets}"), |bencher| {
            bencher.iter(|| DataScanner::new().scan(black_box(&wire)));
        });
    }
    group.finish();
}

fn seal_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    group.throughput(Throughput::Bytes(MESSAGE as u64));
    group.bench_function("aes-256-gcm/10240", |bencher| {
        bencher.iter_batched_ref(
            || text(MESSAGE),
            |frame| {
                let nonce = Nonce::assume_unique_for_key([1; 12]);
                key.seal_in_place_append_tag(nonce, Aad::from(b"frame"), frame).unwrap();
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// The envelope of one recipient, made by the same parser as on the wire.
fn envelope() -> Envelope {
    let offered = Extensions::none();
    let mut server = smtp::Server::new();
    let mut parsed = |line: &[u8]| {
        let command = Command::parse(line, &offered).unwrap();
        assert!(!matches!(server.step(&command), Step::Reply(_)), "{line:?}");
        command
    };
    parsed(b"EHLO bench.test");
    let Command::Mail(sender) = parsed(b"MAIL FROM:<sender@example.com>") else { unreachable!() };
    let Command::Rcpt(recipient) = parsed(b"RCPT TO:<recipient@example.com>") else {
        unreachable!()
    };
    Envelope::new(sender, recipient)
}

fn group_commit(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = folder.path().join("key");
    let key = seal::generate(&key).unwrap();
    let gate: Arc<str> = "outbound".into();
    let disk = Arc::new(RealDisk::new(folder.path().to_owned()));
    let (spool, _) =
        Spool::open(disk, &Config::default(), key, std::slice::from_ref(&gate)).unwrap();
    let ids = Ids::new(None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mail, envelope) = (text(MESSAGE), envelope());
    let arrival = Arrival {
        held_at_unix_ms: 1,
        client: SocketAddr::from(([127, 0, 0, 1], 25)),
        client_name: "bench.test".to_owned(),
        protocol: "ESMTP".to_owned(),
        tls: false,
    };
    let hold = async || {
        let reservation = spool.reserve(MESSAGE as u64 * 2).unwrap();
        let id = ids.next(1);
        let mut writer = spool
            .begin(reservation, id, &gate, Lane::Mail, envelope.clone(), arrival.clone())
            .unwrap();
        writer.write(&mail).await.unwrap();
        writer.commit(None).await.unwrap()
    };
    let mut group = criterion.benchmark_group("group commit");
    group.sample_size(20);
    for together in [1, 10, 100] {
        group.throughput(Throughput::Elements(together));
        group.bench_function(format!("{together} of 10240"), |bencher| {
            bencher.iter(|| {
                let all = (0..together).map(|_| hold());
                runtime.block_on(futures_util::future::join_all(all))
            });
        });
    }
    group.finish();
    spool.close();
}

criterion_group!(benches, parse, scan, seal_frame, group_commit);
criterion_main!(benches);
