//! What a dying, failing or full disk may do, and what it may not.

use std::collections::BTreeMap;
use std::io;

use disk::Crash;

use super::*;

/// What was promised, and what was durably marked, in one run.
#[derive(Debug, Default)]
struct Promised {
    held: Vec<u64>,
    /// Marks that were acknowledged, and those that were tried.
    acknowledged: BTreeMap<u64, Vec<Mark>>,
    tried: BTreeMap<u64, Vec<Mark>>,
}

const LARGE: usize = 330_000;

fn length_of(id: u64) -> usize {
    if id.is_multiple_of(3) { LARGE } else { 40 * id as usize }
}

/// Holds and marks messages, large ones too, over several segments, whatever the disk says.
fn work(disk: &FaultyDisk) -> Promised {
    let mut promised = Promised::default();
    let Ok(mut bench) = Bench::try_open(disk) else {
        return promised;
    };
    for id in 1..=12 {
        if bench.hold(id, 1, &data(id, length_of(id))).is_ok() {
            promised.held.push(id);
        }
        if id % 2 == 0 {
            let earlier = id / 2;
            mark(&mut bench, &mut promised, earlier, OFFERED);
            let outcome = if earlier % 2 == 0 { due() } else { relayed() };
            mark(&mut bench, &mut promised, earlier, outcome);
        }
    }
    bench.close();
    promised
}

fn mark(bench: &mut Bench, promised: &mut Promised, id: u64, mark: Mark) {
    if bench.spool.summary(spool_id(id)).is_none() {
        return;
    }
    promised.tried.entry(id).or_default().push(mark.clone());
    if bench.mark(spool_id(id), 0, mark.clone()).is_ok() {
        promised.acknowledged.entry(id).or_default().push(mark);
    }
}

fn check(promised: &Promised, disk: &FaultyDisk, story: &str) {
    let bench = Bench::open(disk);
    let damaged = bench.spool.damaged();
    for id in &promised.held {
        let tried = promised.tried.get(id).map_or(&[][..], Vec::as_slice);
        let acknowledged = promised.acknowledged.get(id).map_or(&[][..], Vec::as_slice);
        let Some(summary) = bench.spool.summary(spool_id(*id)) else {
            let done = tried.iter().any(|mark| matches!(mark, Mark::Done { .. }));
            assert!(done, "{story}: message {id} was promised and is gone ({damaged:?})");
            continue;
        };
        let bytes = read_all(&bench.spool, *id);
        assert_eq!(bytes.unwrap(), data(*id, length_of(*id)), "{story}: message {id}");
        let state = summary.paths.state(0).unwrap();
        let fresh = PathState::FRESH;
        // Any state between what was acknowledged and what was tried is honest.
        let from = acknowledged.len();
        let honest = (from..=tried.len()).any(|end| {
            tried[..end].iter().fold(fresh.clone(), |at, mark| at.after(mark)) == *state
        });
        let in_order = acknowledged == &tried[..from];
        assert!(honest || !in_order, "{story}: message {id} is {state:?} after {tried:?}");
        let offered = matches!(acknowledged.last(), Some(Mark::Offered));
        let outcome_tried = tried.len() > from;
        assert!(
            !(offered && state.is_due() && !outcome_tried),
            "{story}: message {id} was offered and is due"
        );
    }
}

/// Goal: what was answered 250 survives any crash, and what was offered is never due again.
/// Method: the same work on a disk that dies at its n-th operation, for every n, with all that
/// may happen to what was not synced.
#[test]
fn acknowledged_messages_and_marks_survive_a_crash_at_any_disk_operation() {
    let healthy = FaultyDisk::default();
    let promised = work(&healthy);
    assert_eq!(promised.held.len(), 12);
    check(&promised, &healthy.after_crash(Crash::Lost), "no crash");
    for operation in 0..=healthy.operations() {
        let disk = FaultyDisk::crashing_at(operation);
        let promised = work(&disk);
        for crash in Crash::VARIANTS {
            let story = format!("crash at operation {operation}, {crash:?}");
            check(&promised, &disk.after_crash(crash), &story);
        }
    }
}

/// Goal: a start that is itself cut short loses nothing either.
#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing() {
    let healthy = FaultyDisk::default();
    work(&healthy);
    for operation in (0..healthy.operations()).step_by(7) {
        let disk = FaultyDisk::crashing_at(operation);
        let promised = work(&disk);
        let crashed = disk.after_crash(Crash::Torn(operation));
        let opened = crashed.after_crash(Crash::Kept);
        drop(Bench::open(&opened));
        for second in 0..opened.operations() {
            let disk = crashed.after_crash(Crash::Kept);
            disk.crash_at(second);
            drop(Bench::try_open(&disk).err());
            for crash in [Crash::Lost, Crash::Torn(second)] {
                let story = format!("crash at {operation}, then at {second}, {crash:?}");
                check(&promised, &disk.after_crash(crash), &story);
            }
        }
    }
}

/// Goal: a sync that fails once is never believed afterwards.
/// Method: every operation fails once, in turn, and the work goes on; then the power fails.
#[test]
fn nothing_is_acknowledged_that_a_failed_operation_lost() {
    let healthy = FaultyDisk::default();
    work(&healthy);
    for operation in 0..=healthy.operations() {
        for error in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
            let disk = FaultyDisk::failing_at(operation, error);
            let promised = work(&disk);
            for crash in [Crash::Lost, Crash::Kept] {
                let story = format!("{error:?} at operation {operation}, then {crash:?}");
                check(&promised, &disk.after_crash(crash), &story);
            }
        }
    }
}

#[test]
fn after_a_failed_sync_the_next_message_goes_to_a_new_segment() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, b"one").unwrap();
    disk.fail_at(disk.operations() + 1, io::ErrorKind::Other);
    assert!(matches!(bench.hold(2, 1, b"two"), Err(HoldError::Poisoned)));
    bench.hold(3, 1, b"three").unwrap();
    assert_eq!(bench.ids(), [1, 3]);
    assert_eq!(read_all(&bench.spool, 1).unwrap(), b"one");
    bench.mark(spool_id(1), 0, due()).unwrap();
    let found = Bench::open(&disk.after_crash(Crash::Lost));
    assert_eq!(found.ids(), [1, 3]);
    assert!(files(&disk).contains(&"00000002.seg".to_owned()));
}

#[test]
fn a_message_with_a_frame_in_a_poisoned_segment_is_not_promised() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    let mut large = bench.writer(1, 1).unwrap();
    bench.wait(large.write(&data(1, 200_000))).unwrap();
    bench.drive();
    disk.fail_at(disk.operations() + 1, io::ErrorKind::Other);
    assert!(bench.hold(2, 1, b"two").is_err());
    bench.wait(large.write(&data(1, 200_000))).unwrap();
    assert!(matches!(bench.wait(large.commit(None)), Err(HoldError::Poisoned)));
    bench.hold(3, 1, b"three").unwrap();
    assert_eq!(Bench::open(&disk.after_crash(Crash::Lost)).ids(), [3]);
}

#[test]
fn a_full_disk_promises_nothing_and_recovers_when_there_is_room() {
    let disk = FaultyDisk::default();
    // What the system says of free space is too late here.
    disk.set_free_bytes(1 << 40);
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, &data(1, 5_000)).unwrap();
    for budget in (0..9_000).step_by(61) {
        disk.set_budget(Some(budget));
        let outcome = bench.hold(2, 1, &data(2, 4_000));
        let story = format!("{budget} octets left: {outcome:?}");
        disk.set_budget(None);
        if outcome.is_ok() {
            assert!(budget > 4_000, "{story}");
            break;
        }
        assert_eq!(bench.ids(), [1], "{story}");
        assert_eq!(read_all(&bench.spool, 1).unwrap(), data(1, 5_000));
    }
    assert_eq!(bench.ids(), [1, 2]);
    assert_eq!(read_all(&bench.spool, 2).unwrap(), data(2, 4_000));
    bench.mark(spool_id(1), 0, due()).unwrap();
    let found = Bench::open(&disk.after_crash(Crash::Lost));
    assert_eq!(found.ids(), [1, 2]);
    assert!(found.report.damaged.is_empty());
}

#[test]
fn a_mark_that_could_not_be_written_leaves_the_state_and_the_next_one_counts() {
    for failing in 0..2 {
        let disk = FaultyDisk::default();
        let mut bench = Bench::open(&disk);
        bench.hold(1, 1, b"one").unwrap();
        bench.mark(spool_id(1), 0, OFFERED).unwrap();
        disk.fail_at(disk.operations() + failing, io::ErrorKind::Other);
        assert!(matches!(bench.mark(spool_id(1), 0, due()), Err(MarkError::Write { .. })));
        assert_eq!(bench.states(1), [PathState::FRESH.after(&OFFERED)]);
        let state = |crash| Bench::open(&disk.after_crash(crash)).states(1)[0].clone();
        assert!(!state(Crash::Lost).is_due());
        bench.mark(spool_id(1), 0, due()).unwrap();
        assert!(state(Crash::Lost).is_due());
        assert!(state(Crash::Kept).is_due());
    }
}

#[test]
fn a_panic_in_the_committer_poisons_the_segment_and_the_spool_goes_on() {
    let healthy = FaultyDisk::default();
    let mut bench = Bench::open(&healthy);
    bench.hold(1, 1, b"one").unwrap();
    let first = healthy.operations();
    bench.hold(2, 1, b"two").unwrap();
    bench.mark(spool_id(1), 0, due()).unwrap();
    for operation in first..healthy.operations() {
        let disk = FaultyDisk::default();
        let mut bench = Bench::open(&disk);
        bench.hold(1, 1, b"one").unwrap();
        disk.panic_at(operation);
        let held = bench.hold(2, 1, b"two");
        let marked = bench.mark(spool_id(1), 0, due());
        assert!(held.is_err() || marked.is_err(), "operation {operation}");
        bench.hold(3, 1, b"three").unwrap();
        bench.mark(spool_id(1), 0, due()).unwrap();
        let found = Bench::open(&disk.after_crash(Crash::Lost));
        assert!(found.states(1)[0].is_due());
        assert_eq!(found.ids().contains(&2), held.is_ok(), "operation {operation}");
        assert!(found.ids().contains(&3));
    }
}

#[test]
fn what_was_discharged_never_comes_back() {
    let run = |disk: &FaultyDisk| {
        let mut done = false;
        let Ok(mut bench) = Bench::try_open(disk) else {
            return done;
        };
        let held = (1..4).all(|id| bench.hold(id, 1, &data(id, 400_000)).is_ok());
        if held && bench.mark(spool_id(1), 0, OFFERED).is_ok() {
            done = bench.mark(spool_id(1), 0, relayed()).is_ok();
        }
        for id in 2..4 {
            drop(bench.mark(spool_id(id), 0, relayed()));
        }
        bench.close();
        done
    };
    let healthy = FaultyDisk::default();
    assert!(run(&healthy));
    assert_eq!(files(&healthy), [""; 0]);
    for operation in 0..=healthy.operations() {
        let disk = FaultyDisk::crashing_at(operation);
        let done = run(&disk);
        for crash in Crash::VARIANTS {
            let found = Bench::open(&disk.after_crash(crash));
            let back = found.spool.summary(spool_id(1));
            assert!(!(done && back.is_some()), "operation {operation}, {crash:?}: {back:?}");
            assert!(found.report.damaged.is_empty(), "{:?}", found.report);
        }
    }
}

/// Goal: a message in several segments is promised only when all of its segments are on disk.
#[test]
fn a_message_that_spans_segments_survives_a_crash_at_any_disk_operation() {
    let run = |disk: &FaultyDisk| {
        let Ok(mut bench) = Bench::try_open(disk) else {
            return false;
        };
        let Ok(mut writer) = bench.writer(1, 1) else {
            return false;
        };
        // The segment is full in the middle of the message, in a batch that promises nothing.
        drop(bench.hold(2, 1, &data(2, 900_000)));
        for piece in data(1, 400_000).chunks(100_000) {
            if bench.wait(writer.write(piece)).is_err() {
                return false;
            }
            bench.drive();
        }
        bench.wait(writer.commit(None)).is_ok()
    };
    let healthy = FaultyDisk::default();
    assert!(run(&healthy));
    assert!(files(&healthy).contains(&"00000002.seg".to_owned()));
    for operation in 0..=healthy.operations() {
        let crashing = FaultyDisk::crashing_at(operation);
        let failing = FaultyDisk::failing_at(operation, io::ErrorKind::Other);
        for disk in [crashing, failing] {
            let promised = run(&disk);
            for crash in Crash::VARIANTS {
                let found = Bench::open(&disk.after_crash(crash));
                let story = format!("operation {operation}, {crash:?}: {:?}", found.report);
                match read_all(&found.spool, 1) {
                    Ok(bytes) => assert_eq!(bytes, data(1, 400_000), "{story}"),
                    Err(error) => assert!(!promised, "{story}: {error}"),
                }
            }
        }
    }
}
