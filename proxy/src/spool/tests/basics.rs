//! What the spool does while nothing goes wrong, and what it refuses.

use super::*;

#[test]
fn what_is_held_is_read_back_octet_by_octet() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let lengths =
        [0, 1, 100, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 700_001];
    for (id, length) in (1..).zip(lengths) {
        let held = bench.hold(id, 2, &data(id, length)).unwrap();
        assert_eq!(held, spool_id(id));
    }
    for again in ["before", "after"] {
        for (id, length) in (1..).zip(lengths) {
            assert_eq!(read_all(&bench.spool, id).unwrap(), data(id, length), "{length} {again}");
            let message = bench.spool.load(&spool_id(id)).unwrap();
            assert_eq!(message.envelope, envelope(2));
            assert_eq!(message.arrival, arrival());
            assert_eq!(message.message_id.as_deref(), Some("<id@example.org>"));
            assert_eq!(message.gate, gate_of(id));
            assert_eq!(message.paths, [PathState::FRESH, PathState::FRESH]);
        }
        bench.close();
        bench = Bench::open(&disk);
        assert_eq!(bench.report.messages, 8);
        assert_eq!(bench.report.paths, 16);
        assert_eq!(bench.report.last_id, Some(TransactionId::from_u64(8)));
        assert!(bench.report.damaged.is_empty() && bench.report.set_aside.is_empty());
    }
}

#[test]
fn messages_that_wait_together_share_one_write_and_one_sync() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"first, which makes the segment\r\n").unwrap();
    let before = disk.operations();
    let mut commits: Vec<_> = (2..52)
        .map(|id| {
            let mut writer = bench.writer(id, 1).unwrap();
            poll(pin!(writer.write(b"data\r\n"))).unwrap().unwrap();
            Box::pin(writer.commit(None))
        })
        .collect();
    assert!(commits.iter_mut().all(|commit| poll(commit.as_mut()).is_none()));
    bench.drive();
    assert!(commits.iter_mut().all(|commit| poll(commit.as_mut()).unwrap().is_ok()));
    assert_eq!(disk.operations() - before, 2);
}

#[test]
fn nothing_is_kept_of_a_writer_that_is_dropped() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let mut small = bench.writer(1, 1).unwrap();
    bench.wait(small.write(b"x")).unwrap();
    drop(small);
    let mut large = bench.writer(2, 1).unwrap();
    bench.wait(large.write(&data(2, 200_000))).unwrap();
    bench.drive();
    drop(large);
    bench.drive();
    assert_eq!(bench.ids(), [0; 0]);
    bench.close();
    assert_eq!(files(&disk), [""; 0], "its segment is removed, since nobody needs it");
    assert_eq!(Bench::open(&disk).report.messages, 0);
}

#[test]
fn a_message_goes_with_its_last_forward_path_and_its_segment_with_the_last_message() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let id = bench.hold(1, 2, b"x\r\n").unwrap();
    bench.hold(2, 1, b"y\r\n").unwrap();
    bench.mark(id, 0, relayed()).unwrap();
    assert_eq!(bench.ids(), [1, 2]);
    bench.mark(id, 1, relayed()).unwrap();
    assert_eq!(bench.ids(), [2]);
    assert!(matches!(bench.mark(id, 1, OFFERED), Err(MarkError::NotHeld(_))));
    assert!(matches!(bench.spool.load(&id), Err(LoadError::NotHeld(_))));
    bench.close();

    let mut bench = Bench::open(&disk);
    assert_eq!(bench.ids(), [2]);
    bench.mark(spool_id(2), 0, relayed()).unwrap();
    assert_eq!(files(&disk), [""; 0]);
}

#[test]
fn marks_are_found_again_with_their_texts() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 7, b"x\r\n").unwrap();
    let kept = |why| Mark::Kept { why, reply: "550 5.1.1 no such user".into() };
    let marks = [
        OFFERED,
        due(),
        kept(Kept::Refused),
        kept(Kept::Asked),
        kept(Kept::Blocked(Need::Size(12_345))),
        kept(Kept::Blocked(Need::SmtpUtf8)),
        relayed(),
    ];
    for (path, mark) in (0..).zip(&marks) {
        bench.mark(spool_id(1), path, mark.clone()).unwrap();
    }
    let expected: Vec<_> = marks.iter().map(|mark| PathState::FRESH.after(mark)).collect();
    assert_eq!(bench.states(1), expected);
    assert_eq!(bench.spool.load(&spool_id(1)).unwrap().paths, expected);
    // Also after runs of a second and third process, each with its own salt.
    for _ in 0..2 {
        bench.close();
        bench = Bench::open(&disk);
        assert_eq!(bench.states(1), expected);
        assert_eq!(bench.report.uncertain, 1);
        bench.mark(spool_id(1), 1, due()).unwrap();
    }
}

#[test]
fn a_mark_for_a_path_that_is_not_there_is_refused() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let id = bench.hold(1, 1, b"x\r\n").unwrap();
    assert!(matches!(bench.mark(id, 1, OFFERED), Err(MarkError::NoSuchPath { path: 1, .. })));
    assert!(matches!(bench.mark(spool_id(9), 0, OFFERED), Err(MarkError::NotHeld(_))));
    assert_eq!(bench.states(1), [PathState::FRESH]);
}

#[test]
fn an_id_is_used_once() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"x\r\n").unwrap();
    assert!(matches!(bench.hold(1, 1, b"y\r\n"), Err(HoldError::DuplicateId(_))));
    assert_eq!(read_all(&bench.spool, 1).unwrap(), b"x\r\n");
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let mut writer = bench.writer(1, 1).unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        bench.wait(writer.write(&piece)).unwrap();
        bench.drive();
    }
    assert!(matches!(bench.wait(writer.write(b"x")), Err(HoldError::TooBig { .. })));
}

#[test]
fn a_message_may_span_segments() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let bytes = data(1, 3_500_000);
    let mut writer = bench.writer(1, 1).unwrap();
    for (number, piece) in bytes.chunks(300_000).enumerate() {
        bench.wait(writer.write(piece)).unwrap();
        bench.drive();
        bench.hold(10 + number as u64, 1, b"between\r\n").unwrap();
    }
    bench.wait(writer.commit(None)).unwrap();
    assert_eq!(read_all(&bench.spool, 1).unwrap(), bytes);
    // What lies between is done; the segments stay as long as the large message needs them.
    for number in 10..22 {
        bench.mark(spool_id(number), 0, relayed()).unwrap();
    }
    bench.close();
    let mut bench = Bench::open(&disk);
    assert!(bench.report.segments > 2);
    assert!(bench.report.damaged.is_empty() && bench.report.set_aside.is_empty());
    assert_eq!(read_all(&bench.spool, 1).unwrap(), bytes);
    bench.mark(spool_id(1), 0, relayed()).unwrap();
    assert_eq!(files(&disk), [""; 0]);
}

#[test]
fn totals_follow_every_change() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    for id in [2, 4, 6] {
        bench.hold(id, 2, &[b'x'; 10]).unwrap();
    }
    bench.mark(spool_id(4), 0, due()).unwrap();
    bench.mark(spool_id(6), 1, OFFERED).unwrap();
    let totals = bench.spool.totals();
    let outbound = &totals[0];
    let one = Count { messages: 1, bytes: 10 };
    assert_eq!(outbound.of(Stand::Fresh), Count { messages: 2, bytes: 20 });
    assert_eq!(outbound.of(Stand::Offered), one);
    assert_eq!(outbound.all(), Count { messages: 3, bytes: 30 });
    assert_eq!(outbound.open_paths, 6);
    assert_eq!(outbound.oldest_unix_ms, Some(0));
    assert_eq!(totals[1].all(), Count::default());
    bench.mark(spool_id(4), 1, due()).unwrap();
    assert_eq!(bench.spool.totals()[0].of(Stand::Deferred), one);
    for path in 0..2 {
        bench.mark(spool_id(4), path, relayed()).unwrap();
    }
    assert_eq!(bench.spool.totals()[0].all(), Count { messages: 2, bytes: 20 });
    let before = bench.spool.totals();
    bench.close();
    assert_eq!(Bench::open(&disk).spool.totals(), before);
}

#[test]
fn lists_are_in_order_of_arrival_and_by_pages() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    for id in [5, 3, 9, 1, 8, 2] {
        bench.hold(id, 1, b"x").unwrap();
    }
    let changes = bench.spool.subscribe();
    assert!(!changes.has_changed().unwrap());
    assert_eq!(bench.ids(), [1, 2, 3, 5, 8, 9]);
    let odd = &gates()[1];
    assert_eq!(bench.spool.ids_of(odd, None, 2), [spool_id(1), spool_id(3)]);
    assert_eq!(bench.spool.ids_of(odd, Some(spool_id(3)), 9), [spool_id(5), spool_id(9)]);
    let even = bench.spool.summaries(Some(spool_id(2)), 1, |held| held.id.as_u64() % 2 == 0);
    assert_eq!(even[0].id, spool_id(8));
    bench.mark(spool_id(1), 0, due()).unwrap();
    assert!(changes.has_changed().unwrap());
}

#[test]
fn a_wrong_key_is_told_and_changes_nothing() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"x").unwrap();
    bench.close();
    let before = (files(&disk), disk.operations());
    let wrong = Key::from_bytes([8; seal::KEY_BYTES]);
    let error = Spool::assemble(Arc::new(disk.clone()), &config(), wrong, &gates()).err().unwrap();
    assert!(matches!(error, OpenError::WrongKey { segment: 1, .. }), "{error}");
    assert_eq!(files(&disk), before.0);
    assert!(disk.operations() <= before.1 + 2, "made and synced its folder, no more");
    assert_eq!(Bench::open(&disk).ids(), [1]);
}

#[test]
fn held_mail_of_a_gate_that_is_gone_is_an_error_that_names_it() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"x").unwrap();
    bench.hold(3, 1, b"x").unwrap();
    bench.close();
    let gates: Vec<GateName> = vec!["outbound".into()];
    let error = Spool::assemble(Arc::new(disk.clone()), &config(), key(), &gates).err().unwrap();
    let OpenError::UnknownGate { gate, messages } = &error else { panic!("{error}") };
    assert_eq!((&**gate, *messages), ("inbound", 2));
    assert!(error.to_string().contains("inbound"));
    // In another order, beside a new one, is no matter.
    let gates: Vec<GateName> = vec!["new".into(), "inbound".into(), "outbound".into()];
    let (shared, ..) = Spool::assemble(Arc::new(disk), &config(), key(), &gates).unwrap();
    assert_eq!(shared.index().ids_of(&gates[1], None, 9).len(), 2);
}

#[test]
fn a_second_opener_is_refused() {
    let disk = FaultyDisk::default();
    let bench = Bench::open(&disk);
    assert!(matches!(Bench::try_open(&disk).err().unwrap(), OpenError::Locked { .. }));
    let offline = offline::open(Arc::new(disk.clone()), Path::new("spool"), None);
    assert!(matches!(offline.err().unwrap(), OpenError::Locked { .. }));
    bench.close();
    assert!(Bench::try_open(&disk).is_ok());
}

#[test]
fn room_is_refused_before_the_disk_is_full() {
    let disk = FaultyDisk::default();
    let bench = Bench::open(&disk);
    disk.set_free_bytes(1 << 20);
    bench.spool.shared.space.ask_again();
    let reservation = bench.spool.reserve(1 << 19).unwrap();
    assert!(matches!(bench.spool.reserve(1 << 19), Err(HoldError::Full { .. })));
    drop(reservation);
    assert!(bench.spool.reserve(1 << 19).is_ok());
}

#[test]
fn without_a_key_offline_shows_states_and_with_it_messages() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 2, b"secret\r\n").unwrap();
    bench.mark(spool_id(1), 1, OFFERED).unwrap();
    bench.mark(spool_id(1), 0, due()).unwrap();
    bench.close();
    let before = disk.operations();
    let open = |key| offline::open(Arc::new(disk.clone()), Path::new("spool"), key).unwrap();
    {
        let offline = open(None);
        let listed = offline.summaries();
        assert_eq!((listed.len(), listed[0].id, listed[0].size), (1, spool_id(1), 8));
        assert_eq!(&*listed[0].gate, "inbound");
        assert_eq!(listed[0].stand(), Stand::Offered);
        assert!(matches!(offline.load(spool_id(1)), Err(LoadError::NoKey)));
        assert!(offline.damaged().is_empty());
    }
    let offline = open(Some(key()));
    let message = offline.load(spool_id(1)).unwrap();
    assert_eq!(message.envelope, envelope(2));
    let PathState::Due { reply, .. } = &message.paths[0] else { panic!() };
    assert_eq!(reply.as_str(), "451 4.3.0 later");
    assert_eq!(offline.report().uncertain, 1);
    assert_eq!(disk.operations(), before, "nothing was changed");
}

#[test]
fn nothing_of_a_message_is_on_disk_in_clear() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"very secret text\r\n").unwrap();
    bench.mark(spool_id(1), 0, due()).unwrap();
    for name in files(&disk) {
        let bytes = disk.read(&Path::new("spool").join(name)).unwrap();
        for clear in ["secret", "example", "451 4.3.0"] {
            assert!(!bytes.windows(clear.len()).any(|part| part == clear.as_bytes()), "{clear}");
        }
    }
}

#[test]
fn a_configuration_out_of_bounds_is_refused() {
    let disk = FaultyDisk::default();
    let config = Config { segment_bytes: 1, ..config() };
    let refused = Spool::assemble(Arc::new(disk), &config, key(), &gates());
    assert!(matches!(refused.err().unwrap(), OpenError::Config(_)));
    let parsed: Config = toml::from_str("free_bytes_min = 5").unwrap();
    assert_eq!(parsed, Config { free_bytes_min: 5, ..Config::default() });
    assert!(toml::from_str::<Config>("free_bytes = 5").is_err());
}
