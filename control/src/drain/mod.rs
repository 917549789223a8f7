//! Is anything left inside a server? From the journal and the logs: who went in, who came out.
//!
//! | module | what |
//! |---|---|
//! | [`item`] | offers, items, evidence |
//! | [`skew`] | how far a log's clock is from ours |
//! | [`ledger`] | every item, and the conservation law |
//! | [`correlate`] | which line of a log speaks of which item |
//! | [`verdict`] | what may be said: drained, pending, inconclusive |
//! | [`certificate`] | the proof as a document: signed, checked again without us, revoked |
//!
//! [`Books`] holds them together: the journal's entries and the logs' lines go in, in any order and as
//! often as they come; the ledger lists what is left. Pure but for the clock that
//! its caller reads.
//!
//! Not here: files (`maillog`), orders and probes (`fleet`), the task that reads (`watch`).

pub mod certificate;
pub mod correlate;
pub mod item;
pub mod ledger;
pub mod skew;
pub mod verdict;

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proxy::api::JournalLine;
use serde::{Deserialize, Serialize};

use crate::maillog::coverage::{Coverage, Missing};
use crate::maillog::{Dialect, Line};
use crate::moment::Moment;
use correlate::{Chains, Desk, LogPlan, Role};
use item::{Column, End, Evidence, Key, Offer, OfferKey, Place};
use ledger::{Ledger, Limits, Plan};

/// What one log told so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Book {
    /// Its messages.
    pub chains: Chains,
    /// How well it is known.
    pub coverage: Coverage,
}

/// Everything that is known, kept on disk as a whole with the places up to which journal and logs were read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Books {
    /// When they were begun.
    pub since: Option<Moment>,
    /// The journal is not read: nothing would tell what became of mail.
    pub asleep: bool,
    /// The ledger.
    pub ledger: Ledger,
    /// By the name of the log.
    pub logs: BTreeMap<String, Book>,
}

/// What the books are read with.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Gates and members.
    pub plan: Plan,
    /// Logs.
    pub logs: Vec<LogPlan>,
    /// Limits.
    pub limits: Limits,
}

impl Book {
    /// Was every line understood that was written between these moments of our clock?
    #[must_use]
    pub fn is_understood(&self, from: Moment, to: Moment, limits: &Limits) -> bool {
        let most = limits.skew_max_ms;
        let (low, high) = self.chains.skew.bounds().unwrap_or((-most, most));
        self.coverage.is_understood(from.plus(low), to.plus(high))
    }
}

impl Setting {
    /// Logs of this member itself.
    pub fn logs_of<'a>(&'a self, member: &'a str) -> impl Iterator<Item = &'a LogPlan> {
        self.logs.iter().filter(
            move |log| matches!(&log.role, Role::Server { member: other } if other == member),
        )
    }
}

impl Books {
    /// Makes what is not kept on disk from what is.
    pub fn index(&mut self) {
        self.ledger.index();
        for book in self.logs.values_mut() {
            book.chains.index();
        }
    }

    /// Takes a line of the journal, read with `entries`.
    pub fn entry(&mut self, line: &JournalLine, setting: &Setting, now: Moment) {
        self.ledger.entry(line, &setting.plan, &setting.limits, now);
    }

    /// Takes what a line of a log says; `raw` is the line. [`Coverage::read`] is called once for each line before.
    pub fn line(
        &mut self,
        log: &LogPlan,
        line: &Line<'_>,
        (raw, place): (&[u8], &Place),
        setting: &Setting,
        now: Moment,
    ) {
        let book = self.logs.entry(log.name.clone()).or_default();
        book.coverage.line(line, raw, now);
        let stamp = match line {
            Line::Event(event) => event.at,
            Line::Quiet(at) => *at,
            Line::Hole(_) | Line::Unparsed => None,
        };
        if let Some(stamp) = stamp {
            book.chains.stamped(correlate::bounds(stamp));
        }
        if let Line::Event(event) = line {
            let Setting { plan, limits, .. } = setting;
            let desk = &mut Desk { ledger: &mut self.ledger, plan, log, limits, now };
            book.chains.event(event, place, desk);
        }
    }

    /// A line of a log was read; `live`: as it was written, not from a file that was handed in.
    pub fn read(&mut self, log: &str, now: Moment, live: bool) {
        self.logs.entry(log.to_owned()).or_default().coverage.read(now, live);
    }

    /// Lines of a log may be missing.
    pub fn missing(&mut self, log: &str, missing: Missing) {
        self.logs.entry(log.to_owned()).or_default().coverage.missing(missing);
    }

    /// What time brings: absence that is proven now, chains to judge, offers to let go of.
    pub fn tick(&mut self, setting: &Setting, now: Moment) {
        let Setting { plan, limits, logs } = setting;
        for log in logs {
            if let Some(book) = self.logs.get_mut(&log.name) {
                let desk = &mut Desk { ledger: &mut self.ledger, plan, log, limits, now };
                book.chains.tick(desk);
            }
        }
        let absent: Vec<(OfferKey, Evidence)> = self
            .ledger
            .offers()
            .filter_map(|(key, offer)| Some((key.clone(), self.absence(key, offer, setting)?)))
            .collect();
        for (key, evidence) in absent {
            let Some(offer) = self.ledger.offer(&key) else { continue };
            let inside: Vec<String> = offer.inside().map(|item| item.to.clone()).collect();
            for to in inside {
                self.ledger.settle(&key, &to, &evidence, now);
            }
        }
        self.ledger.tick(limits, now);
    }

    /// What became of an uncertain message of ours: `Some(true)`, a member took it; `Some(false)`, it is proven absent;
    /// none, nobody knows yet.
    #[must_use]
    pub fn what_became_of(&self, id: &str) -> Option<bool> {
        // What became of an earlier attempt, perhaps for other recipients, says nothing of the last.
        let (_, last) = self.ledger.of_id(id).last()?;
        if !matches!(last.end, End::Uncertain { .. }) {
            return None;
        }
        if last.is_taken() {
            return Some(true);
        }
        last.items.iter().all(item::Item::is_absent).then_some(false)
    }

    /// The proof that an uncertain offer was never taken, if there is one: the server's log shows what was offered well
    /// after it, has no hole, no line that was not understood and no message that might be it.
    fn absence(&self, key: &OfferKey, offer: &Offer, setting: &Setting) -> Option<Evidence> {
        let End::Uncertain { at } = offer.end else { return None };
        // One that came in, and was not seen in the queue, may wait before it.
        if offer.is_taken() || offer.logged || offer.is_settled() {
            return None;
        }
        let proves = |log: &&LogPlan| {
            let Some(book) = self.logs.get(&log.name) else { return false };
            let guard = log.absence_guard_ms();
            let covered = book.chains.covers(offer.began, at, guard, &setting.limits);
            let named = offer.told_ident && book.chains.shows_idents || offer.message_id.is_some();
            let whole = book.coverage.missing_since(offer.began).next().is_none()
                && book.is_understood(offer.began, at.plus(guard), &setting.limits);
            let window = (offer.began, at.plus(guard));
            !log.udp
                && log.dialect != Dialect::Custom
                && covered
                && named
                && whole
                && !book.chains.may_hide(key, offer, window, &setting.limits)
        };
        // The member may write to each of its logs.
        let log = setting.logs_of(&offer.member).next()?;
        if !setting.logs_of(&offer.member).all(|log| proves(&log)) {
            return None;
        }
        let shown = self.logs.get(&log.name)?.chains.shown_until?;
        let file = String::new();
        Some(Evidence {
            column: Column::Refused,
            key: Key::Absence,
            place: Place::Log { log: log.name.clone(), file, offset: 0 },
            at: shown,
            text: format!("{} was not found in a log that goes on to {shown}", key.id),
        })
    }
}
