//! What a server was seen to do: which rules matched and what became of mail, counted from its logs.
//!
//! The mail log names the rule of each hop and the end of each recipient. So two periods can be
//! compared, and a period with a policy: rules that it has and the log never names, rules that the log
//! names and it has not.
//!
//! Sessions are counted, not recipients: a message to a thousand recipients is one accident, not a
//! thousand. Even sessions are no independent draws (a newsletter, a holiday, a new customer), so what
//! is found here is advice on where to look, and never a verdict.
//!
//! How shares are compared: each share has its Wilson score interval at 99 %, their difference the one
//! that Newcombe makes of both (Statistics in Medicine 17, 1998, method 10). A difference whose
//! interval has zero in it is noise. Of a hundred shares that have not changed, one may still be
//! called changed. Where there are fewer than [`SESSIONS_MIN`] sessions or [`COUNT_MIN`] of a kind,
//! nothing is said.
//!
//! Not here: how a log is read, which path one message takes (`decide`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::chain::AppliesTo;
use crate::set::PolicySet;

/// Sessions that each period must have for its shares to be compared.
pub const SESSIONS_MIN: u64 = 100;

/// Sessions of a kind that one of both periods must have for its shares to be compared.
pub const COUNT_MIN: u64 = 10;

/// The 99.5th percentile of the normal distribution: 99 % lie between it and its negative.
const CONFIDENCE: f64 = 2.575_829;

/// What the log says of one recipient in one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The server.
    pub server: String,
    /// The session, told apart from every other of this server (its counter begins anew with the
    /// process).
    pub session: String,
    /// The recipient.
    pub recipient: String,
    /// The direction, where it is known.
    pub direction: Option<Direction>,
    /// The rules that matched, in order.
    pub path: Vec<Hit>,
    /// What became of it, in few words that are the same each time; none where the log does not say.
    pub disposition: Option<String>,
}

/// Where mail goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the managed domains.
    Inbound,
    /// Out of them.
    Outbound,
}

/// A rule that matched, as the log names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Hit {
    /// The chain.
    pub chain: String,
    /// The rule.
    pub rule: String,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A rule matched.
    Hit(Hit),
    /// This became of a message.
    Disposition(String),
}

/// What was seen in one period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    sessions: BTreeMap<Option<Direction>, u64>,
    counts: BTreeMap<(Option<Direction>, Kind), u64>,
}

/// How many of how many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// So many.
    pub count: u64,
    /// Of so many.
    pub of: u64,
}

/// How a share has changed. Advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was never seen before.
    Appeared,
    /// It is never seen any more.
    Vanished,
    /// It is greater.
    Rose,
    /// It is smaller.
    Fell,
    /// Chance alone may make such a difference.
    WithinNoise,
    /// There is too little to compare.
    TooFew,
}

/// A share before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shift {
    /// Of mail in this direction; none: where it is not known.
    pub direction: Option<Direction>,
    /// What was counted.
    pub kind: Kind,
    /// Its share before.
    pub before: Share,
    /// Its share after.
    pub after: Share,
    /// How it has changed.
    pub change: Change,
}

/// Where a log and a policy do not agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Rules that can match, and never did. Two rules of a chain with one name are taken for one.
    pub never_hit: Vec<Hit>,
    /// Rules that matched, and cannot in this policy. It is not the one that the server had, then.
    pub impossible: Vec<(Hit, Why)>,
}

/// Why a rule cannot match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// There is no such chain.
    NoChain,
    /// There is no such rule in the chain.
    NoRule,
    /// The rule is not enabled.
    NotEnabled,
    /// The chain acts on clients only.
    ClientOnly,
}

impl Observed {
    /// Counts records. A session counts once for each kind, however many recipients it had.
    #[must_use]
    pub fn count<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut kinds: BTreeMap<(Option<Direction>, &str, &str), BTreeSet<Kind>> = BTreeMap::new();
        for record in records {
            let key = (record.direction, record.server.as_str(), record.session.as_str());
            let kinds = kinds.entry(key).or_default();
            kinds.extend(record.path.iter().cloned().map(Kind::Hit));
            kinds.extend(record.disposition.clone().map(Kind::Disposition));
        }
        let mut observed = Self::default();
        for ((direction, _, _), kinds) in kinds {
            *observed.sessions.entry(direction).or_default() += 1;
            for kind in kinds {
                *observed.counts.entry((direction, kind)).or_default() += 1;
            }
        }
        observed
    }

    /// The share of sessions in this direction.
    #[must_use]
    pub fn share(&self, direction: Option<Direction>, kind: &Kind) -> Share {
        let count = self.counts.get(&(direction, kind.clone())).copied().unwrap_or_default();
        Share { count, of: self.sessions.get(&direction).copied().unwrap_or_default() }
    }

    /// Everything that was seen, with its share.
    pub fn shares(&self) -> impl Iterator<Item = (Option<Direction>, &Kind, Share)> {
        let of = |direction| self.sessions.get(direction).copied().unwrap_or_default();
        self.counts.iter().map(move |((direction, kind), count)| {
            (*direction, kind, Share { count: *count, of: of(direction) })
        })
    }

    /// Where this and a policy do not agree.
    #[must_use]
    pub fn disagreement(&self, set: &PolicySet) -> Disagreement {
        let hits: BTreeSet<&Hit> = self
            .counts
            .keys()
            .filter_map(|(_, kind)| match kind {
                Kind::Hit(hit) => Some(hit),
                Kind::Disposition(_) => None,
            })
            .collect();
        let mut found = Disagreement::default();
        for chain in set.chains.iter().filter(|chain| chain.applies_to != AppliesTo::ClientOnly) {
            for rule in chain.rules.iter().filter(|rule| rule.enabled) {
                let hit = Hit { chain: chain.name.clone(), rule: rule.name.clone() };
                if !hits.contains(&hit) && !found.never_hit.contains(&hit) {
                    found.never_hit.push(hit);
                }
            }
        }
        let impossible = hits.into_iter().filter_map(|hit| Some((hit.clone(), why(set, hit)?)));
        found.impossible = impossible.collect();
        found
    }
}

/// Why a rule cannot match in this policy; none where it can.
fn why(set: &PolicySet, hit: &Hit) -> Option<Why> {
    let Some(chain) = set.chain(&hit.chain) else { return Some(Why::NoChain) };
    let mut rules = chain.rules.iter().filter(|rule| rule.name == hit.rule).peekable();
    if rules.peek().is_none() {
        Some(Why::NoRule)
    } else if chain.applies_to == AppliesTo::ClientOnly {
        Some(Why::ClientOnly)
    } else if rules.any(|rule| rule.enabled) {
        None
    } else {
        Some(Why::NotEnabled)
    }
}

/// Compares two periods: everything that was seen in one of them. Advice, see above.
#[must_use]
pub fn compare(before: &Observed, after: &Observed) -> Vec<Shift> {
    let keys: BTreeSet<_> = before.counts.keys().chain(after.counts.keys()).collect();
    let shift = |(direction, kind): &(Option<Direction>, Kind)| {
        let (before, after) = (before.share(*direction, kind), after.share(*direction, kind));
        let change = Change::of(before, after);
        Shift { direction: *direction, kind: kind.clone(), before, after, change }
    };
    keys.into_iter().map(shift).collect()
}

impl Change {
    /// Compares two shares.
    #[must_use]
    pub fn of(before: Share, after: Share) -> Self {
        let few = before.of.min(after.of) < SESSIONS_MIN;
        if few || before.count.max(after.count) < COUNT_MIN {
            return Self::TooFew;
        }
        let (low, high) = difference(before, after, CONFIDENCE);
        match (before.count, after.count) {
            _ if low <= 0.0 && high >= 0.0 => Self::WithinNoise,
            (0, _) => Self::Appeared,
            (_, 0) => Self::Vanished,
            _ if low > 0.0 => Self::Rose,
            _ => Self::Fell,
        }
    }
}

impl Share {
    /// The share as a number; 0 of nothing.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.count as f64 / self.of as f64 }
    }

    /// Where the true share lies with 99 % confidence (Wilson 1927); anywhere, of nothing.
    #[must_use]
    pub fn interval(self) -> (f64, f64) {
        self.wilson(CONFIDENCE)
    }

    fn wilson(self, confidence: f64) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let ratio = self.ratio();
        let square = confidence * confidence / self.of as f64;
        let middle = (ratio + square / 2.0) / (1.0 + square);
        let half = (ratio * (1.0 - ratio) * square + square * square / 4.0).sqrt() / (1.0 + square);
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

/// Where the true difference lies, after less before (Newcombe 1998).
fn difference(before: Share, after: Share, confidence: f64) -> (f64, f64) {
    let (from, to) = (before.ratio(), after.ratio());
    let (from_low, from_high) = before.wilson(confidence);
    let (to_low, to_high) = after.wilson(confidence);
    let down = (to - to_low).hypot(from_high - from);
    let up = (to_high - to).hypot(from - from_low);
    (to - from - down, to - from + up)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::{Chain, Rule};
    use crate::condition::Test;
    use crate::origin::Origin;

    fn hit(chain: &str, rule: &str) -> Hit {
        Hit { chain: chain.to_owned(), rule: rule.to_owned() }
    }

    fn record(session: u64, path: &[(&str, &str)]) -> Record {
        Record {
            server: "pgp1".to_owned(),
            session: format!("SMTP-{session:05}"),
            recipient: "b@example.org".to_owned(),
            direction: Some(Direction::Inbound),
            path: path.iter().map(|(chain, rule)| hit(chain, rule)).collect(),
            disposition: Some("passing through unmodified".to_owned()),
        }
    }

    fn share(count: u64, of: u64) -> Share {
        Share { count, of }
    }

    /// The two lines that the log of a real server has for one recipient.
    #[test]
    fn recipients_of_one_session_are_one() {
        let path = [("Default", "Inbound Mail"), ("Inbound", "Decrypt Message (SMTP)")];
        let mut records = vec![record(162_150, &path); 1000];
        records.push(record(162_151, &path[..1]));
        let observed = Observed::count(&records);
        let of =
            |chain, rule| observed.share(Some(Direction::Inbound), &Kind::Hit(hit(chain, rule)));
        assert_eq!(of("Default", "Inbound Mail"), share(2, 2));
        assert_eq!(of("Inbound", "Decrypt Message (SMTP)"), share(1, 2));
        let passed = Kind::Disposition("passing through unmodified".to_owned());
        assert_eq!(observed.share(Some(Direction::Inbound), &passed), share(2, 2));
        assert_eq!(observed.share(None, &passed), share(0, 0));
        assert_eq!(observed.shares().count(), 3);
    }

    #[test]
    fn a_session_of_another_server_is_another_session() {
        let other = Record { server: "pgp2".to_owned(), ..record(1, &[("Default", "x")]) };
        let observed = Observed::count([&record(1, &[("Default", "x")]), &other]);
        let kind = Kind::Hit(hit("Default", "x"));
        assert_eq!(observed.share(Some(Direction::Inbound), &kind), share(2, 2));
    }

    /// Against the closed forms, z²/(n+z²) at the edge and z/(2√(n+z²)) around one half, and against
    /// the examples at 95 % that Newcombe gives in his two papers of 1998.
    #[test]
    fn intervals_are_those_of_wilson_and_newcombe() {
        let near = |found: (f64, f64), low: f64, high: f64| {
            assert!((found.0 - low).abs() < 1e-4 && (found.1 - high).abs() < 1e-4, "{found:?}");
        };
        near(share(0, 100).interval(), 0.0, 0.062_22);
        near(share(100, 100).interval(), 0.937_78, 1.0);
        near(share(50, 100).interval(), 0.375_28, 0.624_72);
        near(share(0, 0).interval(), 0.0, 1.0);
        near(share(81, 263).wilson(1.959_964), 0.255_3, 0.366_2);
        near(difference(share(48, 80), share(56, 70), 1.959_964), 0.052_4, 0.333_9);
    }

    #[test]
    fn a_change_is_told_from_noise() {
        for (before, after, change) in [
            ((500, 1000), (500, 1000), Change::WithinNoise),
            ((500, 1000), (530, 1000), Change::WithinNoise),
            ((500, 1000), (600, 1000), Change::Rose),
            ((600, 1000), (500, 1000), Change::Fell),
            ((0, 1000), (20, 1000), Change::Appeared),
            ((20, 1000), (0, 1000), Change::Vanished),
            ((10, 100), (12, 100), Change::WithinNoise),
            ((0, 10_000), (9, 100), Change::TooFew),
            ((9, 1000), (0, 1000), Change::TooFew),
            ((50, 99), (0, 1000), Change::TooFew),
            ((50, 100), (0, 0), Change::TooFew),
            ((10, 1000), (0, 150), Change::WithinNoise),
        ] {
            let (before, after) = (share(before.0, before.1), share(after.0, after.1));
            assert_eq!(Change::of(before, after), change, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_is_seen_in_one_period_only_is_compared_too() {
        let before: Vec<Record> = (0..200).map(|n| record(n, &[("Default", "old")])).collect();
        let after: Vec<Record> = (0..200).map(|n| record(n, &[("Default", "new")])).collect();
        let shifts = compare(&Observed::count(&before), &Observed::count(&after));
        let changes: Vec<_> = shifts.iter().map(|shift| (&shift.kind, shift.change)).collect();
        let passed = Kind::Disposition("passing through unmodified".to_owned());
        assert_eq!(
            changes,
            [
                (&Kind::Hit(hit("Default", "new")), Change::Appeared),
                (&Kind::Hit(hit("Default", "old")), Change::Vanished),
                (&passed, Change::WithinNoise),
            ]
        );
    }

    #[test]
    fn a_log_of_another_policy_is_noticed() {
        let origin = Origin::of("x");
        let rule = |name: &str, enabled| Rule {
            name: name.to_owned(),
            enabled,
            test: Test::ALWAYS,
            actions: Vec::new(),
            origin: origin.clone(),
        };
        let chain = |name: &str, applies_to, rules| Chain {
            name: name.to_owned(),
            applies_to,
            rules,
            origin: origin.clone(),
        };
        let mut set = PolicySet::empty(origin.clone());
        set.chains = vec![
            chain(
                "Default",
                AppliesTo::ServerOnly,
                vec![rule("hit", true), rule("unused", true), rule("off", false)],
            ),
            chain("Default: Standalone", AppliesTo::ClientOnly, vec![rule("client", true)]),
        ];
        let path = [
            ("Default", "hit"),
            ("Default", "off"),
            ("Default", "gone"),
            ("Default: Standalone", "client"),
            ("Lost", "x"),
        ];
        let found = Observed::count([&record(1, &path)]).disagreement(&set);
        assert_eq!(found.never_hit, [hit("Default", "unused")]);
        assert_eq!(
            found.impossible,
            [
                (hit("Default", "gone"), Why::NoRule),
                (hit("Default", "off"), Why::NotEnabled),
                (hit("Default: Standalone", "client"), Why::ClientOnly),
                (hit("Lost", "x"), Why::NoChain),
            ]
        );
    }

    proptest! {
        /// Turning the periods round turns the change round, and nothing else.
        #[test]
        fn a_change_is_the_same_from_both_sides(
            before in (0u64..5000, 0u64..5000), after in (0u64..5000, 0u64..5000),
        ) {
            let of = |(one, other): (u64, u64)| share(one.min(other), one.max(other));
            let (before, after) = (of(before), of(after));
            let turned = match Change::of(after, before) {
                Change::Appeared => Change::Vanished,
                Change::Vanished => Change::Appeared,
                Change::Rose => Change::Fell,
                Change::Fell => Change::Rose,
                change => change,
            };
            prop_assert_eq!(Change::of(before, after), turned);
            let (low, high) = before.interval();
            prop_assert!(0.0 <= low && low <= before.ratio() + 1e-12);
            prop_assert!(before.ratio() <= high + 1e-12 && high <= 1.0);
        }
    }
}
