//! Torn, flipped and missing octets: named, and never taken for mail.

use disk::Crash;

use super::*;

const SEGMENT: &str = "spool/00000001.seg";
const MARKS: &str = "spool/00000001.marks";

/// Three messages, one of them in parts; closed properly or left as a crash leaves it.
fn small_spool(closed: bool) -> FaultyDisk {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, &data(1, 300)).unwrap();
    bench.hold(2, 2, &data(2, 66_000)).unwrap();
    bench.hold(3, 1, &data(3, 200)).unwrap();
    bench.mark(spool_id(1), 0, due()).unwrap();
    bench.mark(spool_id(2), 0, OFFERED).unwrap();
    if closed {
        bench.close();
    }
    disk.after_crash(Crash::Lost)
}

const LENGTHS: [(u64, usize); 3] = [(1, 300), (2, 66_000), (3, 200)];

/// Every message is whole, or named as damaged; never another text, never silently gone.
fn check_named(bench: &Bench, story: &str) {
    for (id, length) in LENGTHS {
        let named = |bench: &Bench| {
            let damaged = bench.spool.damaged();
            damaged.iter().any(|damage| damage.id == Some(spool_id(id)))
        };
        match read_all(&bench.spool, id) {
            Ok(bytes) => assert_eq!(bytes, data(id, length), "{story}: message {id}"),
            Err(LoadError::Damaged(damage)) => {
                assert_eq!(damage.id, Some(spool_id(id)), "{story}");
                assert!(named(bench), "{story}: message {id}");
                assert!(bench.spool.summary(spool_id(id)).is_none());
            }
            Err(LoadError::NotHeld(_)) => assert!(
                named(bench) || !bench.report.set_aside.is_empty(),
                "{story}: message {id} is gone and not named: {:?}",
                bench.report
            ),
            Err(error) => panic!("{story}: message {id}: {error}"),
        }
    }
}

/// Goal: no flipped octet leads to wrong mail or to a message silently gone.
#[test]
fn every_flipped_octet_of_a_segment_is_named_or_harmless() {
    for closed in [true, false] {
        let disk = small_spool(closed);
        let size = disk.read(Path::new(SEGMENT)).unwrap().len();
        // Every octet near the frames' headers, some of the mail data in between.
        let offsets = (0..size).filter(|at| !(1_900..66_000).contains(at) || at % 977 == 0);
        for offset in offsets {
            let disk = disk.after_crash(Crash::Kept);
            disk.flip(Path::new(SEGMENT), offset, 1 << (offset % 8));
            match Bench::try_open(&disk) {
                Ok(bench) => {
                    let story = format!("flipped at {offset}, closed: {closed}");
                    check_named(&bench, &story);
                    let untouched =
                        LENGTHS.iter().filter(|(id, _)| bench.ids().contains(id)).count();
                    // A flip in the header of the segment costs all of it, else one message.
                    assert!(untouched >= 2 || offset < 512, "{story}: {:?}", bench.report);
                }
                Err(error) => panic!("flipped at {offset}: {error}"),
            }
        }
    }
}

/// Goal: a segment cut anywhere gives the messages whose commit record is whole.
#[test]
fn a_segment_cut_at_any_octet_keeps_what_was_committed_before() {
    let disk = small_spool(false);
    let bytes = disk.read(Path::new(SEGMENT)).unwrap();
    let ends: Vec<u64> = commits(&bytes);
    assert_eq!(ends.len(), 3);
    let cuts = (0..bytes.len()).filter(|at| !(2_000..66_000).contains(at) || at % 977 == 0);
    for cut in cuts {
        let disk = disk.after_crash(Crash::Kept);
        disk.truncate(Path::new(SEGMENT), cut);
        let bench = Bench::open(&disk);
        let committed = ends.iter().filter(|end| **end <= cut as u64).count();
        assert_eq!(bench.ids().len(), committed, "cut at {cut}");
        assert!(bench.report.damaged.is_empty(), "cut at {cut}: {:?}", bench.report);
        check_cut(&bench, committed);
        // What comes after the last commit is kept aside, and found aside only once.
        drop(bench);
        let again = Bench::open(&disk);
        assert!(again.report.set_aside.is_empty(), "cut at {cut}");
        assert_eq!(again.ids().len(), committed);
    }
}

fn check_cut(bench: &Bench, committed: usize) {
    for (id, length) in &LENGTHS[..committed] {
        assert_eq!(read_all(&bench.spool, *id).unwrap(), data(*id, *length));
    }
}

/// Ends of the commit records of a segment.
fn commits(bytes: &[u8]) -> Vec<u64> {
    let mut ends = Vec::new();
    let mut offset = format::SegmentHeader::length(bytes).unwrap();
    while let Some((header, _)) = format::FrameHeader::decode(&bytes[offset..]) {
        offset += usize::try_from(header.frame_length()).unwrap();
        if header.kind == format::Kind::Commit {
            ends.push(offset as u64);
        }
    }
    ends
}

/// Goal: a damaged commit record costs no message, not even where it is the last: a batch that
/// was written whole is told from one that a crash tore.
#[test]
fn a_damaged_commit_record_is_named_and_its_messages_stay() {
    for closed in [true, false] {
        let disk = small_spool(closed);
        let ends = commits(&disk.read(Path::new(SEGMENT)).unwrap());
        for offset in ends.iter().flat_map(|end| end - 72..*end) {
            let disk = disk.after_crash(Crash::Kept);
            disk.flip(Path::new(SEGMENT), usize::try_from(offset).unwrap(), 16);
            let bench = Bench::open(&disk);
            assert_eq!(bench.ids(), [1, 2, 3], "flipped at {offset}: {:?}", bench.report);
            assert_eq!(bench.report.damaged.len(), 1, "flipped at {offset}");
            check_cut(&bench, 3);
        }
    }
}

/// Goal: what a crash may have torn is found at start, not when it is to be delivered.
#[test]
fn the_last_batch_of_a_segment_that_was_not_closed_is_read_in_full() {
    let disk = small_spool(false);
    let end = *commits(&disk.read(Path::new(SEGMENT)).unwrap()).last().unwrap();
    disk.flip(Path::new(SEGMENT), usize::try_from(end - 72 - 100).unwrap(), 1);
    let bench = Bench::open(&disk);
    assert_eq!(bench.ids(), [1, 2]);
    assert_eq!(bench.report.damaged[0].id, Some(spool_id(3)));
}

#[test]
fn bytes_after_the_last_commit_are_copied_aside() {
    let disk = small_spool(false);
    let bytes = disk.read(Path::new(SEGMENT)).unwrap();
    let end = usize::try_from(*commits(&bytes).last().unwrap()).unwrap();
    let mut file = disk.open(Path::new(SEGMENT)).unwrap();
    file.append(b"begun and never promised").unwrap();
    drop(file);
    let bench = Bench::open(&disk);
    assert_eq!(bench.report.set_aside, [Path::new("spool/00000001.tail")]);
    let tail = disk.read(Path::new("spool/00000001.tail")).unwrap();
    assert_eq!(tail, [&bytes[end..], b"begun and never promised"].concat());
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[test]
fn zeros_prepared_and_never_written_are_no_tail() {
    let disk = small_spool(false);
    disk.open(Path::new(SEGMENT)).unwrap().append(&[0; 10_000]).unwrap();
    let bench = Bench::open(&disk);
    assert!(bench.report.set_aside.is_empty());
    assert_eq!(bench.ids(), [1, 2, 3]);
}

/// Goal: zeros that were prepared hide no damaged commit record in front of them.
#[test]
fn a_damaged_commit_record_before_prepared_zeros_is_named_and_its_messages_stay() {
    let disk = small_spool(false);
    let end = *commits(&disk.read(Path::new(SEGMENT)).unwrap()).last().unwrap();
    disk.open(Path::new(SEGMENT)).unwrap().append(&[0; 100_000]).unwrap();
    for offset in end - 72..end {
        let disk = disk.after_crash(Crash::Kept);
        disk.flip(Path::new(SEGMENT), usize::try_from(offset).unwrap(), 16);
        let bench = Bench::open(&disk);
        assert_eq!(bench.ids(), [1, 2, 3], "flipped at {offset}: {:?}", bench.report);
        assert_eq!(bench.report.damaged.len(), 1, "flipped at {offset}");
    }
}

/// Goal: sectors of the last batch that a crash left unwritten are no alarm, and their octets are
/// copied aside; the same octets damaged are one.
#[test]
fn a_last_batch_with_unwritten_sectors_was_not_promised() {
    let whole = small_spool(false);
    let bytes = whole.read(Path::new(SEGMENT)).unwrap();
    let ends = commits(&bytes);
    let (start, end) = (ends[0] as usize, ends[1] as usize);
    let unclosed = whole.after_crash(Crash::Kept);
    unclosed.truncate(Path::new(SEGMENT), end);
    for sector in (start / 512..=(end - 1) / 512).filter(|sector| sector % 9 == 0 || *sector > 128)
    {
        let (from, to) = ((sector * 512).max(start), (sector * 512 + 512).min(end));
        let disk = unclosed.after_crash(Crash::Kept);
        disk.open(Path::new(SEGMENT)).unwrap().write_at(from as u64, &vec![0; to - from]).unwrap();
        let bench = Bench::open(&disk);
        assert_eq!(bench.ids(), [1], "sector {sector}");
        assert!(bench.report.damaged.is_empty(), "sector {sector}: {:?}", bench.report);
        assert_eq!(bench.report.set_aside, [Path::new("spool/00000001.tail")], "sector {sector}");
        if to == end {
            // Without its commit record nothing says that it was written whole.
            continue;
        }
        // Not all of it is zero: then it is damage.
        disk.open(Path::new(SEGMENT)).unwrap().write_at(from as u64, b"x").unwrap();
        disk.remove(Path::new("spool/00000001.tail")).unwrap();
        let bench = Bench::open(&disk.after_crash(Crash::Kept));
        assert!(!bench.report.damaged.is_empty(), "sector {sector}");
    }
}

#[test]
fn without_marks_everything_is_uncertain_and_stays_so() {
    let disk = small_spool(true);
    disk.remove(Path::new(MARKS)).unwrap();
    for _ in 0..2 {
        let bench = Bench::open(&disk);
        assert_eq!(bench.ids(), [1, 2, 3]);
        assert_eq!(bench.report.uncertain, 4);
        assert!([1, 2, 3].iter().all(|id| bench.states(*id).iter().all(|path| !path.is_due())));
        bench.close();
    }
    // A person settles it, and that counts.
    let mut bench = Bench::open(&disk);
    bench.mark(spool_id(1), 0, due()).unwrap();
    bench.close();
    assert!(Bench::open(&disk).states(1)[0].is_due());
}

/// Goal: a flipped octet in the marks makes paths uncertain, never due, never done.
#[test]
fn no_flipped_octet_of_the_marks_makes_anything_due_or_done() {
    let disk = small_spool(true);
    let size = disk.read(Path::new(MARKS)).unwrap().len();
    for offset in 0..size {
        let disk = disk.after_crash(Crash::Kept);
        disk.flip(Path::new(MARKS), offset, 1 << (offset % 8));
        let mut bench = Bench::open(&disk);
        assert_eq!(bench.ids(), [1, 2, 3], "flipped at {offset}");
        for id in 1..=3 {
            let states = bench.states(id);
            assert!(states.iter().all(|state| !state.is_due()), "flipped at {offset}: {states:?}");
        }
        let kept = "spool/00000001.marks.damaged";
        assert_eq!(bench.report.set_aside, [Path::new(kept)], "flipped at {offset}");
        // What was lost is not lost again by writing on.
        bench.mark(spool_id(1), 0, relayed()).unwrap();
        bench.close();
        let bench = Bench::open(&disk);
        assert_eq!(bench.ids(), [2, 3]);
        assert!(bench.states(3).iter().all(|state| !state.is_due()));
    }
}

#[test]
fn marks_cut_by_a_crash_say_what_was_acknowledged_before() {
    let disk = small_spool(true);
    let bytes = disk.read(Path::new(MARKS)).unwrap();
    let records = disk::log::scan(&bytes).records;
    let last = records.last().unwrap().start - disk::log::RECORD_HEADER;
    for cut in last + 1..bytes.len() {
        let disk = disk.after_crash(Crash::Kept);
        disk.truncate(Path::new(MARKS), cut);
        let mut bench = Bench::open(&disk);
        assert!(bench.states(2)[0].is_due(), "the offer was not acknowledged: cut at {cut}");
        assert!(bench.report.set_aside.is_empty());
        bench.mark(spool_id(2), 0, OFFERED).unwrap();
        bench.close();
        assert!(!Bench::open(&disk).states(2)[0].is_due());
    }
}

#[test]
fn damage_is_an_alarm_until_acknowledged_and_its_segment_is_kept() {
    let disk = small_spool(true);
    let at = disk.read(Path::new(SEGMENT)).unwrap().len() - 300;
    disk.flip(Path::new(SEGMENT), at, 4);
    let mut bench = Bench::open(&disk);
    assert_eq!(bench.ids(), [1, 2, 3], "a start reads headers only");
    assert!(matches!(read_all(&bench.spool, 3), Err(LoadError::Damaged(_))));
    assert_eq!(bench.ids(), [1, 2]);
    for id in 1..=2 {
        for path in 0..id as u32 {
            bench.mark(spool_id(id), path, relayed()).unwrap();
        }
    }
    assert!(files(&disk).contains(&"00000001.seg".to_owned()));
    let spool = bench.spool.clone();
    assert!(!spool.damaged()[0].acknowledged);
    assert_eq!(bench.wait(spool.acknowledge_damage()).unwrap(), 1);
    assert!(spool.damaged()[0].acknowledged);
    assert_eq!(bench.wait(spool.acknowledge_damage()).unwrap(), 0);
    assert_eq!(files(&disk), ["00000001.marks.damaged", "00000001.seg.damaged"]);
    drop((bench, spool));
    let mut bench = Bench::open(&disk);
    assert!(bench.report.damaged.is_empty());
    bench.hold(4, 1, b"x").unwrap();
    assert!(files(&disk).contains(&"00000002.seg".to_owned()), "the number is not used again");
}

#[test]
fn acknowledged_damage_is_no_alarm_after_a_start() {
    let disk = small_spool(true);
    let at = disk.read(Path::new(SEGMENT)).unwrap().len() - 300;
    disk.flip(Path::new(SEGMENT), at, 4);
    let mut bench = Bench::open(&disk);
    assert!(read_all(&bench.spool, 3).is_err());
    let spool = bench.spool.clone();
    bench.wait(spool.acknowledge_damage()).unwrap();
    drop(spool);
    bench.close();
    let bench = Bench::open(&disk);
    assert_eq!(bench.ids(), [1, 2], "not tried again");
    assert_eq!(bench.report.damaged.len(), 1);
    assert!(bench.report.damaged[0].acknowledged);
}

#[test]
fn a_frame_moved_to_another_place_is_not_read_there() {
    let disk = FaultyDisk::default();
    let mut bench = Bench::open(&disk);
    bench.hold(1, 1, &data(1, 100)).unwrap();
    bench.hold(2, 1, &data(2, 100)).unwrap();
    bench.close();
    // The bodies of two messages of one size change places, with their checksums.
    let path = Path::new(SEGMENT);
    let bytes = disk.read(path).unwrap();
    let first = format::SegmentHeader::length(&bytes).unwrap();
    let (header, _) = format::FrameHeader::decode(&bytes[first..]).unwrap();
    let length = usize::try_from(header.frame_length()).unwrap();
    let second = first + length + 64 + 8;
    let (other, _) = format::FrameHeader::decode(&bytes[second..]).unwrap();
    assert_eq!((other.id, other.length), (2, header.length));
    let body = |at: usize| bytes[at + 64..at + length].to_vec();
    let mut swapped = bytes.clone();
    for (to, from, header) in [(first, second, header), (second, first, other)] {
        let checksum = crc32c::crc32c(&body(from));
        swapped[to..to + 64].copy_from_slice(&header.encode(checksum));
        swapped[to + 64..to + length].copy_from_slice(&body(from));
    }
    disk.publish(path, &swapped).unwrap();
    let bench = Bench::open(&disk);
    for id in [1, 2] {
        assert!(matches!(read_all(&bench.spool, id), Err(LoadError::Damaged(_))));
    }
}
