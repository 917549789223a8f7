//! The journal on a disk that forgets, fails and is cut.

use std::path::Path;
use std::sync::Arc;

use disk::{Crash, Disk, FaultyDisk};

use super::*;
use crate::outcome::Outcome;

const S: u64 = 1_000_000_000;

fn config() -> Config {
    Config { file_bytes: 4096, bytes_max: 16_384, ..Config::default() }
}

fn facts(id: u64) -> Facts<'static> {
    Facts {
        id,
        doing: Doing::Pass,
        gate: "outbound".into(),
        member: Some("sems1".into()),
        client: Some(([127, 0, 0, 1], 4711).into()),
        told_ident: true,
        from: "<a@example.org>".into(),
        to: vec!["<b@example.net>".into(), "<c@example.net>".into()],
        message_id: Some("<1@example.org>".into()),
        media_type: Some("text/plain".into()),
        processed: false,
        passed_as: None,
        header_octets: 210,
        header_sha256: Some([7; SHA256]),
        began_ns: id * S,
        tls: None,
        settled: Vec::new(),
    }
}

fn offered(id: u64) -> Offered<'static> {
    Offered { at_ns: id * S, facts: facts(id) }
}

fn ended(id: u64) -> Ended<'static> {
    let other = PathEnd { path: 1, outcome: Outcome::Refused, reply: "550 5.1.1 unknown".into() };
    Ended {
        at_ns: id * S,
        id,
        facts: None,
        outcome: Outcome::Relayed,
        reply: "250 2.0.0 Ok: queued as 4ABC".into(),
        others: vec![other],
        size: 10_240,
        content_sha256: None,
    }
}

/// Everything that can be read, as words.
fn words(disk: &Arc<FaultyDisk>) -> Vec<String> {
    let disk: Arc<dyn Disk> = Arc::clone(disk) as _;
    let mut reader = Reader::new(disk, Path::new("journal"), Cursor::START);
    let mut words = Vec::new();
    loop {
        match reader.read() {
            Ok(None) => return words,
            Ok(Some(entry)) => words.push(match entry {
                Entry::Opened(opened) => format!("file {}", opened.file),
                Entry::Offered(offered) => format!("offered {}", offered.facts.id),
                Entry::Ended(ended) => format!("{:?} {}", ended.outcome, ended.id),
                Entry::Gap(gap) => {
                    // To the second: a gap begins a little before the first entry that may be missing.
                    let second = |ns: u64| (ns + S / 2) / S;
                    format!("gap {}-{} {:?}", second(gap.from_ns), second(gap.to_ns), gap.why)
                }
                Entry::Closed { .. } => "closed".to_owned(),
                Entry::Returned(returned) => {
                    let Returned { ended, mark } = returned;
                    format!("{:?} {} of {}", ended.outcome, ended.id, mark.token)
                }
            }),
            Err(error) => words.push(error.to_string()),
        }
    }
}

fn open(disk: &Arc<FaultyDisk>, boot: &str, now_s: u64) -> Journal {
    Journal::open(Arc::clone(disk) as _, &config(), boot, now_s * S)
}

/// Goal: offers that come in one turn of the runtime are one write, and none returns before it stands.
#[tokio::test]
async fn offers_of_one_turn_share_a_write_and_each_waits_for_it() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    for id in [2, 3] {
        journal.offered(offered(id)).await;
    }
    let before = disk.operations();
    let tasks: Vec<_> = (10..20)
        .map(|id| {
            let (journal, disk) = (journal.clone(), Arc::clone(&disk));
            tokio::spawn(async move {
                journal.offered(offered(id)).await;
                words(&disk).contains(&format!("offered {id}"))
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(disk.operations() - before, 1);
    journal.ended(ended(15));
    journal.close(30 * S);
    assert!(words(&disk).contains(&"Relayed 15".to_owned()));
}

#[test]
fn what_was_written_is_read_back_whole() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    journal.ended(ended(2));
    journal.tick(3 * S);
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let mut reader = Reader::new(shared, Path::new("journal"), Cursor::START);
    assert!(matches!(reader.read().unwrap(), Some(Entry::Opened(_))));
    assert_eq!(reader.read().unwrap(), Some(Entry::Offered(offered(2))));
    assert_eq!(reader.read().unwrap(), Some(Entry::Ended(ended(2))));
    assert_eq!(reader.read().unwrap(), None);
    assert_eq!(reader.cursor(), journal.position(3 * S));
    // It goes on where it stopped.
    journal.offered_now(offered(4));
    assert_eq!(reader.read().unwrap(), Some(Entry::Offered(offered(4))));
}

#[test]
fn an_offer_is_written_at_once_and_an_end_with_what_comes_next() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    assert_eq!(words(&disk), ["file 1", "offered 2"]);
    journal.ended(ended(2));
    assert_eq!(words(&disk), ["file 1", "offered 2"]);
    journal.offered_now(offered(3));
    assert_eq!(words(&disk), ["file 1", "offered 2", "Relayed 2", "offered 3"]);
    journal.ended(ended(3));
    journal.tick(4 * S);
    assert_eq!(words(&disk).last().unwrap(), "Relayed 3");
}

/// Killed: the system still has what was written, so that nothing offered is missing.
#[test]
fn a_killed_process_leaves_open_items_that_become_uncertain() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    journal.offered_now(offered(3));
    journal.ended(ended(2));
    journal.tick(4 * S);
    drop(journal);
    let journal = open(&disk, "boot", 9);
    let words = words(&disk);
    assert_eq!(words[4..], ["file 2", "gap 2-9 Killed", "offered 3", "Uncertain 3"]);
    assert_eq!(journal.stand().open, 0);
}

#[test]
fn another_boot_without_a_close_is_a_gap_that_may_hide_offers() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    drop(journal);
    drop(open(&disk, "another", 9));
    let words = words(&disk);
    assert_eq!(words[2..], ["file 2", "gap 2-9 SystemDown", "offered 2", "Uncertain 2"]);
    assert!(Why::SystemDown.hides_offers() && !Why::Killed.hides_offers());
}

#[test]
fn a_journal_that_was_closed_leaves_no_gap() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    journal.ended(ended(2));
    journal.close(3 * S);
    let disk = Arc::new(disk.after_crash(Crash::Lost));
    drop(open(&disk, "another", 9));
    assert_eq!(words(&disk), ["file 1", "offered 2", "Relayed 2", "closed", "file 2"]);
}

#[test]
fn what_is_open_is_carried_into_each_new_file_and_old_files_go() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    for id in 3..120 {
        journal.offered_now(offered(id));
        journal.ended(ended(id));
    }
    let stand = journal.stand();
    assert!(stand.bytes <= config().bytes_max, "{stand:?}");
    assert_eq!(stand.open, 1);
    let words = words(&disk);
    let first = &words[0];
    assert!(first.starts_with("file ") && first != "file 1", "the oldest are gone: {first}");
    for (at, word) in words.iter().enumerate() {
        if word.starts_with("file ") {
            assert_eq!(words[at + 1], "offered 2");
        }
    }
    // A cursor into a file that is gone says so, once.
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let mut reader = Reader::new(shared, Path::new("journal"), Cursor { file: 1, offset: 40 });
    assert!(matches!(reader.read(), Err(ReadError::Gone { from: 1, .. })));
    assert!(matches!(reader.read(), Ok(Some(Entry::Opened(_)))));
}

#[test]
fn files_go_by_age() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    journal.ended(ended(2));
    let day = 86_400 * S;
    for days in 1..40 {
        journal.tick(S + days * (day + S));
    }
    let words = words(&disk);
    assert!(!words.contains(&"offered 2".to_owned()), "{words:?}");
    assert_eq!(words.len(), 31, "one a day, for thirty days and the present one: {words:?}");
}

/// Mail goes on when the disk takes nothing; the gap says from when to when, and how much.
#[test]
fn a_disk_that_takes_nothing_leaves_a_gap_and_keeps_what_is_open() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    disk.fail_at(disk.operations(), std::io::ErrorKind::StorageFull);
    journal.offered_now(offered(3));
    assert!(journal.stand().failing);
    assert_eq!(journal.stand().unwritten, 1);
    // Within a second it is not tried again.
    let mut soon = offered(4);
    soon.at_ns = 3 * S + 1;
    journal.offered_now(soon);
    assert_eq!(journal.stand().unwritten, 2);
    journal.ended(ended(4));
    journal.offered_now(offered(9));
    assert!(!journal.stand().failing);
    let words = words(&disk);
    assert_eq!(
        words[2..],
        [
            "file 2",
            "gap 3-9 Unwritten { entries: 2 }",
            "offered 2",
            "offered 3",
            "offered 4",
            "Relayed 4",
            "offered 9",
        ],
    );
}

#[test]
fn damage_is_named_and_the_next_file_is_read() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    journal.offered_now(offered(3));
    drop(journal);
    let path = Path::new("journal/00000001.journal");
    let size = disk.open(path).unwrap().size().unwrap();
    disk.open(path).unwrap().write_at(size - 100, b"#").unwrap();
    drop(open(&disk, "boot", 9));
    let words = words(&disk);
    assert_eq!(words[..2], ["file 1", "offered 2"]);
    assert!(words[2].contains("is damaged at octet"), "{words:?}");
    assert_eq!(words[3..], ["file 2", "gap 2-9 Damaged", "offered 2", "Uncertain 2"]);
}

/// Goal: whatever the disk does, what was offered and written is found by the next process.
/// Method: the same work on a disk that fails at its n-th operation, for every n.
#[test]
fn what_was_offered_is_found_again_or_a_gap_stands() {
    let work = |disk: &Arc<FaultyDisk>| {
        // Nothing goes by size here.
        let roomy = Config { bytes_max: 1 << 20, ..config() };
        let journal = Journal::open(Arc::clone(disk) as _, &roomy, "boot", S);
        for id in 2..40 {
            journal.offered_now(offered(id));
            if id % 3 != 0 {
                journal.ended(ended(id));
            }
        }
        journal.tick(60 * S);
        journal
    };
    let healthy = Arc::new(FaultyDisk::default());
    drop(work(&healthy));
    for at in 0..healthy.operations() {
        let disk = Arc::new(FaultyDisk::default());
        disk.fail_at(at, std::io::ErrorKind::Other);
        let journal = work(&disk);
        // The disk is well again: what waited is written.
        journal.tick(70 * S);
        let lost = journal.stand().unwritten > 0;
        drop(journal);
        let roomy = Config { bytes_max: 1 << 20, ..config() };
        drop(Journal::open(Arc::clone(&disk) as _, &roomy, "boot", 100 * S));
        let words = words(&disk);
        for id in (3..40).step_by(3) {
            let found = words.contains(&format!("Uncertain {id}"));
            assert!(found, "failing at {at}: {id} is missing in {words:?}");
        }
        for id in (2..40).filter(|id| id % 3 != 0) {
            let offer = words.iter().position(|word| *word == format!("offered {id}"));
            let end = words.iter().position(|word| *word == format!("Relayed {id}"));
            assert!(offer.is_some() && offer < end, "failing at {at}: {id} in {words:?}");
            assert!(!words.contains(&format!("Uncertain {id}")), "failing at {at}: {id}");
        }
        if lost {
            assert!(words.iter().any(|word| word.starts_with("gap")), "failing at {at}");
        }
    }
}

/// Goal: a stop while a file is begun loses nothing that was open.
/// Method: the last file is cut at every octet, as a kill or a lost system may leave it.
#[test]
fn a_file_that_was_cut_while_it_was_begun_hides_nothing() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    for id in 2..6 {
        journal.offered_now(offered(id));
    }
    journal.ended(ended(3));
    let day = 86_400 * S;
    journal.tick(2 * day);
    drop(journal);
    let path = Path::new("journal/00000002.journal");
    let whole = disk.read(path).unwrap();
    for cut in 0..whole.len() {
        let mut file = disk.open(path).unwrap();
        file.set_size(cut as u64).unwrap();
        drop(file);
        drop(open(&disk, "boot", 3 * 86_400));
        let words = words(&disk);
        for id in [2, 4, 5] {
            assert!(words.contains(&format!("Uncertain {id}")), "cut at {cut}: {id} in {words:?}");
        }
        disk.remove(Path::new("journal/00000003.journal")).unwrap();
        let mut file = disk.open(path).unwrap();
        file.write_at(0, &whole).unwrap();
    }
}

/// A pause after a failure is short, whatever becomes of the clock.
#[test]
fn a_clock_that_is_set_back_does_not_stop_the_journal() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1_000);
    disk.fail_at(disk.operations(), std::io::ErrorKind::Other);
    journal.offered_now(offered(1_000));
    assert!(journal.stand().failing);
    journal.offered_now(offered(10));
    assert!(!journal.stand().failing);
    assert_eq!(
        words(&disk)[1..],
        ["file 2", "gap 10-1000 Unwritten { entries: 1 }", "offered 1000", "offered 10"]
    );
}

/// The gap was in memory only when the process was killed: the next one must not say that nothing is missing.
#[test]
fn a_kill_before_a_gap_is_written_is_not_taken_for_a_plain_kill() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    // Not an octet of it is written.
    disk.set_budget(Some(0));
    journal.offered_now(offered(3));
    disk.set_budget(None);
    drop(journal);
    drop(open(&disk, "boot", 9));
    assert_eq!(words(&disk)[2..], ["file 2", "gap 2-9 SystemDown", "offered 2", "Uncertain 2"]);
}

/// Goal: what the last process left is not lost when the next cannot write at once.
#[test]
fn what_was_left_behind_waits_for_a_disk_that_takes_it() {
    let counted = Arc::new(FaultyDisk::default());
    open(&counted, "boot", 1).offered_now(offered(2));
    let before = counted.operations();
    drop(open(&counted, "boot", 9));
    for at in before..counted.operations() {
        let disk = Arc::new(FaultyDisk::default());
        open(&disk, "boot", 1).offered_now(offered(2));
        disk.fail_at(at, std::io::ErrorKind::StorageFull);
        let journal = open(&disk, "boot", 9);
        journal.tick(20 * S);
        let words = words(&disk);
        assert!(words.iter().any(|word| word.starts_with("gap 2-9 ")), "{at}: {words:?}");
        assert!(words.contains(&"Uncertain 2".to_owned()), "{at}: {words:?}");
    }
}

/// A file without a head says nothing of the age of the one before it; one that is gone already is no failure.
#[test]
fn a_young_file_does_not_go_because_the_next_has_no_head() {
    let now = 1_795_514_400;
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", now);
    journal.offered_now(offered(now));
    journal.close((now + 1) * S);
    drop(disk.create_new(Path::new("journal/00000002.journal")).unwrap());
    let journal = open(&disk, "boot", now + 9);
    assert!(words(&disk).contains(&format!("offered {now}")));
    disk.remove(Path::new("journal/00000001.journal")).unwrap();
    journal.tick((now + 40 * 86_400) * S);
    journal.offered_now(offered(now + 40 * 86_400));
    assert!(!journal.stand().failing);
}

/// What comes behind the close, such as a probe that was under way, is written all the same.
#[test]
fn an_offer_behind_the_close_is_written_and_the_book_no_longer_closed() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.close(2 * S);
    journal.offered_now(offered(3));
    assert_eq!(words(&disk), ["file 1", "closed", "file 2", "offered 3"]);
    drop(journal);
    drop(open(&disk, "boot", 9));
    assert_eq!(words(&disk)[4..], ["file 3", "gap 3-9 Killed", "offered 3", "Uncertain 3"]);
}

/// Nothing that was written before a failed sync is proven by a later one that succeeds.
#[test]
fn a_sync_that_fails_is_a_gap_since_the_last_that_did_not() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.tick(10 * S);
    journal.offered_now(offered(12));
    // The folder is synced first, then the file.
    disk.fail_at(disk.operations() + 1, std::io::ErrorKind::Other);
    journal.tick(20 * S);
    assert!(journal.stand().failing);
    journal.tick(30 * S);
    assert!(!journal.stand().failing);
    assert_eq!(words(&disk)[2..], ["file 2", "gap 10-30 Unsynced", "offered 12"]);
}

/// A folder that vanishes is noticed at the next sync, not at the next start.
#[test]
fn a_file_that_vanishes_while_it_is_written_is_a_gap() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.tick(10 * S);
    disk.remove(Path::new("journal/00000001.journal")).unwrap();
    journal.offered_now(offered(12));
    journal.tick(20 * S);
    journal.tick(30 * S);
    assert_eq!(words(&disk), ["file 2", "gap 10-30 Unsynced", "offered 12"]);
}

#[test]
fn zeros_where_a_record_should_be_are_damage_unless_nothing_follows() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    let at = journal.position(2 * S).offset;
    journal.offered_now(offered(3));
    let path = Path::new("journal/00000001.journal");
    disk.open(path).unwrap().write_at(at, &[0; 12]).unwrap();
    let all = words(&disk);
    assert!(all[2].contains("is damaged at octet"), "{all:?}");
    disk.open(path).unwrap().set_size(at + 12).unwrap();
    assert_eq!(words(&disk), ["file 1", "offered 2"]);
}

/// A reader that is slower than retention is told what it missed.
#[test]
fn files_that_go_under_a_reader_are_told() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let mut reader = Reader::new(shared, Path::new("journal"), Cursor::START);
    assert!(matches!(reader.read(), Ok(Some(Entry::Opened(_)))));
    for id in 2..200 {
        journal.offered_now(offered(id));
        journal.ended(ended(id));
    }
    let gone = loop {
        match reader.read() {
            Ok(Some(_)) => {}
            other => break other.map(|_| ()),
        }
    };
    assert!(matches!(gone, Err(ReadError::Gone { from: 2, .. })), "{gone:?}");
    assert!(matches!(reader.read(), Ok(Some(Entry::Opened(_)))));
}

/// Goal: a journal that was taken away and begun anew is not taken for one in which nothing happens.
#[test]
fn a_journal_that_was_begun_anew_is_read_from_its_beginning_and_said_to_be_gone() {
    let old = Arc::new(FaultyDisk::default());
    let journal = open(&old, "boot", 1);
    for id in 2..60 {
        journal.offered_now(offered(id));
        journal.ended(ended(id));
    }
    let cursor = journal.position(60 * S);
    assert!(cursor.file > 1 && cursor.offset > 0);
    let new = Arc::new(FaultyDisk::default());
    let journal = open(&new, "boot", 70);
    journal.offered_now(offered(71));
    journal.tick(72 * S);
    for cursor in [cursor, Cursor { file: 1, offset: 1 << 20 }] {
        let shared: Arc<dyn Disk> = Arc::clone(&new) as _;
        let mut reader = Reader::new(shared, Path::new("journal"), cursor);
        assert!(matches!(reader.read(), Err(ReadError::Gone { .. })), "{cursor:?}");
        assert!(matches!(reader.read().unwrap(), Some(Entry::Opened(_))));
        assert!(matches!(reader.read().unwrap(), Some(Entry::Offered(_))));
        assert!(reader.read().unwrap().is_none());
    }
}

fn returned(id: u64) -> Returned<'static> {
    let mark = Mark {
        token: "000000000004D-0123456789abcdef".into(),
        known: true,
        media_type: Some("multipart/encrypted".into()),
        protocol: Some("application/pgp-encrypted".into()),
        ..Mark::default()
    };
    Returned { ended: ended(id), mark }
}

#[test]
fn the_end_of_what_came_back_of_a_probe_is_an_end() {
    let disk = Arc::new(FaultyDisk::default());
    let journal = open(&disk, "boot", 1);
    journal.offered_now(offered(2));
    assert_eq!(journal.stand().open, 1);
    journal.returned(returned(2));
    assert_eq!(journal.stand().open, 0);
    journal.tick(3 * S);
    let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
    let mut reader = Reader::new(shared, Path::new("journal"), Cursor::START);
    let mut last = None;
    while let Some(entry) = reader.read().unwrap() {
        last = Some(format!("{entry:?}"));
    }
    assert_eq!(last, Some(format!("{:?}", Entry::Returned(returned(2)))));
    // A killed process leaves nothing open either.
    drop(journal);
    open(&disk, "boot", 9);
    let uncertain = words(&disk).into_iter().find(|word| word.starts_with("Uncertain"));
    assert_eq!(uncertain, None);
}

/// A file of entries with this version in its first.
fn file_of(version: u32, number: u64, entries: &[Entry<'_>]) -> Vec<u8> {
    let opened = Opened { version, file: number, at_ns: S, boot: "boot".into() };
    let mut bytes = Vec::new();
    for entry in [&[Entry::Opened(opened)], entries].concat() {
        disk::log::encode(&postcard::to_allocvec(&entry).unwrap(), &mut bytes);
    }
    bytes
}

/// CRC-32C of the file below in form 2.
const FORM_2: u32 = 3_578_554_867;

/// Goal: a journal that an earlier build wrote is read on, and what was open in it gets its end.
/// Method: the octets of form 2 as they were written then (the offer and the end of `facts` and `ended`).
#[test]
fn a_journal_of_the_form_before_is_read_and_gone_on_with() {
    let offer = Entry::Offered(offered(2));
    let end = Entry::Ended(ended(2));
    let open_offer = Entry::Offered(offered(3));
    let bytes = file_of(2, 1, &[offer.clone(), end.clone(), open_offer]);
    assert_eq!(crc32c::crc32c(&bytes), FORM_2, "the form of 2 has changed");
    let disk = Arc::new(FaultyDisk::default());
    disk.make_dir(Path::new("journal")).unwrap();
    disk.create_new(Path::new("journal/00000001.journal")).unwrap().write_at(0, &bytes).unwrap();
    let journal = open(&disk, "boot", 9);
    journal.returned(returned(4));
    journal.tick(10 * S);
    let words = words(&disk);
    let expected = ["file 1", "offered 2", "Relayed 2", "offered 3", "file 2"];
    assert_eq!(words[..5], expected);
    let rest = ["offered 3", "Uncertain 3", "Relayed 4 of 000000000004D-0123456789abcdef"];
    assert_eq!(words[words.len() - 3..], rest, "{words:?}");
    let other = file_of(1, 1, &[]);
    let old = Arc::new(FaultyDisk::default());
    old.make_dir(Path::new("journal")).unwrap();
    old.create_new(Path::new("journal/00000001.journal")).unwrap().write_at(0, &other).unwrap();
    let shared: Arc<dyn Disk> = Arc::clone(&old) as _;
    let error = Reader::new(shared, Path::new("journal"), Cursor::START).read().unwrap_err();
    assert!(error.to_string().ends_with("has version 1; this program knows 2 to 3"), "{error}");
}
