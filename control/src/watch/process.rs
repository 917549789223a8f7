//! One drain: orders, fence, sentinels, mark, verdict, and what takes a certificate back.
//!
//! Invariants
//! - Stages follow one another; each is on disk before the next begins.
//! - The orders stay when a drain is given up or a certificate is issued: a person, or the runbook, ends them.
//! - A certificate is taken back as soon as the same case, judged again, is not drained any more.
//!
//! Not here: the judgement (`drain::verdict`).

use std::collections::BTreeMap;

use proxy::api::{self, Holder};
use serde::{Deserialize, Serialize};

use super::wire::{DRAIN_HOLDER, DoubtLine, DrainEnd, DrainReport, DrainRequest, Phase, Said};
use super::{Command, Kept, Refusal, Watcher};
use crate::client::{Client, ClientError, DEADLINE, PROBE_DEADLINE, fill, with_query};
use crate::drain::certificate::{Circumstances, Fence, LogFact, LogFile};
use crate::drain::correlate::Role;
use crate::drain::item::bare;
use crate::drain::verdict::{
    Case, Doubt, Known, Opening, Proof, Sentinel, Verdict, Waived, Word, judge, left,
};
use crate::moment::Moment;

/// Items that a report lists.
const ITEMS_MAX: usize = 100;

/// How often a probe is tried that nobody answers, or that the server puts off (4yz).
const PROBES_MAX: u32 = 20;

/// Pause before a probe that was put off is sent again, in milliseconds; longer each time (greylisting waits minutes).
const PROBE_PAUSE_MS: i64 = 10_000;
const PROBE_PAUSE_MAX_MS: i64 = 60_000;

/// How a gate's name is told from a member's among targets.
const GATE: &str = "gate:";

/// One gate of a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fencing {
    gate: String,
    order: u64,
    epoch: u64,
    quiet: Option<Moment>,
}

/// What was taken at the mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Marked {
    fenced: Moment,
    mark: Moment,
    /// Place of the journal.
    journal: String,
    /// Place of each log that speaks of the member.
    logs: BTreeMap<String, Vec<LogFile>>,
    /// Items that were inside.
    items: u64,
}

/// Where it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Stage {
    /// Orders are placed.
    Fencing,
    /// Every gate is quiet; sentinels are on their way.
    Probing {
        fenced: Moment,
    },
    /// The mark is taken.
    Watching(Marked),
    /// Drained; with the number of the certificate, where one is issued.
    Drained {
        marked: Marked,
        certificate: Option<String>,
    },
    /// Nobody waits any more; while the orders stand, what comes late still proves it.
    GivenUp {
        marked: Option<Marked>,
    },
    Revoked {
        certificate: String,
        why: String,
        marked: Marked,
    },
    Ended,
}

/// A drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Process {
    member: String,
    only_gate: Option<String>,
    gates: Vec<String>,
    holder: Holder,
    reason: String,
    started: Moment,
    quiet_ms: i64,
    timeout_ms: i64,
    fences: Vec<Fencing>,
    /// Orders of earlier drains of the same member.
    #[serde(default)]
    former: Vec<u64>,
    /// Gates to which a probe is under way; not kept: a restart asks again.
    #[serde(skip)]
    asked: Vec<String>,
    sentinels: Vec<Sentinel>,
    pub(super) queue_empty: Option<Word>,
    pub(super) waivers: BTreeMap<String, Waived>,
    /// Probes that no server answered, or that it put off, by gate; and when the next may be sent.
    #[serde(skip)]
    unanswered: BTreeMap<String, (u32, Moment)>,
    stage: Stage,
}

impl Process {
    pub(super) const fn is_fenced(&self) -> bool {
        matches!(
            self.stage,
            Stage::Probing { .. }
                | Stage::Watching(_)
                | Stage::Drained { .. }
                | Stage::GivenUp { marked: Some(_) }
        )
    }

    /// Its mark is of before the member was installed anew: it is not judged on.
    pub(super) fn forget_mark(&mut self) {
        if matches!(self.stage, Stage::GivenUp { .. } | Stage::Revoked { .. }) {
            self.stage = Stage::GivenUp { marked: None };
        }
    }

    /// Is somebody waiting for it, or does a certificate of it stand?
    pub(super) const fn is_running(&self) -> bool {
        matches!(
            self.stage,
            Stage::Fencing | Stage::Probing { .. } | Stage::Watching(_) | Stage::Drained { .. }
        )
    }

    const fn phase(&self) -> Phase {
        match self.stage {
            Stage::Fencing | Stage::Probing { .. } => Phase::Fencing,
            Stage::Watching(_) => Phase::Watching,
            Stage::Drained { .. } => Phase::Drained,
            Stage::GivenUp { .. } => Phase::GivenUp,
            Stage::Revoked { .. } => Phase::Revoked,
            Stage::Ended => Phase::Ended,
        }
    }

    const fn marked(&self) -> Option<&Marked> {
        match &self.stage {
            Stage::Watching(marked)
            | Stage::Drained { marked, .. }
            | Stage::Revoked { marked, .. } => Some(marked),
            Stage::GivenUp { marked } => marked.as_ref(),
            Stage::Fencing | Stage::Probing { .. } | Stage::Ended => None,
        }
    }
}

impl Watcher {
    pub(super) async fn begin(
        &mut self,
        request: DrainRequest,
    ) -> Result<Vec<DrainReport>, Refusal> {
        if request.targets.is_empty() {
            return Err(Refusal::Bad("name a member or a gate".into()));
        }
        if request.quiet_s.is_some_and(|quiet| !(1..=86_400).contains(&quiet)) {
            return Err(Refusal::Bad("the quiet period is 1 second to a day".into()));
        }
        let quiet_s = request.quiet_s.unwrap_or(self.config.drain.quiet_s);
        if request.timeout_s.unwrap_or(self.config.drain.timeout_s) <= quiet_s {
            return Err(Refusal::Bad(format!(
                "the timeout must be longer than the quiet period of {quiet_s} s"
            )));
        }
        // All names are looked up before anything is done.
        let mut planned = Vec::new();
        for name in &request.targets {
            planned.push(self.planned(name, &request)?);
        }
        let mut targets = Vec::new();
        for planned in planned {
            for (target, process) in planned {
                let running = self.drains.get(&target);
                if running.is_some_and(|running| {
                    !running.phase().is_over() || running.phase() == Phase::Drained
                }) {
                    let quiet_ms = running.map_or(0, |running| running.quiet_ms);
                    if request.quiet_s.is_some_and(|quiet| i64::from(quiet) * 1000 != quiet_ms) {
                        return Err(Refusal::Bad(format!(
                            "a drain of {target} is under way, with a quiet period of {} s: end it first (lockgate drain {target} --end), or ask without --quiet-period",
                            quiet_ms / 1000
                        )));
                    }
                    targets.push(target);
                    continue;
                }
                let mut process = process;
                if let Some(former) = running {
                    // What a person answered for in this attempt, and orders that may still stand, are not
                    // forgotten. What has no measure is to be looked at anew.
                    if matches!(former.stage, Stage::GivenUp { .. } | Stage::Revoked { .. }) {
                        process.waivers.clone_from(&former.waivers);
                        process.waivers.retain(|_, waived| waived.measure > 0);
                    }
                    process.former = former.fences.iter().map(|fence| fence.order).collect();
                    process.former.extend(&former.former);
                }
                if !self.config.setting.plan.told.contains(&process.member) {
                    self.books.ledger.overlooked(&process.member, process.started);
                }
                self.drains.insert(target.clone(), process);
                self.keep_drain(&target)?;
                targets.push(target);
            }
        }
        for target in &targets {
            if let Err(error) = self.place_orders(target).await {
                return Err(Refusal::Failed(error.to_string()));
            }
        }
        Ok(targets.iter().map(|target| self.report(target)).collect())
    }

    /// The drains of one target: of a member, or of each member of a gate.
    fn planned(
        &self,
        name: &str,
        request: &DrainRequest,
    ) -> Result<Vec<(String, Process)>, Refusal> {
        let drain = &self.config.drain;
        let process = |member: &str, only_gate: Option<&str>, gates: Vec<String>| Process {
            member: member.to_owned(),
            only_gate: only_gate.map(str::to_owned),
            gates,
            // Of its own: an order of the same person for another reason is not touched by the end of the drain.
            holder: Holder {
                kind: request.holder.kind,
                name: format!("{}{DRAIN_HOLDER}", request.holder.name),
            },
            reason: request.reason.clone(),
            started: Moment::now(),
            quiet_ms: i64::from(request.quiet_s.unwrap_or(drain.quiet_s)) * 1000,
            timeout_ms: i64::from(request.timeout_s.unwrap_or(drain.timeout_s)) * 1000,
            fences: Vec::new(),
            former: Vec::new(),
            asked: Vec::new(),
            sentinels: Vec::new(),
            queue_empty: None,
            waivers: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            stage: Stage::Fencing,
        };
        if let Some(gates) = self.config.members.get(name) {
            return Ok(vec![(name.to_owned(), process(name, None, gates.clone()))]);
        }
        match self.config.setting.plan.gates.get(name) {
            Some(gate) if gate.returns.is_some() => Err(Refusal::Bad(format!(
                "{name} is a return gate: it passes what the server sends back; drain the server"
            ))),
            Some(gate) => Ok(gate
                .members
                .iter()
                .map(|member| {
                    let process = process(member, Some(name), vec![name.to_owned()]);
                    (format!("{GATE}{name}/{member}"), process)
                })
                .collect()),
            None => Err(Refusal::Unknown(format!("there is no member and no gate {name:?}"))),
        }
    }

    pub(super) fn keep_drain(&self, target: &str) -> Result<(), Refusal> {
        let process = self.drains.get(target);
        self.write(|batch| match process {
            Some(process) => batch.put(&format!("drain/{target}"), process),
            None => batch.remove(&format!("drain/{target}")),
        })
    }

    /// Orders that are not placed yet. The effect on a gate: the member gets nothing more; other members go on.
    async fn place_orders(&mut self, target: &str) -> Result<(), ClientError> {
        let Some(process) = self.drains.get(target).cloned() else { return Ok(()) };
        for gate in &process.gates {
            if process.fences.iter().any(|fence| fence.gate == *gate) {
                continue;
            }
            let whole = process.only_gate.is_some();
            let order = api::PlaceOrder {
                gate: Some(gate.clone()),
                member: (!whole).then(|| process.member.clone()),
                effect: if whole { api::Effect::Hold } else { api::Effect::Cordon },
                holder: process.holder.clone(),
                reason: format!("drain of {}: {}", process.member, process.reason),
            };
            let placed: api::OrderPlaced =
                self.proxy.post(api::path::ORDERS, &order, DEADLINE).await?;
            let epoch = placed.epochs.iter().find(|epoch| epoch.gate == *gate);
            let order = placed.orders.iter().find(|order| order.gate == *gate);
            if let (Some(epoch), Some(order), Some(process)) =
                (epoch, order, self.drains.get_mut(target))
            {
                let (gate, order, epoch) = (gate.clone(), order.id, epoch.epoch);
                process.fences.push(Fencing { gate, order, epoch, quiet: None });
            }
            if let Err(error) = self.keep_drain(target) {
                tracing::error!(?error, target, "a drain cannot be kept");
            }
        }
        Ok(())
    }

    /// Ends the orders of a drain.
    pub(super) async fn end(&mut self, request: DrainEnd) -> Result<DrainReport, Refusal> {
        let DrainEnd { target, holder } = request;
        let targets: Vec<String> = self
            .drains
            .keys()
            .filter(|key| **key == target || key.starts_with(&format!("{GATE}{target}/")))
            .cloned()
            .collect();
        let Some(first) = targets.first().cloned() else {
            return Err(Refusal::Unknown(format!("no drain of {target:?} is known")));
        };
        for target in targets {
            let Some(process) = self.drains.get(&target).cloned() else { continue };
            let orders = process.fences.iter().map(|fence| fence.order);
            for order in orders.chain(process.former.iter().copied()) {
                let path = fill(api::path::ORDER_END, "id", &order.to_string());
                let end = api::EndOrder {
                    holder: holder.clone(),
                    force: true,
                    unchecked: true,
                    reason: "the drain is ended".into(),
                };
                let ended: Result<api::OrderEnded, ClientError> =
                    self.proxy.post(&path, &end, DEADLINE).await;
                match ended {
                    Ok(_) => {}
                    // Somebody ended it before.
                    Err(ClientError::Refused { status, .. }) if status.as_u16() == 404 => {}
                    Err(error) => return Err(Refusal::Failed(error.to_string())),
                }
            }
            self.served(&process);
            if let Some(process) = self.drains.get_mut(&target) {
                process.stage = Stage::Ended;
            }
            self.keep_drain(&target)?;
        }
        Ok(self.report(&first))
    }

    /// A certificate that was not taken back is the next opening balance of its member.
    fn served(&mut self, process: &Process) {
        if let Stage::Drained { certificate: Some(_), .. } = process.stage {
            self.settle_opening(&process.member);
        }
    }

    /// One step of every drain; without a journal that was read to its end, only what may take a certificate back.
    pub(super) async fn step_drains(&mut self, fresh: bool) {
        let targets: Vec<String> = self.drains.keys().cloned().collect();
        for target in targets {
            let drained = self.drains.get(&target).is_some_and(|one| one.phase() == Phase::Drained);
            if !fresh && !drained {
                continue;
            }
            if let Err(error) = self.step(&target).await {
                tracing::warn!(target, %error, "a drain does not go on for now");
            }
        }
    }

    async fn step(&mut self, target: &str) -> Result<(), ClientError> {
        let now = Moment::now();
        let Some(process) = self.drains.get(target).cloned() else { return Ok(()) };
        // A file of one of its logs is half read.
        let reading = self.importing.as_ref().is_some_and(|(log, _)| {
            self.config.setting.logs_of(&process.member).any(|plan| plan.name == *log)
        });
        if reading && !matches!(process.stage, Stage::Fencing | Stage::Probing { .. }) {
            return Ok(());
        }
        let late = now.since(process.started) > process.timeout_ms;
        let next = match &process.stage {
            Stage::Fencing | Stage::Probing { .. } if late => Some(Stage::GivenUp { marked: None }),
            Stage::Fencing => self.fence(target).await?,
            Stage::Probing { fenced } => self.mark(target, *fenced, now),
            Stage::Watching(_) | Stage::GivenUp { marked: Some(_) } => {
                self.watch(target, &process, late, now).await?
            }
            Stage::Drained { certificate, .. } => {
                self.guard(target, &process, certificate.as_ref()).await?
            }
            Stage::GivenUp { marked: None } | Stage::Revoked { .. } | Stage::Ended => None,
        };
        if let Some(next) = next {
            if let Some(process) = self.drains.get_mut(target) {
                process.stage = next;
                tracing::info!(target, phase = ?process.phase(), "drain");
            }
            if let Err(error) = self.keep_drain(target) {
                tracing::error!(?error, target, "a drain cannot be kept");
            }
        }
        Ok(())
    }

    /// Waits until nothing older than the orders is alive, gate by gate.
    async fn fence(&mut self, target: &str) -> Result<Option<Stage>, ClientError> {
        #[derive(Serialize)]
        struct Question {
            epoch: u64,
            timeout_s: u64,
        }
        self.place_orders(target).await?;
        let Some(process) = self.drains.get(target).cloned() else { return Ok(None) };
        for fence in process.fences.iter().filter(|fence| fence.quiet.is_none()) {
            let question = Question { epoch: fence.epoch, timeout_s: 0 };
            let path = with_query(&fill(api::path::QUIET, "gate", &fence.gate), &question)?;
            let answer = match self.proxy.get(&path, DEADLINE).await {
                // The proxy was started again: nothing of before is alive, and epochs begin anew.
                Err(ClientError::Refused { status, .. }) if status.as_u16() == 400 => {
                    let path = fill(api::path::QUIET, "gate", &fence.gate);
                    self.proxy.get(&path, DEADLINE).await?
                }
                answer => answer?,
            };
            let answer: api::QuietAnswer = answer;
            let member = |alive: &api::AlivePermit| {
                alive.member.as_ref().is_none_or(|member| *member == process.member)
            };
            // Other members of the gate go on; what is alive there is not ours to wait for.
            if !answer.quiet && answer.alive.iter().any(member) {
                continue;
            }
            if let Some(process) = self.drains.get_mut(target) {
                let mut fences = process.fences.iter_mut();
                if let Some(known) = fences.find(|known| known.gate == fence.gate) {
                    known.quiet = Some(Moment::now());
                }
            }
        }
        let Some(process) = self.drains.get(target) else { return Ok(None) };
        let quiet: Option<Vec<Moment>> = process.fences.iter().map(|fence| fence.quiet).collect();
        let all = process.fences.len() == process.gates.len();
        let fenced = quiet.filter(|_| all).and_then(|quiet| quiet.into_iter().max());
        let Some(fenced) = fenced else { return Ok(None) };
        self.send_sentinels(target);
        Ok(Some(Stage::Probing { fenced }))
    }

    /// A marked message through each gate, by its own relay and source address.
    fn send_sentinels(&mut self, target: &str) {
        let Some(process) = self.drains.get_mut(target) else { return };
        for gate in process.gates.clone() {
            let known = process.sentinels.iter().any(|sentinel| sentinel.gate == gate);
            let Some((to, from)) = self.config.sentinels.get(&gate).cloned() else { continue };
            let later = process.unanswered.get(&gate).is_some_and(|(_, at)| *at > Moment::now());
            if known || later || process.asked.contains(&gate) {
                continue;
            }
            process.asked.push(gate.clone());
            let request =
                api::ProbeRequest { to, from, member: Some(process.member.clone()), message: None };
            let (proxy, handle) = (self.proxy.clone(), self.handle.clone());
            let (target, member) = (target.to_owned(), process.member.clone());
            let started = process.started;
            tokio::spawn(async move {
                let path = fill(api::path::PROBE, "gate", &gate);
                let answer: Result<api::ProbeAnswer, ClientError> =
                    proxy.post(&path, &request, PROBE_DEADLINE).await;
                let result = answer.map_err(|error| error.to_string()).and_then(|answer| {
                    let mut results = answer.members.into_iter();
                    let found = results.find(|result| result.member == member);
                    found.ok_or_else(|| format!("gate {gate} did not probe {member}"))
                });
                // When control stops meanwhile, the next start asks again.
                handle.0.send(Command::Probed { target, gate, started, result }).await.ok();
            });
        }
    }

    pub(super) fn probed(
        &mut self,
        target: &str,
        gate: &str,
        started: Moment,
        result: Result<api::ProbeResult, String>,
    ) {
        let to = self.config.sentinels.get(gate).map(|(to, _)| to.clone()).unwrap_or_default();
        // An answer to an earlier drain of the same name is none to this.
        let process = self.drains.get_mut(target).filter(|process| process.started == started);
        let Some(process) = process else { return };
        process.asked.retain(|asked| asked != gate);
        // The proxy was busy, or is being started; or the server puts mail off that it does not know yet: asked again, a few
        // times.
        let put_off = match &result {
            Ok(result) => !result.accepted && result.reply.starts_with('4'),
            Err(_) => true,
        };
        if put_off {
            let (count, at) = process.unanswered.entry(gate.to_owned()).or_default();
            *count += 1;
            let pause = (i64::from(*count) * PROBE_PAUSE_MS).min(PROBE_PAUSE_MAX_MS);
            *at = Moment::now().plus(if result.is_ok() { pause } else { 0 });
            if *count < PROBES_MAX {
                return;
            }
        }
        let gate = gate.to_owned();
        process.sentinels.push(match result {
            Ok(result) => Sentinel {
                gate,
                message_id: bare(&result.message_id).to_owned(),
                to,
                accepted: result.accepted,
                reply: result.reply,
            },
            Err(reply) => Sentinel { gate, message_id: String::new(), to, accepted: false, reply },
        });
        if let Err(error) = self.keep_drain(target) {
            tracing::error!(?error, target, "a drain cannot be kept");
        }
    }

    /// The mark: taken only now that the fence stands and every sentinel was answered.
    fn mark(&mut self, target: &str, fenced: Moment, now: Moment) -> Option<Stage> {
        // A restart forgot what was asked.
        self.send_sentinels(target);
        let process = self.drains.get(target)?;
        let wanted = process.gates.iter().filter(|gate| self.config.sentinels.contains_key(*gate));
        let answered = |gate: &&String| process.sentinels.iter().any(|one| one.gate == **gate);
        if !wanted.clone().all(|gate| answered(&gate)) {
            return None;
        }
        let journal = self.books.ledger.cursor().unwrap_or_default().to_owned();
        let items = self.books.ledger.inside(&process.member).count();
        let items = u64::try_from(items).unwrap_or(u64::MAX);
        let logs = self.log_facts(&process.member, now).into_iter();
        let logs = logs.map(|fact| (fact.log, fact.files)).collect();
        Some(Stage::Watching(Marked { fenced, mark: now, journal, logs, items }))
    }

    async fn watch(
        &mut self,
        target: &str,
        process: &Process,
        late: bool,
        now: Moment,
    ) -> Result<Option<Stage>, ClientError> {
        let Some(marked) = process.marked().cloned() else { return Ok(None) };
        if !stands(&self.proxy.clone(), process).await? {
            return Ok(Some(Stage::Ended));
        }
        // A gate that came to the member by a new configuration is to be fenced too.
        let gates = self.config.members.get(&process.member);
        if process.only_gate.is_none() && gates != Some(&process.gates) {
            let gates = gates.cloned().unwrap_or_default();
            if let Some(process) = self.drains.get_mut(target) {
                process.gates = gates;
                // Looked at before this fence.
                process.queue_empty = None;
            }
            return Ok(Some(Stage::Fencing));
        }
        let Some(verdict) = self.judged(process, now) else { return Ok(None) };
        Ok(match verdict {
            Verdict::Drained(_) if process.only_gate.is_some() => {
                Some(Stage::Drained { marked, certificate: None })
            }
            Verdict::Drained(proof) => match self.certify(process, proof, now) {
                Ok(number) => Some(Stage::Drained { marked, certificate: Some(number) }),
                Err(error) => {
                    tracing::error!(?error, target, "a certificate cannot be issued");
                    None
                }
            },
            _ if late && matches!(process.stage, Stage::Watching(_)) => {
                Some(Stage::GivenUp { marked: Some(marked) })
            }
            _ => None,
        })
    }

    fn judged(&self, process: &Process, now: Moment) -> Option<Verdict> {
        let marked = process.marked()?;
        let (fenced, mark) = (marked.fenced, marked.mark);
        let case = Case {
            member: &process.member,
            gates: &process.gates,
            only_gates: process.only_gate.is_some(),
            opening: self.openings.get(&process.member),
            fenced,
            mark,
            quiet_ms: process.quiet_ms,
            sentinels: &process.sentinels,
            queue_empty: process.queue_empty.as_ref(),
            waivers: &process.waivers,
            logs: &self.config.terms,
            now,
        };
        Some(judge(&case, &self.books, &self.config.setting))
    }

    fn certify(&mut self, process: &Process, proof: Proof, now: Moment) -> Result<String, Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::Failed(error.to_string());
        let Some(opening) = self.openings.get(&process.member).cloned() else {
            return Err(Refusal::Failed("there is no opening balance".into()));
        };
        let Some(marked) = process.marked().cloned() else {
            return Err(Refusal::Failed("there is no mark".into()));
        };
        let mark = marked.mark;
        let grade = proof.grade.as_str().to_owned();
        let fence = |fence: &Fencing| {
            Some(Fence {
                gate: fence.gate.clone(),
                order: fence.order,
                epoch: fence.epoch,
                quiet: fence.quiet?,
            })
        };
        let circumstances = Circumstances {
            issuer: self.config.host.clone(),
            member: process.member.clone(),
            gates: process.gates.clone(),
            issued: now,
            fences: process.fences.iter().filter_map(fence).collect(),
            mark,
            journal: marked.journal.clone(),
            marked_logs: marked.logs.clone(),
            quiet_ms: process.quiet_ms,
            logs: self.log_facts(&process.member, opening.at),
            opening,
            sentinels: process.sentinels.clone(),
            queue_empty: process.queue_empty.clone(),
        };
        let certificate =
            self.signer.certify(proof, circumstances).map_err(|error| failed(&error))?;
        let number = certificate.number().map_err(|error| failed(&error))?;
        let sums = self.books.ledger.sums(Some(&process.member));
        let opening = Opening {
            at: mark,
            known: Known::Certificate(number.clone()),
            sums: sums.into_iter().map(|((_, gate), sums)| (gate, sums)).collect(),
        };
        let member = process.member.clone();
        let kept = Kept { certificate, member: member.clone(), issued: now, grade, revoked: None };
        // The books that it rests on go to the disk before it.
        if !self.keep() {
            return Err(Refusal::Failed("the books cannot be written".into()));
        }
        let mut drained = process.clone();
        drained.stage = Stage::Drained { marked, certificate: Some(number.clone()) };
        self.write(|batch| {
            batch.put(&format!("certificate/{number}"), &kept);
            batch.put(&format!("next-opening/{member}"), &opening);
            batch.put(&format!("drain/{member}"), &drained);
        })?;
        self.certificates.insert(number.clone(), kept);
        tracing::info!(member, number, "drained: certificate issued");
        Ok(number)
    }

    fn log_facts(&self, member: &str, since: Moment) -> Vec<LogFact> {
        let speaks = |role: &Role| match role {
            Role::Server { member: other } => other == member,
            Role::Next { .. } => true,
        };
        let plans = self.config.setting.logs.iter().filter(|log| speaks(&log.role));
        let fact = |plan: &crate::drain::correlate::LogPlan| {
            let intake = self.intakes.iter().find(|intake| intake.name() == plan.name)?;
            let book = self.books.logs.get(&plan.name)?;
            let counted = book.coverage.since(since);
            let missing = book.coverage.missing_since(since).count();
            Some(LogFact {
                log: plan.name.clone(),
                role: match plan.role {
                    Role::Server { .. } => "server".into(),
                    Role::Next { .. } => "next".into(),
                },
                files: intake.files(),
                lines: counted.read,
                unparsed: counted.unparsed,
                missing: u64::try_from(missing).unwrap_or(u64::MAX),
                alive: book.coverage.alive,
                shown_until: book.chains.shown_until,
                skew_ms: book.chains.skew.bounds(),
                skew_pairs: book.chains.skew.pairs,
            })
        };
        plans.filter_map(fact).collect()
    }

    /// While the orders stand, late evidence takes a certificate back. When they are ended, it has served.
    async fn guard(
        &mut self,
        target: &str,
        process: &Process,
        certificate: Option<&String>,
    ) -> Result<Option<Stage>, ClientError> {
        let now = Moment::now();
        let verdict = self.judged(process, now);
        let Some(marked) = process.marked().cloned() else { return Ok(None) };
        let late = verdict.as_ref().and_then(|verdict| late_evidence(verdict, marked.fenced));
        // Mail that an ended order let through is no fault of the proof: it is of after the fence.
        let of_before = late.as_ref().is_some_and(|late| late.of_before);
        if !of_before && !stands(&self.proxy.clone(), process).await? {
            self.served(process);
            return Ok(Some(Stage::Ended));
        }
        let Some(LateEvidence { why, .. }) = late else { return Ok(None) };
        let Some(number) = certificate else {
            // Of a gate nothing was promised: it goes on.
            return Ok(Some(Stage::Watching(marked)));
        };
        tracing::error!(target, number, why, "the certificate is revoked");
        if let Some(kept) = self.certificates.get_mut(number) {
            kept.revoked = Some(why.clone());
        }
        let kept = self.certificates.get(number).cloned();
        let written = self.write(|batch| {
            if let Some(kept) = &kept {
                batch.put(&format!("certificate/{number}"), kept);
            }
            batch.remove(&format!("next-opening/{}", process.member));
        });
        if let Err(error) = written {
            tracing::error!(?error, number, "the revocation cannot be kept");
        }
        Ok(Some(Stage::Revoked { certificate: number.clone(), why, marked }))
    }

    /// The member goes on from the certificate: that is its next opening balance.
    fn settle_opening(&mut self, member: &str) {
        let key = format!("next-opening/{member}");
        match self.store.get::<Opening>(&key) {
            Ok(Some(opening)) => {
                let written = self.write(|batch| {
                    batch.put(&format!("opening/{member}"), &opening);
                    batch.remove(&key);
                });
                match written {
                    Ok(()) => {
                        self.openings.insert(member.to_owned(), opening);
                    }
                    Err(error) => tracing::error!(?error, member, "the opening cannot be kept"),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, member, "the next opening cannot be read"),
        }
    }

    pub(super) fn report(&self, target: &str) -> DrainReport {
        let now = Moment::now();
        let Some(process) = self.drains.get(target) else { return DrainReport::none(target) };
        let verdict = self.judged(process, now);
        let text = |moment: Moment| moment.to_string();
        let (said, items, strangers, doubts) = match verdict {
            // Before the mark nothing is judged; what is inside is known all the same.
            None => {
                let inside = self.books.ledger.inside(&process.member);
                let inside = inside.map(|(key, offer, item)| left(key, offer, item)).collect();
                (None, inside, Vec::new(), Vec::new())
            }
            // Only what is certified (or, of a gate, found) is called so.
            Some(Verdict::Drained(_)) => {
                let drained = matches!(process.stage, Stage::Drained { .. });
                let said = if drained { Said::Drained } else { Said::Inconclusive };
                (Some(said), Vec::new(), Vec::new(), Vec::new())
            }
            Some(Verdict::Pending { items, strangers, doubts }) => {
                (Some(Said::Pending), items, strangers, doubts)
            }
            // After the proof the server may write what it likes of itself.
            Some(Verdict::Inconclusive { doubts })
                if matches!(process.stage, Stage::Drained { .. })
                    && doubts.iter().all(|doubt| matches!(doubt, Doubt::Quiet { .. })) =>
            {
                (Some(Said::Drained), Vec::new(), Vec::new(), Vec::new())
            }
            Some(Verdict::Inconclusive { doubts }) => {
                (Some(Said::Inconclusive), Vec::new(), Vec::new(), doubts)
            }
        };
        let marked = process.marked();
        let sums = self.books.ledger.sums(Some(&process.member));
        let mut report = DrainReport {
            member: process.member.clone(),
            only_gate: process.only_gate.clone(),
            gates: process.gates.clone(),
            phase: process.phase(),
            started: text(process.started),
            fenced: marked.map(|marked| text(marked.fenced)),
            mark: marked.map(|marked| text(marked.mark)),
            said,
            items_total: u64::try_from(items.len()).unwrap_or(u64::MAX),
            items: items.into_iter().take(ITEMS_MAX).collect(),
            items_at_mark: marked.map(|marked| marked.items),
            strangers: strangers.into_iter().take(ITEMS_MAX).collect(),
            doubts: doubts.iter().map(|doubt| self.line(doubt)).collect(),
            sums: sums.into_iter().map(|((_, gate), sums)| (gate, sums)).collect(),
            sentinels: process.sentinels.clone(),
            certificate: match &process.stage {
                Stage::Drained { certificate, .. } => certificate.clone(),
                Stage::Revoked { certificate, .. } => Some(certificate.clone()),
                _ => None,
            },
            revoked: match &process.stage {
                Stage::Revoked { why, .. } => Some(why.clone()),
                _ => None,
            },
            next_steps: Vec::new(),
        };
        report.next_steps =
            next_steps(&report, process.is_fenced() && process.queue_empty.is_none());
        report
    }
}

impl DrainReport {
    fn none(target: &str) -> Self {
        Self {
            member: target.to_owned(),
            only_gate: None,
            gates: Vec::new(),
            phase: Phase::Ended,
            started: String::new(),
            fenced: None,
            mark: None,
            said: None,
            items: Vec::new(),
            items_total: 0,
            items_at_mark: None,
            strangers: Vec::new(),
            doubts: Vec::new(),
            sums: BTreeMap::new(),
            sentinels: Vec::new(),
            certificate: None,
            revoked: None,
            next_steps: Vec::new(),
        }
    }
}

impl Watcher {
    fn line(&self, doubt: &Doubt) -> DoubtLine {
        let mut text = doubt.to_string();
        // A log that cannot be read says why.
        if let Doubt::Silent { log, .. } = doubt
            && let Some(intake) = self.intakes.iter().find(|intake| intake.name() == *log)
            && let Some(error) = &intake.error
        {
            text = format!("log {log} cannot be read: {error}");
        }
        line(doubt, text)
    }
}

fn line(doubt: &Doubt, text: String) -> DoubtLine {
    DoubtLine {
        name: doubt.name(),
        text,
        may_be_waived: doubt.may_be_waived(),
        measure: doubt.measure(),
        passes: doubt.passes(),
    }
}

/// What speaks against a certificate that was issued.
struct LateEvidence {
    why: String,
    /// It is of the time before the fence, and no new mail.
    of_before: bool,
}

/// Traffic takes a certificate back, not a log that goes silent or a line that nobody understands.
fn late_evidence(verdict: &Verdict, fenced: Moment) -> Option<LateEvidence> {
    let (items, strangers, doubts): (&[_], &[_], &[Doubt]) = match verdict {
        Verdict::Drained(_) => return None,
        Verdict::Pending { items, strangers, doubts } => (items, strangers, doubts),
        Verdict::Inconclusive { doubts } => (&[], &[], doubts),
    };
    let mut why = Vec::new();
    if !items.is_empty() || !strangers.is_empty() {
        why.push(format!(
            "late evidence: {} items and {} other messages are inside after all",
            items.len(),
            strangers.len()
        ));
    }
    let traffic = |doubt: &&Doubt| {
        matches!(
            doubt,
            Doubt::Bypass { .. }
                | Doubt::LateOffer { .. }
                | Doubt::Untracked { .. }
                | Doubt::Elsewhere { .. }
                | Doubt::Unbalanced { .. }
        )
    };
    why.extend(doubts.iter().filter(traffic).map(ToString::to_string));
    let bypass = |doubt: &Doubt| match doubt {
        Doubt::Bypass { samples, .. } => {
            samples.iter().any(|one| one.at.is_none_or(|at| at <= fenced))
        }
        Doubt::Unbalanced { .. } => true,
        _ => false,
    };
    let of_before = items.iter().any(|left| left.offered <= fenced)
        || strangers.iter().any(|one| one.at.is_none_or(|at| at <= fenced))
        || doubts.iter().any(bypass);
    (!why.is_empty()).then(|| LateEvidence { why: why.join("; "), of_before })
}

/// Are the orders of a drain all in force?
async fn stands(proxy: &Client, process: &Process) -> Result<bool, ClientError> {
    let orders: Vec<api::Order> = proxy.get(api::path::ORDERS, DEADLINE).await?;
    let open = |fence: &Fencing| orders.iter().any(|order| order.id == fence.order);
    Ok(process.fences.iter().all(open))
}

/// What a person can do now.
fn next_steps(report: &DrainReport, ask_for_queue: bool) -> Vec<String> {
    let member = &report.member;
    let target = report.only_gate.as_ref().unwrap_or(member);
    let mut steps = Vec::new();
    match report.phase {
        Phase::Drained => {
            if let Some(number) = &report.certificate {
                steps.push(format!("lockgate certificate show {number}"));
            }
            steps.push(format!("lockgate drain {target} --end    # when it may get mail again"));
        }
        Phase::Revoked => steps.push(format!("lockgate drain {target} --wait")),
        Phase::GivenUp => {
            steps.push(format!(
                "lockgate drain {target} --wait   # once more, with a new fence and sentinel"
            ));
            steps.push(format!("lockgate drain {target} --end    # give it mail again"));
        }
        Phase::Fencing | Phase::Watching | Phase::Ended => {}
    }
    if ask_for_queue && report.only_gate.is_none() && report.phase != Phase::Drained {
        steps.push(format!(
            "lockgate attest {member} queue-empty --reason TEXT   # after a look at its own queue page"
        ));
    }
    for doubt in &report.doubts {
        if doubt.name == "untracked" {
            steps.push(format!(
                "lockgate attest {member} rebuilt --reason TEXT   # once a log or a return gate is configured, and the member is empty"
            ));
        } else if doubt.name == "no-opening" {
            steps.push(format!("lockgate attest {member} empty-start --reason TEXT"));
        } else if let Some(log) = doubt.name.strip_prefix("silent:") {
            steps.push(format!(
                "lockgate logs import FILE --log {log}   # exported after the fence"
            ));
        } else if doubt.name == "no-log" || doubt.name == "only-udp" {
            // Asked for above.
        } else if doubt.may_be_waived {
            steps.push(format!("lockgate waive {member} {} --reason TEXT", doubt.name));
        }
    }
    steps
}
