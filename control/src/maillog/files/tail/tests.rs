//! One story each: what logrotate, writers, crashes and restarts do to a followed log.
#![allow(
    clippy::disallowed_methods,
    reason = "these tests play logrotate, in a folder of their own"
)]

use std::fs::{self, File};
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A folder with a log in it, who writes and rotates it, and who follows it.
pub(super) struct Scene {
    folder: tempfile::TempDir,
    pub(super) options: Options,
    pub(super) tail: Tail,
    pub(super) now_ns: u64,
    pub(super) told: Vec<String>,
    pub(super) lost: Vec<Lost>,
    turned: usize,
}

impl Scene {
    pub(super) fn new(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::in_folder(folder, options)
    }

    fn in_folder(folder: tempfile::TempDir, options: Options) -> Self {
        let tail = Tail::open(folder.path().join("mail.log"), None, options.clone()).unwrap();
        let (told, lost) = (Vec::new(), Vec::new());
        Self { folder, options, tail, now_ns: 0, told, lost, turned: 0 }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text.as_bytes());
    }

    pub(super) fn polled(&mut self) -> Result<Polled, TailError> {
        self.now_ns += SECOND;
        let Self { tail, told, lost, turned, .. } = self;
        tail.poll(self.now_ns, &mut |what| match what {
            Told::Lines { lines, .. } => {
                let lines = String::from_utf8_lossy(lines);
                told.extend(lines.split_inclusive('\n').map(|line| line.trim_end().to_owned()));
            }
            Told::Lost { why, .. } => lost.push(why),
            Told::Turned { .. } => *turned += 1,
        })
    }

    pub(super) fn poll(&mut self) -> Polled {
        self.polled().unwrap()
    }

    /// Polls for so long that what was rotated counts as quiet.
    pub(super) fn settle(&mut self) {
        for _ in 0..3 {
            self.now_ns += 60 * SECOND;
            while self.poll().more {}
        }
    }

    pub(super) fn restart(&mut self, checkpoint: &Checkpoint) {
        // A database keeps text.
        let kept = serde_json::to_string(checkpoint).unwrap();
        let checkpoint = serde_json::from_str(&kept).unwrap();
        let path = self.path("mail.log");
        self.tail = Tail::open(path, Some(checkpoint), self.options.clone()).unwrap();
    }

    pub(super) fn gz(&self, name: &str) {
        let packed = gz(&fs::read(self.path(name)).unwrap());
        fs::write(self.path(&format!("{name}.gz")), packed).unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    /// `mail.log.1` becomes `mail.log.2`, and so on.
    fn shift(&self) {
        for number in (1..50).rev() {
            for ending in ["", ".gz"] {
                let from = self.path(&format!("mail.log.{number}{ending}"));
                if from.exists() {
                    let to = self.path(&format!("mail.log.{}{ending}", number + 1));
                    fs::rename(from, to).unwrap();
                }
            }
        }
    }

    /// As logrotate does with `create`.
    pub(super) fn rotate(&self) {
        self.shift();
        fs::rename(self.path("mail.log"), self.path("mail.log.1")).unwrap();
        self.write("mail.log", "");
    }

    /// As logrotate does with `copytruncate`.
    pub(super) fn copytruncate(&self) {
        self.shift();
        fs::copy(self.path("mail.log"), self.path("mail.log.1")).unwrap();
        self.truncate();
    }

    pub(super) fn truncate(&self) {
        File::options().write(true).truncate(true).open(self.path("mail.log")).unwrap();
    }

    fn assert(&self, told: &[&str], lost: &[Lost]) {
        assert_eq!((&self.told[..], &self.lost[..]), (&strings(told)[..], lost));
    }
}

fn strings(told: &[&str]) -> Vec<String> {
    told.iter().map(|line| (*line).to_owned()).collect()
}

fn write(path: &Path, octets: &[u8]) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    file.write_all(octets).unwrap();
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn from_beginning() -> Options {
    Options {
        from: Start::Beginning { history: true },
        rotate_grace_ns: 10 * SECOND,
        ..Options::default()
    }
}

fn scene() -> Scene {
    Scene::new(from_beginning())
}

#[test]
fn a_file_that_is_not_there_yet_is_absent_and_read_when_it_comes() {
    let mut scene = Scene::new(Options::default());
    assert_eq!(scene.poll(), Polled { more: false, octets: 0, absent: true });
    scene.write("mail.log", "one\n");
    assert_eq!(scene.poll(), Polled { more: false, octets: 4, absent: false });
    scene.assert(&["one"], &[]);
}

#[test]
fn a_line_is_told_when_it_is_whole() {
    let mut scene = scene();
    scene.write("mail.log", "one\ntw");
    scene.poll();
    scene.assert(&["one"], &[]);
    scene.write("mail.log", "o\n");
    scene.poll();
    scene.assert(&["one", "two"], &[]);
}

#[test]
fn what_was_there_before_the_start_is_not_told_nor_the_rest_of_its_last_line() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("mail.log"), b"old\nha");
    let mut scene = Scene::in_folder(folder, Options::default());
    let first = scene.tail.checkpoint();
    scene.write("mail.log", "lf\nnew\n");
    scene.poll();
    scene.assert(&["new"], &[]);
    scene.restart(&first);
    scene.poll();
    scene.assert(&["new", "new"], &[]);
}

#[test]
fn history_is_told_oldest_first_if_it_is_asked_for() {
    for history in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("mail.log.2.gz"), &gz(b"oldest\n"));
        write(&folder.path().join("mail.log.1"), b"older\n");
        write(&folder.path().join("mail.log"), b"now\n");
        let from = Start::Beginning { history };
        let mut scene = Scene::in_folder(folder, Options { from, ..from_beginning() });
        scene.settle();
        let all: &[&str] = if history { &["oldest", "older", "now"] } else { &["now"] };
        scene.assert(all, &[]);
    }
}

#[test]
fn a_line_written_between_poll_and_rename_is_read() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.write("mail.log", "two\n");
    scene.rotate();
    scene.write("mail.log", "three\n");
    scene.settle();
    scene.assert(&["one", "two", "three"], &[]);
    assert_eq!(scene.turned, 1);
}

/// A writer whose reload was slow, or that was quiet until then.
#[test]
fn what_is_added_to_a_file_that_counted_as_finished_is_told_all_the_same() {
    let mut scene = Scene::new(from_beginning());
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.rotate();
    scene.settle();
    scene.write("mail.log", "three\n");
    scene.poll();
    scene.write("mail.log.1", "two\n");
    scene.poll();
    scene.assert(&["one", "three", "two"], &[]);
    scene.now_ns += 3600 * SECOND;
    scene.poll();
    scene.write("mail.log.1", "too late\n");
    scene.poll();
    scene.assert(&["one", "three", "two"], &[]);
}

#[test]
fn a_writer_that_goes_on_with_the_rotated_file_is_read_first() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.rotate();
    scene.write("mail.log", "four\n");
    scene.poll();
    scene.write("mail.log.1", "two\n");
    for _ in 0..9 {
        scene.poll();
    }
    scene.write("mail.log.1", "three\n");
    scene.poll();
    scene.assert(&["one", "two", "three"], &[]);
    scene.settle();
    scene.assert(&["one", "two", "three", "four"], &[]);
}

#[test]
fn a_last_line_without_end_is_told_when_its_file_is_finished() {
    let mut scene = scene();
    scene.write("mail.log", "one\nhalf");
    scene.poll();
    scene.rotate();
    scene.write("mail.log", "two\n");
    scene.settle();
    scene.assert(&["one", "half", "two"], &[]);
}

#[test]
fn between_rename_and_create_the_file_is_absent_and_nothing_is_lost() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    fs::rename(scene.path("mail.log"), scene.path("mail.log.1")).unwrap();
    scene.write("mail.log.1", "two\n");
    scene.settle();
    assert!(scene.poll().absent);
    scene.write("mail.log", "three\n");
    scene.settle();
    scene.assert(&["one", "two", "three"], &[]);
}

#[test]
fn several_rotations_between_two_polls_are_read_in_order() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    for line in ["two\n", "three\n", "four\n"] {
        scene.write("mail.log", line);
        scene.rotate();
    }
    scene.gz("mail.log.2");
    scene.gz("mail.log.3");
    scene.write("mail.log", "five\n");
    scene.settle();
    scene.assert(&["one", "two", "three", "four", "five"], &[]);
    assert_eq!(scene.turned, 3);
}

#[test]
fn a_file_that_was_rotated_and_packed_during_a_downtime_is_read_on() {
    for pack in [false, true] {
        let mut scene = scene();
        scene.write("mail.log", &"long enough a line\n".repeat(9000));
        scene.poll();
        let checkpoint = scene.tail.checkpoint();
        scene.told.clear();
        scene.write("mail.log", "two\n");
        scene.rotate();
        scene.write("mail.log", "three\n");
        scene.rotate();
        scene.write("mail.log", "four\n");
        if pack {
            scene.gz("mail.log.1");
            scene.gz("mail.log.2");
        }
        scene.restart(&checkpoint);
        scene.settle();
        scene.assert(&["two", "three", "four"], &[]);
    }
}

#[test]
fn a_file_that_was_empty_when_last_seen_is_found_behind_the_one_before() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.rotate();
    scene.settle();
    scene.write("mail.log", "two\n");
    scene.rotate();
    scene.gz("mail.log.1");
    scene.write("mail.log", "three\n");
    let checkpoint = scene.tail.checkpoint();
    scene.restart(&checkpoint);
    scene.settle();
    scene.assert(&["one", "two", "three"], &[]);
}

#[test]
fn dated_history_is_read_in_order() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    fs::rename(scene.path("mail.log"), scene.path("mail.log-20261122")).unwrap();
    scene.gz("mail.log-20261122");
    scene.write("mail.log-20261123", "two\n");
    scene.write("mail.log", "three\n");
    scene.settle();
    scene.assert(&["one", "two", "three"], &[]);
}

#[test]
fn a_file_that_is_not_there_any_more_is_told_as_lost_and_what_is_left_is_read() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    let checkpoint = scene.tail.checkpoint();
    fs::remove_file(scene.path("mail.log")).unwrap();
    scene.write("mail.log.1", "three\n");
    scene.write("mail.log", "four\n");
    scene.restart(&checkpoint);
    scene.settle();
    scene.assert(&["one", "three", "four"], &[Lost::Gone]);
}

#[test]
fn an_open_file_that_was_removed_is_read_to_its_end_and_told_as_lost() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.write("mail.log", "two\n");
    fs::remove_file(scene.path("mail.log")).unwrap();
    scene.write("mail.log", "three\n");
    scene.settle();
    scene.assert(&["one", "two", "three"], &[Lost::Gone]);
}

#[test]
fn what_was_written_between_poll_and_copytruncate_is_read_from_the_copy() {
    for pack in [false, true] {
        let mut scene = scene();
        scene.write("mail.log", "one\n");
        scene.poll();
        scene.write("mail.log", "two\n");
        scene.copytruncate();
        if pack {
            scene.gz("mail.log.1");
        }
        scene.write("mail.log", "3\n");
        scene.settle();
        scene.assert(&["one", "two", "3"], &[]);
    }
}

#[test]
fn a_file_that_has_outgrown_its_old_length_since_copytruncate_is_noticed() {
    let mut scene = scene();
    let same = "the same beginning\n".repeat(60);
    scene.write("mail.log", &same);
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.write("mail.log", "two\n");
    scene.copytruncate();
    scene.write("mail.log", &same);
    scene.write("mail.log", "three, and longer than before\n");
    scene.told.clear();
    scene.settle();
    assert_eq!((scene.told.len(), scene.told[0].as_str()), (62, "two"));
    assert!(scene.lost.is_empty());
}

#[test]
fn truncation_without_a_copy_is_told_as_lost() {
    for then in ["2\n", "two, and longer than before\n"] {
        let mut scene = scene();
        scene.write("mail.log", "one\n");
        scene.poll();
        let checkpoint = scene.tail.checkpoint();
        scene.truncate();
        scene.write("mail.log", then);
        scene.settle();
        scene.assert(&["one", then.trim_end()], &[Lost::Truncated]);
        scene.restart(&checkpoint);
        scene.settle();
        scene.assert(&["one", then.trim_end(), then.trim_end()], &[Lost::Truncated, Lost::Gone]);
    }
}

#[test]
fn a_copy_that_is_still_being_made_is_not_read_twice() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.rotate();
    scene.settle();
    scene.shift();
    scene.write("mail.log", "two\nthree\n");
    scene.write("mail.log.1", "two\nth");
    scene.settle();
    scene.assert(&["one", "two", "three"], &[]);
    scene.write("mail.log.1", "ree\nfour\n");
    scene.truncate();
    scene.settle();
    scene.write("mail.log", "five\n");
    scene.settle();
    scene.assert(&["one", "two", "three", "four", "five"], &[]);
}

#[test]
fn zeros_are_skipped_and_told() {
    let mut scene = scene();
    scene.write("mail.log", "one\n\0\0\0\0");
    scene.poll();
    scene.assert(&["one"], &[Lost::Zeros]);
    let checkpoint = scene.tail.checkpoint();
    scene.write("mail.log", "two\n");
    scene.restart(&checkpoint);
    scene.poll();
    scene.assert(&["one", "two"], &[Lost::Zeros]);
}

#[test]
fn a_writer_that_goes_on_at_its_old_place_after_copytruncate_leaves_a_hole_that_is_skipped() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    let file = File::options().write(true).open(scene.path("mail.log")).unwrap();
    scene.poll();
    scene.copytruncate();
    std::os::unix::fs::FileExt::write_all_at(&file, b"two\n", 4).unwrap();
    scene.settle();
    scene.assert(&["one", "two"], &[Lost::Zeros]);
}

#[test]
fn a_line_that_is_too_long_is_cut_once_even_over_a_restart() {
    let mut scene = Scene::new(Options { line_max: 5, ..from_beginning() });
    scene.write("mail.log", "1234567");
    scene.poll();
    let checkpoint = scene.tail.checkpoint();
    scene.restart(&checkpoint);
    scene.write("mail.log", "89\nnext\n");
    scene.poll();
    scene.assert(&["12345", "next"], &[Lost::LongLine, Lost::LongLine]);
}

#[test]
fn a_poll_is_bounded_and_says_that_there_is_more() {
    let mut scene = Scene::new(Options { poll_octets_max: 1, ..from_beginning() });
    let line = "a line of some length\n";
    scene.write("mail.log", &line.repeat(30_000));
    let polled = scene.poll();
    assert_eq!((polled.more, polled.octets), (true, READ_OCTETS as u64));
    while scene.poll().more {}
    assert_eq!(scene.told.len(), 30_000);
}

#[test]
fn positions_and_the_chain_are_those_of_the_file() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    scene.write("mail.log", "two\nthree\n");
    let mut places = Vec::new();
    scene
        .tail
        .poll(1, &mut |told| match told {
            Told::Lines { position, lines } => places.push((position.clone(), lines.to_vec())),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert_eq!(places.len(), 1);
    assert_eq!((places[0].0.offset, &places[0].1[..]), (4, &b"two\nthree\n"[..]));
    assert_eq!(places[0].0.path, scene.path("mail.log"));
    assert_eq!(Some(places[0].0.file), stat(&scene.path("mail.log")).unwrap());
    scene.rotate();
    scene.write("mail.log", "four\n");
    let mut ends = Vec::new();
    for now_ns in [2, 60 * SECOND] {
        let mut each = |told: Told<'_>| {
            if let Told::Turned { end, chain } = told {
                ends.push((end.offset, chain));
            }
        };
        scene.tail.poll(now_ns, &mut each).unwrap();
    }
    let mut file = File::open(scene.path("mail.log.1")).unwrap();
    assert_eq!(ends, [(14, crate::maillog::files::chain::of_prefix(&mut file, 14).unwrap())]);
}

#[test]
fn the_fingerprint_of_a_short_file_is_completed_while_it_grows() {
    let mut scene = scene();
    let mut octets = Vec::new();
    for length in [10, 500, 500, 500] {
        scene.write("mail.log", &format!("{}\n", "x".repeat(length - 1)));
        scene.poll();
        let known = scene.tail.checkpoint().reading.unwrap();
        let content = fs::read(scene.path("mail.log")).unwrap();
        assert_eq!(known.mark.fingerprint, crate::maillog::files::file::Fingerprint::of(&content));
        octets.push(known.mark.fingerprint.octets);
        scene.restart(&scene.tail.checkpoint());
    }
    assert_eq!(octets, [10, 510, 1010, 1024]);
}

#[test]
fn a_damaged_or_strange_rotated_file_is_told_as_lost_and_the_next_is_read() {
    let mut scene = scene();
    scene.write("mail.log", "one\n");
    scene.poll();
    let text: String =
        (0..50_000_u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
    let packed = gz(text.as_bytes());
    scene.rotate();
    fs::write(scene.path("mail.log"), b"\xfd7zXZ\0 packed with xz").unwrap();
    scene.rotate();
    fs::write(scene.path("mail.log"), &packed[..packed.len() / 2]).unwrap();
    scene.rotate();
    scene.write("mail.log", "last\n");
    scene.settle();
    assert_eq!(scene.lost, [Lost::Compressed, Lost::BrokenGz]);
    assert_eq!(scene.told.last().unwrap(), "last");
    let checkpoint = scene.tail.checkpoint();
    let told = scene.told.len();
    scene.restart(&checkpoint);
    scene.settle();
    assert_eq!((scene.told.len(), scene.lost.len()), (told, 2));
}

#[test]
fn a_link_is_followed_and_a_dangling_one_is_absent() {
    let mut scene = scene();
    let target = scene.path("target");
    std::os::unix::fs::symlink(&target, scene.path("mail.log")).unwrap();
    assert!(scene.poll().absent);
    fs::write(&target, "one\n").unwrap();
    scene.poll();
    fs::rename(&target, scene.path("target.1")).unwrap();
    scene.settle();
    fs::write(&target, "two\n").unwrap();
    scene.settle();
    scene.assert(&["one", "two"], &[]);
}

#[test]
fn folders_fifos_and_utf_16_are_refused_by_name() {
    let mut scene = scene();
    fs::create_dir(scene.path("mail.log")).unwrap();
    assert!(matches!(scene.polled(), Err(TailError::Folder { .. })));
    fs::remove_dir(scene.path("mail.log")).unwrap();
    let fifo = scene.path("mail.log");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(scene.polled(), Err(TailError::Special { .. })));
    fs::remove_file(&fifo).unwrap();
    fs::write(&fifo, b"\xff\xfeo\0n\0e\0\n\0").unwrap();
    let error = scene.polled().unwrap_err();
    assert!(matches!(error, TailError::Utf16 { .. }));
    assert!(error.to_string().contains(&fifo.display().to_string()));
}

#[test]
fn a_file_that_cannot_be_reached_is_an_error_that_says_what_to_do() {
    // Root may read everything; a path through a file is refused to everybody.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"").unwrap();
    let mut tail = Tail::open(folder.path().join("file/mail.log"), None, from_beginning()).unwrap();
    let error = tail.poll(0, &mut |_| {}).unwrap_err();
    assert!(matches!(error, TailError::Unreadable { .. }));
    assert!(error.to_string().contains("file/mail.log"), "{error}");
    assert!(error.to_string().contains("member of the group"), "{error}");
}
