//! The task that reads journal and logs, and leads drains to their verdicts.
//!
//! One task owns the books; everybody else asks it through a channel. A round reads the journal to its end, then the logs, lets
//! time pass, moves each drain one step on, and settles what is uncertain.
//!
//! | module | what |
//! |---|---|
//! | `wire` | what the API says and is asked |
//! | `source` | logs into the books |
//! | `process` | one drain: fence, sentinel, mark, verdict |
//! | `metrics` | what Prometheus sees of it |
//!
//! Invariants
//! - The journal is read before the logs, and a verdict is given only in a round that read it to its end.
//! - The mark is taken after the fence; a sentinel is sent between the two.
//! - A certificate is on disk before anybody hears of it, and so is its revocation.
//! - Nothing on the path of mail waits for this task.
//!
//! Not here: what the books mean (`drain`), how orders are carried out (the proxy).

pub mod metrics;
pub mod source;
pub mod wire;

mod process;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy::api::{self, JournalFilter, JournalLine, JournalWhat};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{CHANGE_DEADLINE, Client, ClientError, with_query};
use crate::config::Config;
use crate::drain::certificate::{Certificate, CertificateError, Signer};
use crate::drain::verdict::{Known, Opening, Waived, Word};
use crate::drain::{Book, Books};
use crate::moment::Moment;
use crate::store::{Batch, Store, StoreError};
use metrics::{Metrics, OfOne};
use process::Process;
use source::{HandInError, Intake, Progress, SourceError};
use wire::{
    Attestation, Attested, CertificateLine, DrainEnd, DrainReport, DrainRequest, ImportReport,
    LogReport, Waiver,
};

/// Pause between two rounds.
const ROUND: Duration = Duration::from_millis(250);

/// How often the books are written to disk while they change.
const KEEP: Duration = Duration::from_secs(10);

/// How often uncertain mail is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// Messages that the proxy is told of at once.
const REPEATS_AT_ONCE: usize = 1000;

/// Requests that wait for the task.
const COMMANDS_MAX: usize = 64;

/// Where the signing key is, in the data folder.
const KEY_FILE: &str = "keys/certificate.key";

/// Why the task cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A log.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The key that signs certificates.
    #[error("cannot use {}: {source}", path.display())]
    Key {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no key.
    #[error("{}: {source}", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What is named does not exist.
    Unknown(String),
    /// It cannot be done like this.
    Bad(String),
    /// Something else stands in the way.
    Failed(String),
}

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the task is asked.
enum Command {
    Begin(DrainRequest, Reply<Vec<DrainReport>>),
    End(DrainEnd, Reply<DrainReport>),
    Reports(Reply<Vec<DrainReport>>),
    Attest(Attestation, Reply<()>),
    Waive(Waiver, Reply<()>),
    Logs(Reply<Vec<LogReport>>),
    Import {
        log: String,
        path: tempfile::TempPath,
        name: String,
        around_unix_ms: i64,
        reply: Reply<ImportReport>,
    },
    Certificates(Reply<Vec<CertificateLine>>),
    Certificate(String, Reply<Certificate>),
    Metrics(oneshot::Sender<String>),
    Probed {
        target: String,
        gate: String,
        started: Moment,
        result: Result<api::ProbeResult, String>,
    },
}

/// A way to the task.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Command>);

impl Handle {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let gone = || Refusal::Failed("control is stopping".into());
        self.0.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Begins drains.
    pub async fn begin(&self, request: DrainRequest) -> Result<Vec<DrainReport>, Refusal> {
        self.ask(|reply| Command::Begin(request, reply)).await
    }

    /// Ends the orders of a drain.
    pub async fn end(&self, request: DrainEnd) -> Result<DrainReport, Refusal> {
        self.ask(|reply| Command::End(request, reply)).await
    }

    /// Every drain.
    pub async fn reports(&self) -> Result<Vec<DrainReport>, Refusal> {
        self.ask(Command::Reports).await
    }

    /// Takes a person's word.
    pub async fn attest(&self, attestation: Attestation) -> Result<(), Refusal> {
        self.ask(|reply| Command::Attest(attestation, reply)).await
    }

    /// Takes a person's word for a doubt.
    pub async fn waive(&self, waiver: Waiver) -> Result<(), Refusal> {
        self.ask(|reply| Command::Waive(waiver, reply)).await
    }

    /// Every log.
    pub async fn logs(&self) -> Result<Vec<LogReport>, Refusal> {
        self.ask(Command::Logs).await
    }

    /// Reads a file into a log.
    pub async fn import(
        &self,
        log: String,
        path: tempfile::TempPath,
        name: String,
        around_unix_ms: i64,
    ) -> Result<ImportReport, Refusal> {
        self.ask(|reply| Command::Import { log, path, name, around_unix_ms, reply }).await
    }

    /// Every certificate.
    pub async fn certificates(&self) -> Result<Vec<CertificateLine>, Refusal> {
        self.ask(Command::Certificates).await
    }

    /// One certificate.
    pub async fn certificate(&self, number: String) -> Result<Certificate, Refusal> {
        self.ask(|reply| Command::Certificate(number, reply)).await
    }

    /// The metrics, in the exposition format.
    pub async fn metrics(&self) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Metrics(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The running task.
#[derive(Debug)]
pub struct Watch {
    handle: Handle,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Watch {
    /// Opens what is kept and begins.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn start(
        config: Config,
        store: Arc<Store>,
        proxy_socket: PathBuf,
    ) -> Result<Self, WatchError> {
        let stop = CancellationToken::new();
        let (to, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = Handle(to);
        let watcher = Watcher::open(config, store, proxy_socket, handle.clone(), &stop)?;
        let task = tokio::spawn(watcher.run(commands, stop.clone()));
        Ok(Self { handle, task, stop })
    }

    /// A way to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends it; the books are written.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the watch ended badly");
        }
    }
}

/// A certificate as it is kept.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Kept {
    certificate: Certificate,
    member: String,
    issued: Moment,
    grade: String,
    revoked: Option<String>,
}

/// The task's own.
struct Watcher {
    config: Config,
    proxy: Client,
    store: Arc<Store>,
    signer: Signer,
    handle: Handle,
    books: Books,
    intakes: Vec<Intake>,
    /// The log to which a file is being handed in, and who waits for it.
    importing: Option<(String, Reply<ImportReport>)>,
    /// By member, or `gate:NAME` for one that only reports.
    drains: BTreeMap<String, Process>,
    openings: BTreeMap<String, Opening>,
    certificates: BTreeMap<String, Kept>,
    metrics: Metrics,
    /// The journal was read to its end in this round.
    fresh: bool,
    journal_error: Option<String>,
    kept_at: Instant,
    keep_after: Duration,
    settled_at: Instant,
    changed: bool,
}

impl Watcher {
    fn open(
        config: Config,
        store: Arc<Store>,
        proxy_socket: PathBuf,
        handle: Handle,
        stop: &CancellationToken,
    ) -> Result<Self, WatchError> {
        let signer = signer(&config)?;
        let mut books: Books = store.get_packed("books")?.unwrap_or_default();
        books.index();
        let progress: BTreeMap<String, Progress> =
            store.get_packed("progress")?.unwrap_or_default();
        let now = Moment::now();
        let mut intakes = Vec::new();
        for log in &config.logs {
            let known = progress.get(&log.plan.name).cloned().unwrap_or_default();
            let mut intake = Intake::new(log, known, &config, stop)?;
            intake.begin(&mut books, now);
            intakes.push(intake);
        }
        let drains = store.all("drain/")?;
        let openings = store.all("opening/")?;
        let certificates = store.all("certificate/")?;
        Ok(Self {
            proxy: Client::of_proxy(proxy_socket),
            metrics: Metrics::new(),
            config,
            store,
            signer,
            handle,
            books,
            intakes,
            importing: None,
            drains,
            openings,
            certificates,
            fresh: false,
            journal_error: None,
            kept_at: Instant::now(),
            keep_after: KEEP,
            settled_at: Instant::now(),
            changed: false,
        })
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let more = self.round().await;
            let pause = if more { Duration::ZERO } else { ROUND };
            let rest = tokio::time::sleep(pause);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        self.keep();
                        return;
                    }
                    command = commands.recv() => match command {
                        Some(command) => self.command(command).await,
                        None => return,
                    },
                    () = &mut rest => break,
                }
            }
        }
    }

    /// One round; returns whether more is waiting to be read.
    async fn round(&mut self) -> bool {
        match self.read_journal().await {
            Ok(()) => {
                self.fresh = true;
                self.journal_error = None;
            }
            Err(error) => {
                self.fresh = false;
                let error = error.to_string();
                if self.journal_error.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "the journal cannot be read; nothing is judged meanwhile"
                    );
                }
                self.journal_error = Some(error);
            }
        }
        let more = tokio::task::block_in_place(|| self.read_logs() | self.import_on());
        let now = Moment::now();
        self.books.tick(&self.config.setting, now);
        if !more || self.importing.is_some() {
            self.step_drains(self.fresh).await;
        }
        if self.fresh && self.config.drain.settle && self.settled_at.elapsed() >= SETTLE {
            self.settled_at = Instant::now();
            if let Err(error) = self.settle_uncertain().await {
                tracing::warn!(%error, "uncertain mail could not be looked at");
            }
        }
        if self.changed && self.kept_at.elapsed() >= self.keep_after {
            tokio::task::block_in_place(|| self.keep());
        }
        more
    }

    fn read_logs(&mut self) -> bool {
        let now = Moment::now();
        let (mut more, mut placed) = (false, false);
        for intake in &mut self.intakes {
            more |= intake.poll(&mut self.books, &self.config.setting, now);
            self.changed |= std::mem::take(&mut intake.moved);
            placed |= std::mem::take(&mut intake.placed);
        }
        if placed {
            self.keep();
        }
        more
    }

    async fn read_journal(&mut self) -> Result<(), ClientError> {
        // Where nothing could ever tell what became of mail, nobody needs to know what was handed over.
        if self.config.setting.plan.told.is_empty() {
            self.changed |= !std::mem::replace(&mut self.books.asleep, true);
            return Ok(());
        }
        if self.books.asleep {
            for member in self.config.members.keys() {
                self.books.ledger.overlooked(member, Moment::now());
            }
            self.books.ledger.lose_ends(Moment::now());
            self.begin_journal().await?;
            self.books.asleep = false;
            return Ok(());
        }
        if self.books.ledger.cursor().is_none() {
            return self.begin_journal().await;
        }
        let after = self.books.ledger.cursor().map(str::to_owned);
        let filter = JournalFilter { after, entries: true, ..JournalFilter::default() };
        let path = with_query(api::path::JOURNAL, &filter)?;
        let mut pieces = self.proxy.stream(&path).await?;
        let now = Moment::now();
        while let Some(line) = pieces.next_line::<JournalLine>().await? {
            self.changed |= line.what != JournalWhat::End;
            self.books.entry(&line, &self.config.setting, now);
        }
        Ok(())
    }

    /// The books begin where the journal ends now: what was before is what the opening balance speaks of.
    async fn begin_journal(&mut self) -> Result<(), ClientError> {
        // Without `entries` its end lies before what is open: that is met when reading begins.
        let nobody = JournalFilter {
            limit: Some(1),
            since_unix_ms: Some(u64::MAX),
            ..JournalFilter::default()
        };
        let mut pieces = self.proxy.stream(&with_query(api::path::JOURNAL, &nobody)?).await?;
        let mut end = None;
        while let Some(line) = pieces.next_line::<JournalLine>().await? {
            if line.what == JournalWhat::End {
                end = Some(line.cursor);
            }
        }
        self.books.since = Some(Moment::now());
        self.books.ledger.begin_at(end.unwrap_or_else(|| "0.0".into()));
        self.changed = true;
        self.keep();
        Ok(())
    }

    /// Writes the books, and how far everything was read, together. False: they could not be written.
    fn keep(&mut self) -> bool {
        let began = Instant::now();
        let progress: BTreeMap<&str, &Progress> =
            self.intakes.iter().map(|intake| (intake.name(), &intake.progress)).collect();
        let mut batch = Batch::default();
        batch.put_packed("books", &self.books);
        batch.put_packed("progress", &progress);
        let written = self.store.write(batch);
        match &written {
            Ok(()) => self.changed = false,
            // What is in memory is right; the next start reads again from where the disk stands.
            Err(error) => tracing::error!(%error, "the books cannot be written"),
        }
        self.kept_at = Instant::now();
        // Large books take long: no more than a twentieth of the time goes into that.
        self.keep_after = KEEP.max(began.elapsed() * 20);
        written.is_ok()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Begin(request, reply) => {
                let begun = self.begin(request).await;
                reply.send(begun).ok();
            }
            Command::End(request, reply) => {
                let ended = self.end(request).await;
                reply.send(ended).ok();
            }
            Command::Reports(reply) => {
                let reports = self.drains.keys().map(|target| self.report(target)).collect();
                reply.send(Ok(reports)).ok();
            }
            Command::Attest(attestation, reply) => {
                reply.send(self.attest(attestation)).ok();
            }
            Command::Waive(waiver, reply) => {
                reply.send(self.waive(waiver)).ok();
            }
            Command::Logs(reply) => {
                let logs = self.intakes.iter().map(|intake| self.log_report(intake)).collect();
                reply.send(Ok(logs)).ok();
            }
            Command::Import { log, path, name, around_unix_ms, reply } => {
                // What was handed over until now must be known before the log speaks of it.
                let read =
                    self.read_journal().await.map_err(|error| Refusal::Failed(error.to_string()));
                let begun = read.and_then(|()| {
                    tokio::task::block_in_place(|| {
                        self.begin_import(&log, &path, &name, around_unix_ms)
                    })
                });
                match begun {
                    Ok(()) => self.importing = Some((log, reply)),
                    Err(refusal) => {
                        reply.send(Err(refusal)).ok();
                    }
                }
            }
            Command::Certificates(reply) => {
                let line = |(number, kept): (&String, &Kept)| CertificateLine {
                    number: number.clone(),
                    member: kept.member.clone(),
                    issued: kept.issued.to_string(),
                    grade: kept.grade.clone(),
                    revoked: kept.revoked.clone(),
                    key: kept.certificate.key.clone(),
                };
                reply.send(Ok(self.certificates.iter().map(line).collect())).ok();
            }
            Command::Certificate(number, reply) => {
                let found = self.certificates.get(&number).map(|kept| kept.certificate.clone());
                let unknown = || Refusal::Unknown(format!("there is no certificate {number}"));
                reply.send(found.ok_or_else(unknown)).ok();
            }
            Command::Metrics(reply) => {
                let text = self.show_metrics();
                reply.send(text).ok();
            }
            Command::Probed { target, gate, started, result } => {
                self.probed(&target, &gate, started, result);
            }
        }
    }

    fn attest(&mut self, attestation: Attestation) -> Result<(), Refusal> {
        let Attestation { member, what, by, reason, ids } = attestation;
        if by.trim().is_empty() || reason.trim().is_empty() {
            return Err(Refusal::Bad(
                "a word needs a name and a reason: they stand in the certificate".into(),
            ));
        }
        if !self.config.members.contains_key(&member) {
            return Err(Refusal::Unknown(format!("no forward gate has a member {member:?}")));
        }
        let word = Word { by, reason, at: Moment::now() };
        match what {
            Attested::EmptyStart => {
                if !self.config.setting.plan.told.contains(&member) {
                    return Err(Refusal::Bad(format!(
                        "nothing tells what becomes of mail that is handed to {member}: configure a log or a return gate first"
                    )));
                }
                let since = self.books.since.ok_or_else(|| {
                    Refusal::Failed("the journal was not read yet: is the proxy running?".into())
                })?;
                if let Some(opening) = self.openings.get(&member) {
                    return Err(Refusal::Bad(format!(
                        "{member} has an opening balance of {} already; if it was installed anew since: lockgate attest {member} rebuilt --reason TEXT",
                        opening.at
                    )));
                }
                let known = Known::Attested(word);
                self.begin_with(&member, Opening { at: since, known, sums: BTreeMap::new() })
            }
            Attested::Rebuilt => self.rebuilt(&member, word),
            Attested::Deleted => {
                let said = format!("{}: {}", word.by, word.reason);
                for id in &ids {
                    let here = self.books.ledger.inside(&member).any(|(key, ..)| key.id == *id);
                    if !here {
                        return Err(Refusal::Unknown(format!(
                            "nothing of {id} is inside {member}"
                        )));
                    }
                }
                if ids.is_empty() {
                    return Err(Refusal::Bad(
                        "name what was deleted, by the ids that the drain shows".into(),
                    ));
                }
                let wanted = |id: &str| ids.iter().any(|known| known == id);
                let items = self.books.ledger.write_off(&member, &said, word.at, wanted);
                if items == 0 {
                    return Err(Refusal::Bad(
                        "these are being handed over: wait for their end".to_owned(),
                    ));
                }
                tracing::warn!(
                    member,
                    items,
                    by = word.by,
                    reason = word.reason,
                    "deleted in the member, a person says"
                );
                if self.keep() {
                    Ok(())
                } else {
                    Err(Refusal::Failed("the books cannot be written".into()))
                }
            }
            Attested::QueueEmpty => {
                let process = self.drains.get_mut(&member).filter(|process| process.is_fenced());
                let Some(process) = process else {
                    return Err(Refusal::Bad(format!(
                        "look at the queue page of {member} after the fence: begin a drain of it first"
                    )));
                };
                process.queue_empty = Some(word);
                self.keep_drain(&member)
            }
        }
    }

    /// A person says that the member was installed anew and is empty: what is on the list for it is written off, and the
    /// ledger begins again.
    fn rebuilt(&mut self, member: &str, word: Word) -> Result<(), Refusal> {
        let running = self.drains.get(member).is_some_and(Process::is_running);
        if running {
            return Err(Refusal::Bad(format!(
                "a drain of {member} is running: end it first (lockgate drain {member} --end)"
            )));
        }
        let now = Moment::now();
        let said = format!("{}: {}", word.by, word.reason);
        let items = self.books.ledger.write_off(member, &said, now, |_| true);
        for log in self.config.setting.logs_of(member) {
            if let Some(book) = self.books.logs.get_mut(&log.name) {
                book.chains.forget();
            }
        }
        let sums = self.books.ledger.sums(Some(member));
        let sums = sums.into_iter().map(|((_, gate), sums)| (gate, sums)).collect();
        tracing::warn!(
            member,
            items,
            by = word.by,
            reason = word.reason,
            "installed anew, a person says; what was inside is written off"
        );
        if !self.keep() {
            return Err(Refusal::Failed("the books cannot be written".into()));
        }
        if let Some(process) = self.drains.get_mut(member) {
            process.forget_mark();
        }
        if self.drains.contains_key(member) {
            self.keep_drain(member)?;
        }
        self.begin_with(member, Opening { at: now, known: Known::Attested(word), sums })
    }

    fn begin_with(&mut self, member: &str, opening: Opening) -> Result<(), Refusal> {
        self.write(|batch| batch.put(&format!("opening/{member}"), &opening))?;
        self.openings.insert(member.to_owned(), opening);
        Ok(())
    }

    fn waive(&mut self, waiver: Waiver) -> Result<(), Refusal> {
        let Waiver { member, doubt, by, reason } = waiver;
        if by.trim().is_empty() || reason.trim().is_empty() {
            return Err(Refusal::Bad(
                "a waiver needs a name and a reason: they stand in the certificate".into(),
            ));
        }
        let report = self.drains.contains_key(&member).then(|| self.report(&member));
        let Some(report) = report else {
            return Err(Refusal::Unknown(format!("no drain of {member:?} is known")));
        };
        let measure = match report.doubts.iter().find(|known| known.name == doubt) {
            Some(known) if known.may_be_waived => known.measure,
            Some(known) => {
                return Err(Refusal::Bad(format!("nobody can answer for this: {}", known.text)));
            }
            None => {
                let names: Vec<&str> =
                    report.doubts.iter().map(|known| known.name.as_str()).collect();
                return Err(Refusal::Unknown(format!(
                    "the drain of {member} has no doubt {doubt:?}; it has: {}",
                    names.join(", ")
                )));
            }
        };
        if let Some(process) = self.drains.get_mut(&member) {
            let word = Word { by, reason, at: Moment::now() };
            process.waivers.insert(doubt, Waived { word, measure });
        }
        self.keep_drain(&member)
    }

    fn write(&self, fill: impl FnOnce(&mut Batch)) -> Result<(), Refusal> {
        let mut batch = Batch::default();
        fill(&mut batch);
        self.store.write(batch).map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Begins to read a file; the rounds read on.
    fn begin_import(
        &mut self,
        log: &str,
        path: &std::path::Path,
        name: &str,
        around_unix_ms: i64,
    ) -> Result<(), Refusal> {
        let names: Vec<String> = self.intakes.iter().map(|one| one.name().to_owned()).collect();
        if self.importing.is_some() {
            return Err(Refusal::Failed(HandInError::Busy.to_string()));
        }
        let Some(intake) = self.intakes.iter_mut().find(|intake| intake.name() == log) else {
            return Err(Refusal::Unknown(format!(
                "no log is named {log:?}; the configuration has: {}",
                names.join(", ")
            )));
        };
        let around = jiff::Timestamp::from_millisecond(around_unix_ms).unwrap_or_default();
        let begun = intake.begin_import(path, name, around, &mut self.books);
        begun.map_err(|error| match error {
            HandInError::Busy => Refusal::Failed(error.to_string()),
            error => Refusal::Bad(error.to_string()),
        })
    }

    /// Reads on in a file that was handed in; true: more of it is left.
    fn import_on(&mut self) -> bool {
        let Some(log) = self.importing.as_ref().map(|(log, _)| log.clone()) else { return false };
        let now = Moment::now();
        let found = self.intakes.iter_mut().find(|intake| intake.name() == log);
        let Some(intake) = found.filter(|intake| intake.is_importing()) else { return false };
        let Some(ended) = intake.import_on(&mut self.books, &self.config.setting, now) else {
            return true;
        };
        self.keep();
        let report = ended.map_err(|error| Refusal::Failed(error.to_string())).map(|handed| {
            let mut report = ImportReport {
                log: log.clone(),
                name: handed.name,
                octets: handed.imported.octets,
                lines: handed.imported.lines,
                unparsed: 0,
                samples: Vec::new(),
                from: None,
                to: None,
                sha256: handed.sha256,
                known: handed.known,
            };
            if let Some(book) = self.books.logs.get(&log) {
                report.unparsed = book.coverage.total.unparsed - handed.before.unparsed;
                let wanted = usize::try_from(report.unparsed).unwrap_or(usize::MAX);
                report.samples = book.coverage.last_samples(wanted);
                report.from = book.coverage.span.map(|(from, _)| from.to_string());
                report.to = book.coverage.span.map(|(_, to)| to.to_string());
            }
            report
        });
        if let Some((_, reply)) = self.importing.take() {
            reply.send(report).ok();
        }
        false
    }

    fn log_report(&self, intake: &Intake) -> LogReport {
        let nothing = Book::default();
        let book = self.books.logs.get(intake.name()).unwrap_or(&nothing);
        let coverage = &book.coverage;
        let moment = |moment: Moment| moment.to_string();
        LogReport {
            log: intake.name().to_owned(),
            of: intake.of(),
            source: intake.way(),
            error: intake.error.clone(),
            lines: coverage.total.read,
            unparsed: coverage.total.unparsed,
            samples: coverage.samples().map(str::to_owned).collect(),
            missing: u64::try_from(coverage.missing_since(Moment(0)).count()).unwrap_or(u64::MAX),
            from: coverage.span.map(|(from, _)| moment(from)),
            to: coverage.span.map(|(_, to)| moment(to)),
            alive: coverage.alive.map(moment),
            skew_ms: book.chains.skew.bounds(),
            bypasses: book.chains.bypasses_since(Moment(0), &self.config.setting.limits),
            imports: intake.progress.imports.values().cloned().collect(),
        }
    }

    /// Uncertain held messages: taken, absent, or not known yet.
    async fn settle_uncertain(&mut self) -> Result<(), ClientError> {
        let filter = api::HeldFilter {
            state: Some(api::HeldState::Uncertain),
            ..api::HeldFilter::default()
        };
        let path = with_query(api::path::HELD, &filter)?;
        let mut pieces = self.proxy.stream(&path).await?;
        let mut ids = Vec::new();
        while let Some(held) = pieces.next_line::<api::Held>().await? {
            ids.push(held.id);
        }
        let passed: Vec<api::Repeat> = self.proxy.get(api::path::REPEATS, CHANGE_DEADLINE).await?;
        if ids.is_empty() && passed.is_empty() {
            return Ok(());
        }
        // After the lists: the last attempt of each of these stands in the journal by now.
        self.read_journal().await?;
        self.settle_passed(passed).await?;
        let (mut taken, mut absent) = (Vec::new(), Vec::new());
        for id in ids {
            match self.books.what_became_of(&id) {
                Some(true) => taken.push(id),
                Some(false) => absent.push(id),
                None => {}
            }
        }
        for (ids, change, reason) in [
            (taken, api::Change::Delivered, "the logs show that the member has it, or had it"),
            (absent, api::Change::Absent, "the member's log is whole and does not have it"),
        ] {
            if ids.is_empty() {
                continue;
            }
            let holder = api::Holder { kind: api::HolderKind::Evidence, name: "logs".into() };
            let reason = reason.to_owned();
            let change = api::HeldChange { ids, filter: None, change, holder, reason };
            let _: api::HeldChanged =
                self.proxy.post(api::path::HELD_CHANGE, &change, CHANGE_DEADLINE).await?;
        }
        Ok(())
    }

    /// Tells the proxy which of these the member took, so that they are known when they come again.
    async fn settle_passed(&mut self, mut passed: Vec<api::Repeat>) -> Result<(), ClientError> {
        passed.retain(|one| self.books.what_became_of(&one.id) == Some(true));
        for some in passed.chunks(REPEATS_AT_ONCE) {
            let _: api::RepeatsTaken =
                self.proxy.post(api::path::REPEATS_TAKEN, &some, CHANGE_DEADLINE).await?;
        }
        Ok(())
    }

    fn show_metrics(&mut self) -> String {
        let now = Moment::now();
        let reports: Vec<DrainReport> = self.drains.keys().map(|one| self.report(one)).collect();
        let logs: Vec<LogReport> =
            self.intakes.iter().map(|intake| self.log_report(intake)).collect();
        let members: Vec<OfOne> = self.config.members.keys().map(|one| self.of_one(one)).collect();
        self.metrics.show(&reports, &logs, &members, now)
    }

    fn of_one(&self, member: &str) -> OfOne {
        let logs = self.config.setting.logs_of(member);
        let others = logs.filter_map(|log| {
            let book = self.books.logs.get(&log.name)?;
            Some(book.chains.strangers(log, &self.books.ledger).count())
        });
        let own = self.certificates.values().filter(|kept| kept.member == member);
        OfOne {
            member: member.to_owned(),
            inside: self.books.ledger.inside(member).count(),
            others: others.sum(),
            revoked: own.max_by_key(|kept| kept.issued).is_some_and(|kept| kept.revoked.is_some()),
        }
    }
}

/// The key that signs; made on the first start.
fn signer(config: &Config) -> Result<Signer, WatchError> {
    let path = config.data.join(KEY_FILE);
    let failed = |source| WatchError::Key { path: path.clone(), source };
    let octets = match std::fs::read(&path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = Signer::generate()
                .map_err(|source| WatchError::NoKey { path: path.clone(), source })?;
            write_key(&path, &made).map_err(failed)?;
            made
        }
        Err(error) => return Err(failed(error)),
    };
    Signer::from_pkcs8(&octets).map_err(|source| WatchError::NoKey { path: path.clone(), source })
}

/// The disk makes files that only their owner may read.
fn write_key(path: &std::path::Path, octets: &[u8]) -> io::Result<()> {
    use disk::Disk as _;

    let folder = path.parent().unwrap_or_else(|| std::path::Path::new("."));
    let name = std::path::Path::new(path.file_name().unwrap_or_default());
    disk::RealDisk::new(folder).publish(name, octets)
}
