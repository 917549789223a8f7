//! Lines from journald, by a `journalctl` that follows it.
//!
//! Facts of journalctl (systemd 219 to 257) that this is built on:
//! - `-o json` writes one entry per line; without `--all` values over 4096 octets are `null`.
//! - `--after-cursor` with an entry that is gone starts at the nearest one and does not say so, and
//!   before 256 skips that one (systemd issue 30288). So `--cursor` is asked for, whose first entry
//!   must be the known one.
//! - `--follow` shows at most ten old entries, unless `--no-tail` is given.
//! - A user who may not read the system journal gets his own one, without an error under `-o json`:
//!   lockgate's user must be in the group `systemd-journal` (or `adm`).
//! - Notices that journald suppressed messages are entries of its own, which a match hides.
//!
//! Invariants
//! - Each entry is told once and in order, over any number of ends of the child; where that cannot
//!   be proved a loss is told.
//! - While the channel is full the child is not read: it waits, nothing is dropped.
//! - The child ends with us: killed and reaped at the stop, killed where the task is dropped.
//!
//! Not here: lines of the child's (`output`), what an entry is (`entry`), keeping the cursor: the caller keeps that of the last
//! line it has dealt with.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::maillog::feeds::entry::{Entry, Said, same_entry, written_us};
use crate::maillog::feeds::output::{Complaints, Lines, OutputLine};
use crate::maillog::feeds::told::{Arrived, Clock, Down, Lost, Origin, Source, Told, Why};

/// Octets that are read at once.
const READ_OCTETS: usize = 64 << 10;

/// How long a child whose output has ended may take to end.
const END_WAIT: Duration = Duration::from_secs(1);

/// So many children in a row that showed nothing: the cursor may be what they stumble over.
const STUMBLES_MAX: u32 = 3;

/// `MESSAGE_ID` of journald's notice that it suppressed messages (`SD_MESSAGE_JOURNAL_DROPPED`).
const SUPPRESSED: &str = "MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e";

/// Options that would change what is ours to decide: where to begin, how far, in which form.
const OURS: [&str; 16] = [
    "-o",
    "--output",
    "-f",
    "--follow",
    "-n",
    "--lines",
    "-c",
    "--cursor",
    "--after-cursor",
    "--cursor-file",
    "-S",
    "--since",
    "-U",
    "--until",
    "-r",
    "--reverse",
];

/// Reading from journald.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The program.
    pub program: PathBuf,
    /// What to read: matches such as `SYSLOG_FACILITY=2`, and options such as `-u`,
    /// `postfix@-.service` or `--directory=/mnt/journal`. Where all are matches, journald's notices
    /// that it suppressed messages are read too; with `-u` or `-t` they cannot be seen.
    pub arguments: Vec<String>,
    /// Most octets of an entry with all its fields; a longer one is told as lost.
    pub line_octets_max: usize,
    /// Milliseconds before a child that ended is started again; doubled each time.
    pub restart_first_ms: u64,
    /// Longest pause before a child is started again, in seconds.
    pub restart_max_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            program: "journalctl".into(),
            arguments: vec!["SYSLOG_FACILITY=2".into()],
            line_octets_max: 1 << 20,
            restart_first_ms: 1000,
            restart_max_s: 60,
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        if self.program.as_os_str().is_empty() {
            return Err("program must name journalctl".into());
        }
        for argument in &self.arguments {
            let name = argument.split_once('=').map_or(argument.as_str(), |(name, _)| name);
            if argument.is_empty() || argument == "--" || argument.contains('\0') {
                return Err(format!("arguments: {argument:?} is no argument of journalctl"));
            }
            // Of short options the value may follow at once: `-n5`.
            let sets = |ours: &str| match ours.len() {
                2 => argument.starts_with(ours),
                _ => name == ours,
            };
            if OURS.into_iter().any(sets) {
                return Err(format!("arguments: leave {name} out, lockgate sets it"));
            }
        }
        if !(4096..=64 << 20).contains(&self.line_octets_max) {
            return Err("line_octets_max must be 4096 to 67108864".into());
        }
        if !(1..=60_000).contains(&self.restart_first_ms) {
            return Err("restart_first_ms must be 1 to 60000".into());
        }
        if !(1..=3600).contains(&self.restart_max_s) {
            return Err("restart_max_s must be 1 to 3600".into());
        }
        Ok(())
    }

    /// The pause after so many ends in a row without a line.
    fn pause(&self, ends: u32) -> Duration {
        let doubled = 2_u64.saturating_pow(ends.saturating_sub(1));
        let pause = Duration::from_millis(self.restart_first_ms.saturating_mul(doubled));
        pause.min(Duration::from_secs(self.restart_max_s))
    }
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is written from now on.
    Now,
    /// With what was written since then, in microseconds since 1970.
    Since(u64),
    /// Behind the entry of this cursor.
    After(String),
}

/// Reads from journald.
#[derive(Debug)]
pub struct Journald {
    config: Config,
    to: mpsc::Sender<Told>,
    clock: Clock,
    stop: CancellationToken,
    place: Place,
    /// Children in a row that ended without a line.
    ends: u32,
}

/// How far reading has come.
#[derive(Clone, Debug)]
enum Place {
    Since(u64),
    After(String),
}

/// Why a child is not read any more.
enum Ended {
    /// We stop, or nobody reads.
    ByUs,
    /// It ended by itself, for people to read.
    Child(String),
}

impl Journald {
    /// A reader that does not read yet.
    #[must_use]
    pub fn new(
        config: Config,
        start: Start,
        to: mpsc::Sender<Told>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let place = match start {
            // By time, not by `-n 0`: a child that is started again must not leave a gap.
            Start::Now => Place::Since(clock.now_ns() / 1000),
            Start::Since(microseconds) => Place::Since(microseconds),
            Start::After(cursor) => Place::After(cursor),
        };
        Self { config, to, clock, stop, place, ends: 0 }
    }

    /// Reads until the stop, or until nobody reads.
    pub async fn run(mut self) {
        loop {
            let ended = match self.command().spawn() {
                Ok(child) => self.follow(child).await,
                Err(error) => {
                    Ended::Child(format!("cannot start {}: {error}", self.config.program.display()))
                }
            };
            let Ended::Child(why) = ended else { return };
            self.ends = self.ends.saturating_add(1);
            let pause = self.config.pause(self.ends);
            let at_ns = self.clock.now_ns();
            let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
            tracing::warn!(%why, pause_ms = pause.as_millis(), "journald is not read for now");
            let down = Down { why, at_ns, retry_ns: at_ns.saturating_add(pause_ns) };
            if !self.tell(Told::Down(down)).await {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.to.closed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.config.program);
        command.args(["-o", "json", "-f", "--no-pager", "--all", "--no-tail"]);
        command.arg(match &self.place {
            Place::Since(microseconds) => since(*microseconds),
            Place::After(cursor) => match written_us(cursor).filter(|_| self.stumbles()) {
                // The first entry then still has to be the known one.
                Some(microseconds) => since(microseconds),
                None => format!("--cursor={cursor}"),
            },
        });
        let arguments = &self.config.arguments;
        command.args(arguments);
        if !arguments.is_empty() && !arguments.iter().any(|argument| argument.starts_with('-')) {
            command.args(["+", SUPPRESSED]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Every other child after some that showed nothing: what is amiss may be something else.
    const fn stumbles(&self) -> bool {
        self.ends >= STUMBLES_MAX && self.ends % 2 == 1
    }

    async fn follow(&mut self, mut child: Child) -> Ended {
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Ended::Child("no pipes to the child".into());
        };
        let mut complaints = Complaints::new(errors);
        let read = self.read(output, &mut complaints).await;
        if read == Reading::Ended {
            timeout(END_WAIT, complaints.rest()).await.ok();
            let status = timeout(END_WAIT, child.wait()).await;
            if let Ok(status) = status {
                return Ended::Child(complaints.why(status));
            }
        }
        if let Err(error) = child.kill().await {
            tracing::warn!(%error, "journalctl cannot be killed");
        }
        match read {
            Reading::Ended => Ended::Child("closed its output, and was killed".into()),
            Reading::Stopped => Ended::ByUs,
        }
    }

    async fn read(&mut self, mut output: ChildStdout, complaints: &mut Complaints) -> Reading {
        let mut lines = Lines::new(self.config.line_octets_max);
        let mut buffer = vec![0; READ_OCTETS];
        let mut check = match &self.place {
            Place::Since(_) => None,
            Place::After(cursor) => Some(cursor.clone()),
        };
        loop {
            let read = tokio::select! {
                () = self.stop.cancelled() => return Reading::Stopped,
                () = self.to.closed() => return Reading::Stopped,
                () = complaints.next() => continue,
                read = output.read(&mut buffer) => read,
            };
            let octets = match read {
                Ok(0) => return Reading::Ended,
                Ok(octets) => octets,
                Err(error) => {
                    tracing::warn!(%error, "the output of journalctl cannot be read");
                    return Reading::Ended;
                }
            };
            for line in lines.push(buffer.get(..octets).unwrap_or_default()) {
                if !self.take(&line, &mut check).await {
                    return Reading::Stopped;
                }
            }
        }
    }

    /// Tells a line of the child's; whether to go on.
    async fn take(&mut self, line: &OutputLine, check: &mut Option<String>) -> bool {
        let json = match line {
            OutputLine::TooLong => return self.lost(Some(1), Why::TooLong).await,
            OutputLine::Whole(json) => json,
        };
        // journalctl marks a new boot so, in some versions whatever the form.
        if json.is_empty() || json.starts_with(b"-- ") {
            return true;
        }
        let entry = match Entry::read(json) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!(%error, "a line of journalctl's is not understood");
                return self.lost(Some(1), Why::Unreadable).await;
            }
        };
        if let Some(known) = check.take() {
            if same_entry(&known, &entry.cursor) {
                self.ends = 0;
                return true;
            }
            if !self.lost(None, Why::CursorGone).await {
                return false;
            }
        }
        let told = match entry.said {
            Said::Nothing => true,
            Said::TooLarge => self.lost(Some(1), Why::TooLong).await,
            Said::Line(line) => {
                let from = Origin::Journald { cursor: entry.cursor.clone() };
                let arrived = Arrived { line, from, arrived_ns: self.clock.now_ns() };
                self.tell(Told::Line(arrived)).await
            }
        };
        if told {
            self.place = Place::After(entry.cursor);
            self.ends = 0;
        }
        told
    }

    async fn lost(&self, lines: Option<u64>, why: Why) -> bool {
        let now = self.clock.now_ns();
        let source = Source::Journald;
        self.tell(Told::Lost(Lost { lines, why, source, first_ns: now, last_ns: now })).await
    }

    /// Waits for room, but not at the stop: what is not told is read again from the cursor.
    async fn tell(&self, told: Told) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            sent = self.to.send(told) => sent.is_ok(),
        }
    }
}

fn since(microseconds: u64) -> String {
    format!("--since=@{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000)
}

/// Whether there was more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Ended,
    Stopped,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Child as StdChild, Command as StdCommand};

    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    use super::*;

    /// Only so that a failure does not hang.
    const GUARD: Duration = Duration::from_secs(60);
    const NOW_NS: u64 = 1_795_514_400_000_001_000;

    /// A `journalctl` that writes its arguments to `arguments.N` at its N-th start, shows
    /// `shown.N`, and then does what `then.N` says, else stays.
    struct Fake {
        folder: TempDir,
    }

    impl Fake {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let script = r#"#!/bin/sh
cd "${0%/*}" || exit 9
n=$(($(cat starts 2>/dev/null || echo 0) + 1))
printf '%s\n' "$@" > "arguments.$n"
echo $$ > "pid.$n"
echo $n > starts
[ -e "shown.$n" ] && cat "shown.$n"
[ -e "then.$n" ] && . "./then.$n"
exec sleep 100000
"#;
            // Written by another process: a script that another thread's child still holds open
            // for writing could not be started (ETXTBSY).
            let path = folder.path().join("journalctl");
            let mut shell = StdCommand::new("/bin/sh")
                .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(shell.wait().unwrap().success());
            Self { folder }
        }

        fn shows(self, start: u32, text: &str) -> Self {
            std::fs::write(self.folder.path().join(format!("shown.{start}")), text).unwrap();
            self
        }

        fn then(self, start: u32, text: &str) -> Self {
            std::fs::write(self.folder.path().join(format!("then.{start}")), text).unwrap();
            self
        }

        fn arguments(&self, start: u32) -> String {
            let path = self.folder.path().join(format!("arguments.{start}"));
            std::fs::read_to_string(path).unwrap().trim().replace('\n', " ")
        }

        fn pid(&self, start: u32) -> String {
            let path = self.folder.path().join(format!("pid.{start}"));
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        }

        fn config(&self) -> Config {
            Config {
                program: self.folder.path().join("journalctl"),
                restart_first_ms: 1,
                ..Config::default()
            }
        }
    }

    struct Running {
        told: mpsc::Receiver<Told>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start(config: Config, start: Start, capacity: usize) -> Running {
        let (to, told) = mpsc::channel(capacity);
        let stop = CancellationToken::new();
        let clock = Clock::new(|| NOW_NS);
        let journald = Journald::new(config, start, to, clock, stop.clone());
        Running { told, stop, task: tokio::spawn(journald.run()) }
    }

    impl Running {
        /// The next that is told, in short.
        async fn next(&mut self) -> String {
            let told = timeout(GUARD, self.told.recv()).await.unwrap();
            short(&told.expect("the reader has ended"))
        }

        async fn several(&mut self, count: usize) -> Vec<String> {
            let mut several = Vec::new();
            while several.len() < count {
                several.push(self.next().await);
            }
            several
        }

        async fn ends(self) {
            timeout(GUARD, self.task).await.unwrap().unwrap();
        }
    }

    fn short(told: &Told) -> String {
        match told {
            Told::Line(Arrived { line, from: Origin::Journald { cursor }, arrived_ns: NOW_NS }) => {
                let line = String::from_utf8_lossy(line);
                let cursor = if cursor.len() > 9 { "…" } else { cursor };
                format!("{cursor} {}", line.split_once(": ").unwrap().1)
            }
            Told::Lost(lost) => format!("{:?} {:?}", lost.why, lost.lines),
            Told::Down(_) => "down".to_owned(),
            Told::Line(_) => format!("{told:?}"),
        }
    }

    fn entry(cursor: &str, text: &str) -> String {
        format!(
            "{{\"__CURSOR\":\"{cursor}\",\"__REALTIME_TIMESTAMP\":\"1795514400000000\",\"_HOSTNAME\":\"mx\",\
             \"SYSLOG_IDENTIFIER\":\"x\",\"MESSAGE\":{text}}}\n"
        )
    }

    fn entries(range: std::ops::RangeInclusive<u32>) -> String {
        range.map(|number| entry(&format!("c{number}"), &format!("\"m{number}\""))).collect()
    }

    fn gone(pid: &str) -> bool {
        !Path::new("/proc").join(pid).exists()
    }

    #[tokio::test]
    async fn entries_come_in_order_from_the_start_on() {
        let fake = Fake::new().shows(1, &entries(1..=3));
        let mut running = start(fake.config(), Start::Now, 9);
        assert_eq!(running.several(3).await, ["c1 m1", "c2 m2", "c3 m3"]);
        assert_eq!(
            fake.arguments(1),
            "-o json -f --no-pager --all --no-tail --since=@1795514400.000001 \
             SYSLOG_FACILITY=2 + MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e"
        );
    }

    #[tokio::test]
    async fn arguments_are_handed_on_without_a_shell() {
        let fake = Fake::new().shows(1, &entries(1..=1));
        let arguments = ["-u", "postfix@-.service", "$(touch x)"].map(str::to_owned).to_vec();
        let config = Config { arguments, ..fake.config() };
        let mut running = start(config, Start::Since(5_000_007), 9);
        assert_eq!(running.next().await, "c1 m1");
        assert!(
            fake.arguments(1).ends_with("--since=@5.000007 -u postfix@-.service $(touch x)"),
            "{}",
            fake.arguments(1)
        );
    }

    #[tokio::test]
    async fn a_child_that_ends_goes_on_behind_the_last_entry() {
        let fake = Fake::new()
            .shows(1, &(entries(1..=2) + "{\"__CURSOR\":\"c3\",\"__REAL"))
            .then(1, "exit 3")
            .shows(2, &entries(2..=4));
        let mut running = start(fake.config(), Start::Now, 9);
        assert_eq!(running.several(5).await, ["c1 m1", "c2 m2", "down", "c3 m3", "c4 m4"]);
        assert!(fake.arguments(2).contains(" --cursor=c2 SYSLOG_FACILITY=2"));
    }

    #[tokio::test]
    async fn before_the_first_entry_a_new_child_begins_where_the_former_did() {
        let fake = Fake::new().then(1, "exit").shows(2, &entries(1..=1));
        let mut running = start(fake.config(), Start::Now, 9);
        assert_eq!(running.several(2).await, ["down", "c1 m1"]);
        assert_eq!(fake.arguments(1), fake.arguments(2));
    }

    #[tokio::test]
    async fn a_cursor_that_is_gone_is_told() {
        let fake = Fake::new().shows(1, &entries(4..=5));
        let mut running = start(fake.config(), Start::After("c1".into()), 9);
        assert_eq!(running.several(3).await, ["CursorGone None", "c4 m4", "c5 m5"]);
    }

    #[tokio::test]
    async fn a_cursor_that_is_refused_gives_way_to_its_time() {
        let cursor = "s=1;i=1;b=3a;m=68;t=6610c7b314a13;x=f1";
        for (shown, expected) in [
            (entries(7..=7), vec!["CursorGone None", "c7 m7"]),
            (entry(cursor, "\"known\"") + &entries(7..=7), vec!["c7 m7"]),
        ] {
            let mut fake = Fake::new();
            for refused in 1..=3 {
                fake = fake.then(refused, "echo 'Failed to seek to cursor' >&2; exit 1");
            }
            let fake = fake.shows(4, &shown);
            let mut running = start(fake.config(), Start::After(cursor.into()), 9);
            assert_eq!(running.several(3).await, ["down", "down", "down"]);
            assert_eq!(running.several(expected.len()).await, expected);
            assert!(fake.arguments(3).contains(&format!(" --cursor={cursor} ")));
            assert!(fake.arguments(4).contains(" --since=@1795556094.593555 "));
        }
    }

    #[tokio::test]
    async fn what_is_not_readable_is_told_as_lost() {
        let long = entry("c2", &format!("\"{}\"", "a".repeat(5000)));
        let shown = [
            entries(1..=1),
            long,
            entry("c3", "null"),
            "-- Reboot --\n\n".to_owned(),
            "rubbish\n".to_owned(),
            entries(4..=4),
        ]
        .concat();
        let fake = Fake::new().shows(1, &shown);
        let config = Config { line_octets_max: 4096, ..fake.config() };
        let mut running = start(config, Start::Now, 9);
        assert_eq!(
            running.several(5).await,
            ["c1 m1", "TooLong Some(1)", "TooLong Some(1)", "Unreadable Some(1)", "c4 m4"]
        );
    }

    #[tokio::test]
    async fn a_full_channel_makes_the_child_wait_and_loses_nothing() {
        let fake = Fake::new().shows(1, &entries(1..=3000));
        let mut running = start(fake.config(), Start::Now, 1);
        for number in 1..=3000 {
            assert_eq!(running.next().await, format!("c{number} m{number}"));
        }
    }

    #[tokio::test]
    async fn the_stop_kills_and_reaps_the_child_even_where_the_channel_is_full() {
        let fake = Fake::new().shows(1, &entries(1..=100));
        let mut running = start(fake.config(), Start::Now, 1);
        running.next().await;
        let pid = fake.pid(1);
        assert!(!gone(&pid));
        running.stop.cancel();
        timeout(GUARD, &mut running.task).await.unwrap().unwrap();
        assert!(gone(&pid), "the child lives, or is a zombie");
    }

    #[tokio::test]
    async fn the_child_does_not_outlive_a_task_that_is_dropped() {
        let fake = Fake::new().shows(1, &entries(1..=1));
        let mut running = start(fake.config(), Start::Now, 9);
        running.next().await;
        running.task.abort();
        let pid = fake.pid(1);
        let dead = async {
            loop {
                let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                // Gone, or a zombie that the runtime has yet to reap.
                if status.map_or(true, |status| status.contains(") Z ")) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(GUARD, dead).await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_it() {
        let fake = Fake::new().shows(1, &entries(1..=1));
        let mut running = start(fake.config(), Start::Now, 9);
        running.next().await;
        let Running { told, task, .. } = running;
        drop(told);
        timeout(GUARD, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_told_and_tried_again() {
        let config = Config {
            program: "/nowhere/journalctl".into(),
            restart_first_ms: 1,
            ..Config::default()
        };
        let mut running = start(config, Start::Now, 1);
        for _ in 0..3 {
            let Some(Told::Down(down)) = timeout(GUARD, running.told.recv()).await.unwrap() else {
                panic!("no `Down`");
            };
            assert!(down.why.contains("/nowhere/journalctl"), "{}", down.why);
            assert!(down.retry_ns > NOW_NS);
        }
        running.stop.cancel();
        running.told.close();
        running.ends().await;
    }

    #[tokio::test]
    async fn the_last_complaint_says_why_the_child_ended() {
        let fake = Fake::new().then(
            1,
            "i=0; while [ $i -lt 5000 ]; do echo \"complaint $i\"; i=$((i + 1)); done >&2; exit 1",
        );
        let mut running = start(fake.config(), Start::Now, 1);
        let Some(Told::Down(down)) = timeout(GUARD, running.told.recv()).await.unwrap() else {
            panic!("no `Down`");
        };
        assert_eq!(down.why, "journalctl ended: exit status: 1: complaint 4999");
    }

    #[tokio::test]
    async fn a_child_that_closes_its_output_and_stays_is_killed() {
        let fake = Fake::new().then(1, "exec >&- 2>&-").shows(2, &entries(1..=1));
        let mut running = start(fake.config(), Start::Now, 9);
        assert_eq!(running.several(2).await, ["down", "c1 m1"]);
        assert!(gone(&fake.pid(1)));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config = Config::default();
        let pauses = [1, 2, 3, 6, 7, 40, u32::MAX].map(|ends| config.pause(ends).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn options_that_are_ours_are_refused() {
        assert!(Config::default().check().is_ok());
        for argument in ["", "--", "-o", "--output=cat", "-n5", "--since=yesterday", "--cursor=x"] {
            let config = Config { arguments: vec![argument.to_owned()], ..Config::default() };
            assert!(config.check().is_err(), "{argument}");
        }
        let read: Config = serde_json::from_str(r#"{"arguments":["-u","exim4"]}"#).unwrap();
        assert_eq!((read.check(), read.line_octets_max), (Ok(()), 1 << 20));
        assert!(serde_json::from_str::<Config>(r#"{"argument":[]}"#).is_err());
    }

    /// A real journald in a namespace of its own, that writes to a folder of ours.
    struct Real {
        shell: StdChild,
        folder: TempDir,
    }

    impl Real {
        /// None where this machine cannot: no journald, or no namespaces.
        fn start() -> Option<Self> {
            let journald = "/lib/systemd/systemd-journald";
            if !Path::new(journald).exists()
                || StdCommand::new("journalctl").arg("--version").output().is_err()
            {
                return None;
            }
            let folder = tempfile::tempdir().unwrap();
            let script = r#"
journal="$0"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd /run/log/journal || exit 9
mount --bind "$journal" /run/log/journal || exit 9
/lib/systemd/systemd-journald 2>/dev/null &
journald=$!
while [ ! -S /run/systemd/journal/dev-log ]; do kill -0 $journald || exit 9; done
echo ready
while read -r order text; do
    case $order in
        log) timeout 20 logger -u /run/systemd/journal/dev-log -p mail.info -t postfix/qmgr -- "$text" ;;
        rotate)
            kill -USR2 $journald
            timeout 20 sh -c 'until ls /run/log/journal/*/*@* >/dev/null 2>&1; do :; done'
            ;;
    esac
    timeout 20 journalctl --sync
    echo done
done
kill -KILL $journald
wait $journald
"#;
            let shell = StdCommand::new("unshare")
                .args(["-rm", "sh", "-c", script])
                .arg(folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let mut real = Self { shell, folder };
            (real.answer() == "ready\n").then_some(real)
        }

        fn answer(&mut self) -> String {
            let mut answer = [0; 64];
            let output = self.shell.stdout.as_mut().unwrap();
            let octets = std::io::Read::read(output, &mut answer).unwrap();
            String::from_utf8_lossy(&answer[..octets]).into_owned()
        }

        fn order(&mut self, order: &str) {
            let input = self.shell.stdin.as_mut().unwrap();
            input.write_all(format!("{order}\n").as_bytes()).unwrap();
            assert_eq!(self.answer(), "done\n");
        }

        fn config(&self) -> Config {
            // The folder of the machine: `--directory` takes either.
            let folder = format!("--directory={}", self.folder.path().display());
            Config { arguments: vec![folder, "SYSLOG_FACILITY=2".into()], ..Config::default() }
        }
    }

    impl Drop for Real {
        fn drop(&mut self) {
            // It ends at the end of its input, and journald with it.
            drop(self.shell.stdin.take());
            self.shell.wait().ok();
        }
    }

    /// Goal: what we believe of journalctl is true of the one that is here.
    /// Method: a journald of our own; a reader that stops and goes on; then the files are removed.
    #[tokio::test]
    async fn a_real_journal_is_read_on_and_a_vacuumed_one_is_noticed() {
        let Some(mut real) = Real::start() else {
            eprintln!("not tested: no journald can be started here");
            return;
        };
        real.order("log one");
        real.order("log two");
        let mut running = start(real.config(), Start::Since(0), 9);
        let Some(Told::Line(first)) = timeout(GUARD, running.told.recv()).await.unwrap() else {
            panic!("no line");
        };
        let Origin::Journald { cursor } = first.from else { panic!("{:?}", first.from) };
        let line = String::from_utf8(first.line).unwrap();
        // No process where it was gone before journald looked at it.
        assert!(line.contains(" postfix/qmgr") && line.ends_with(": one"), "{line}");
        assert_eq!(running.next().await, "… two");
        real.order("log three");
        assert_eq!(running.next().await, "… three");
        real.order("rotate");
        real.order("log four");
        assert_eq!(running.next().await, "… four");
        running.stop.cancel();
        running.ends().await;

        let mut running = start(real.config(), Start::After(cursor.clone()), 9);
        assert_eq!(running.several(3).await, ["… two", "… three", "… four"]);
        running.stop.cancel();
        running.ends().await;

        let vacuumed = StdCommand::new("journalctl")
            .arg(format!("--directory={}", real.folder.path().display()))
            .arg("--vacuum-files=1")
            .output()
            .unwrap();
        assert!(vacuumed.status.success(), "{vacuumed:?}");
        let mut running = start(real.config(), Start::After(cursor), 9);
        assert_eq!(running.several(2).await, ["CursorGone None", "… four"]);
        real.order("log five");
        assert_eq!(running.next().await, "… five");
        running.stop.cancel();
        running.ends().await;

        let mut running = start(real.config(), Start::Since(1 << 51), 9);
        let bogus = start(real.config(), Start::After("s=bogus".into()), 9);
        let mut bogus = bogus;
        assert_eq!(bogus.next().await, "down", "a word that is no cursor is refused");
        running.stop.cancel();
        bogus.stop.cancel();
        running.told.close();
        running.ends().await;
        bogus.ends().await;
    }
}
