//! Does the MTA send to the server whatever the policy would protect?
//!
//! The server's rules for outbound mail must be mirrored in the MTA: what the MTA sends elsewhere, no
//! rule ever sees. The policy is walked with all messages at once, and so are the MTA's routes over
//! the same questions. Where mail that the policy would protect, or not let go, is sent past the
//! server, the smallest such message is drawn and decided by both once more.
//!
//! Invariants
//! - `Covers` is said only where no message is left that may leak, for any answer to what is not
//!   understood, nothing of the policy's import lies outside of what is looked at, and nothing was
//!   too much to explore.
//! - What an MTA asks and nobody here understands is never taken for what a policy asks, even where
//!   it is written alike: the two may read it otherwise.
//! - Mail that stays inside is no leak: what is delivered on the MTA's own host, and what goes to
//!   another host of ours for a managed domain.
//!
//! Not here: how an MTA's configuration is read (`control`), how criteria are typed (`import`).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use biodivine_lib_bdd::{Bdd, BddValuation};

use crate::action::{Fate, Outcome, Protection};
use crate::assume::{Assumptions, Case, Extent};
use crate::condition::Test;
use crate::decide::{Decision, Judge};
use crate::diagram::{Diagram, End, union};
use crate::dictionary::Dictionary;
use crate::language::TooLarge;
use crate::origin::Origin;
use crate::parity::{Limits, Side};
use crate::predicate::Predicate;
use crate::program::{Formula, Program, Questions, Tests};
use crate::sample::{Sample, Variable};
use crate::set::{Opaque, PolicySet};
use crate::space::{Drawn, Space};

/// Where an MTA sends mail to, asked for each recipient by itself.
///
/// A pattern of a condition may match a part of a text, and letter case does not matter: so do MTAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria {
    /// Lists that the conditions of routes may name; they are not the policy's.
    pub dictionaries: Vec<Dictionary>,
    /// The first that matches decides.
    pub routes: Vec<Route>,
    /// Where mail goes that no route matches.
    pub default: Destination,
    /// What the routes do not tell and could send mail elsewhere.
    pub doubts: Vec<Opaque>,
}

impl Criteria {
    /// Where a message goes; none where what is not understood, or not known of it, decides.
    #[must_use]
    pub fn destination(&self, sample: &Sample) -> Option<&Destination> {
        let mut questions = Questions::default();
        let routes = self.formulas(&mut questions);
        let taken = taken(&routes, &Judge::new(&questions), sample)?;
        Some(taken.map_or(&self.default, |route| &self.routes[route].to))
    }

    /// What each route asks, read as MTAs read it.
    fn formulas(&self, questions: &mut Questions) -> Vec<Formula> {
        let assumptions = Assumptions {
            text_case: Case::Insensitive,
            pattern: Extent::Part,
            ..Assumptions::default()
        };
        let tests = Tests::new(&self.dictionaries, &assumptions, questions);
        let mut tests = tests.asked_by("the MTA: ");
        self.routes.iter().map(|route| tests.test(&route.test)).collect()
    }
}

/// The route that takes a message, none for the default; nothing at all where what is not understood
/// decides.
fn taken(routes: &[Formula], judge: &Judge, sample: &Sample) -> Option<Option<usize>> {
    for (place, formula) in routes.iter().enumerate() {
        if judge.holds(formula, sample)? {
            return Some(Some(place));
        }
    }
    Some(None)
}

/// Some mail, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which mail.
    pub test: Test,
    /// Where to.
    pub to: Destination,
    /// Where it stands.
    pub origin: Origin,
    /// What it is, in the MTA's words.
    pub words: String,
}

/// Where mail goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To the server, by a gate or straight.
    Gate,
    /// To the server; where that does not answer or refuses, to another host.
    GateOr {
        /// The other host.
        host: String,
    },
    /// To another host.
    Elsewhere {
        /// The host.
        host: String,
    },
    /// To another host, since the recipient's domain is one of ours.
    Inside {
        /// The host.
        host: String,
    },
    /// It is delivered on the MTA's own host.
    Here,
    /// It is refused, deferred or thrown away.
    Nowhere,
    /// Nobody knows.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Whose mail is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outbound mail, which could leak.
    Outbound,
    /// Inbound mail too, which could stay encrypted.
    BothDirections,
}

/// What was found.
#[derive(Debug)]
pub struct Mirror {
    /// Whether outbound mail can leak.
    pub verdict: Verdict,
    /// Classes of outbound mail that leak or may leak, each with its smallest message: what is certain
    /// first, and of that what the policy protects best.
    pub leaks: Vec<Stray>,
    /// Classes of inbound mail that the policy would decrypt and that does not reach the server: its
    /// recipient cannot read it, but nobody else can.
    pub missed: Vec<Stray>,
    /// There are more of either than are shown.
    pub more: bool,
    /// Routes to the server by which no mail goes that it would change.
    pub unneeded: Vec<usize>,
    /// Routes that no mail comes to, since those before take it all.
    pub unreached: Vec<usize>,
    /// Where mail leaves past the server: parts of the policy's import that belong to no chain and were
    /// not understood, and so may protect it, and what the criteria do not tell.
    pub doubts: Vec<Opaque>,
    /// There was too much to explore: some mail was not looked at.
    pub too_large: bool,
}

/// One word for all outbound mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All mail that the policy would protect goes to the server.
    Covers,
    /// Whether it does is not known.
    Unknown,
    /// Some does not.
    Leaks,
}

/// How sure it is that mail strays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Nobody can tell that it does not.
    Possible,
    /// It does.
    Certain,
}

/// Mail that does not reach the server, and should.
#[derive(Clone, Debug)]
pub struct Stray {
    /// Is that so, or only possible?
    pub certainty: Certainty,
    /// The smallest such message.
    pub sample: Sample,
    /// What the policy would do with it.
    pub policy: Side,
    /// The route that decides: its place; none where the default does.
    pub route: Option<usize>,
    /// Where it goes instead.
    pub to: Destination,
    /// What is not understood and decides about it.
    pub doubts: Vec<Opaque>,
}

impl Stray {
    /// What happens to the message, in a sentence.
    #[must_use]
    pub fn words(&self) -> String {
        let outcome = &self.policy.fate.outcome;
        let surely = match self.certainty {
            Certainty::Certain => "",
            Certainty::Possible => "perhaps: ",
        };
        format!("{surely}the policy says: {outcome}; the MTA sends it {}", self.to)
    }
}

/// Looks for mail that the policy would protect and the criteria send elsewhere.
#[must_use]
pub fn mirror(
    set: &PolicySet,
    criteria: &Criteria,
    assumptions: &Assumptions,
    scope: Scope,
    limits: Limits,
) -> Mirror {
    let mut mirror = Mirror {
        verdict: Verdict::Unknown,
        leaks: Vec::new(),
        missed: Vec::new(),
        more: false,
        unneeded: Vec::new(),
        unreached: Vec::new(),
        doubts: Vec::new(),
        too_large: false,
    };
    let pair = Pair::new(set, criteria, assumptions);
    if pair.explore(scope, limits, &mut mirror).is_err() {
        mirror.too_large = true;
    }
    mirror.verdict = match mirror.leaks.iter().map(|leak| leak.certainty).max() {
        Some(Certainty::Certain) => Verdict::Leaks,
        Some(Certainty::Possible) => Verdict::Unknown,
        None if mirror.too_large || !mirror.doubts.is_empty() => Verdict::Unknown,
        None => Verdict::Covers,
    };
    let protection = |stray: &Stray| stray.policy.fate.outcome.protection();
    for strays in [&mut mirror.leaks, &mut mirror.missed] {
        strays.sort_by_key(|stray| Reverse((stray.certainty, protection(stray))));
    }
    mirror
}

/// A policy and criteria, made ready over the same questions.
struct Pair<'a> {
    set: &'a PolicySet,
    criteria: &'a Criteria,
    questions: Questions,
    program: Program,
    /// What each route asks.
    routes: Vec<Formula>,
    outbound: Formula,
    /// The recipient's domain is managed.
    ours: Formula,
    /// It came encrypted or signed.
    wrapped: Formula,
}

impl<'a> Pair<'a> {
    fn new(set: &'a PolicySet, criteria: &'a Criteria, assumptions: &Assumptions) -> Self {
        let mut questions = Questions::default();
        let program = Program::new(set, assumptions, &mut questions);
        let mut tests = Tests::new(&set.dictionaries, assumptions, &mut questions);
        let outbound = tests.word(Variable::Direction, "outbound");
        let ours = tests.managed(Variable::Recipient).unwrap_or(Formula::NEVER);
        let wrapped = Formula::Not(Box::new(tests.word(Variable::Encoding, "none")));
        let routes = criteria.formulas(&mut questions);
        Self { set, criteria, questions, program, routes, outbound, ours, wrapped }
    }

    fn explore(&self, scope: Scope, limits: Limits, mirror: &mut Mirror) -> Result<(), TooLarge> {
        let space = Space::new(&self.questions, limits.budget)?;
        let ends = Diagram::new(&self.program, &space)?.ends;
        let streams = self.streams(&space);
        let judge = Judge::new(&self.questions);
        let mut search = Search { pair: self, space: &space, judge, ends, streams, limits, mirror };
        let outbound = space.where_holds(&self.outbound);
        let kept = |outcome: &Outcome| outcome.protection() > Some(Protection::Clear);
        let open = |outcome: &Outcome| outcome.protection().is_none();
        let protected = search.ending(&kept).and(&outbound);
        let undecided = search.ending(&open).and(&outbound);
        let leaving = search.leaving();
        if !leaving.surely.or(&leaving.perhaps).is_false() {
            search.mirror.doubts = [&self.set.opaque[..], &self.criteria.doubts].concat();
        }
        let leaks = search.strays(&protected, &undecided, &leaving);
        search.mirror.leaks = leaks;
        let mut needed = protected.or(&undecided);
        if scope == Scope::BothDirections {
            let wrapped = space.where_holds(&self.wrapped).and_not(&outbound);
            let decrypted = |outcome: &Outcome| *outcome == Outcome::Decrypted;
            let (decrypted, unclear) =
                (search.ending(&decrypted).and(&wrapped), search.ending(&open).and(&wrapped));
            let missed = search.strays(&decrypted, &unclear, &search.not_reaching());
            search.mirror.missed = missed;
            needed = needed.or(&decrypted).or(&unclear);
        }
        search.routes_in_vain(&needed);
        Ok(())
    }

    /// The mail that comes to each route, and to the default behind them.
    fn streams(&self, space: &Space<'_>) -> Vec<Stream<'_>> {
        let mut left = space.valid().clone();
        let mut streams = Vec::new();
        for (place, (route, formula)) in self.criteria.routes.iter().zip(&self.routes).enumerate() {
            let holds = space.where_holds(formula);
            streams.push(Stream { route: Some(place), to: &route.to, region: left.and(&holds) });
            left = left.and_not(&holds);
        }
        streams.push(Stream { route: None, to: &self.criteria.default, region: left });
        streams
    }
}

/// The mail that comes to a route.
struct Stream<'a> {
    /// The route; none for the default.
    route: Option<usize>,
    to: &'a Destination,
    region: Bdd,
}

/// Mail that goes past the server, and mail of which that is not known.
struct Past {
    surely: Bdd,
    perhaps: Bdd,
}

struct Search<'a> {
    pair: &'a Pair<'a>,
    space: &'a Space<'a>,
    judge: Judge,
    ends: Vec<End>,
    streams: Vec<Stream<'a>>,
    limits: Limits,
    mirror: &'a mut Mirror,
}

impl Search<'_> {
    /// The mail of which the policy makes such an end.
    fn ending(&self, is_such: &dyn Fn(&Outcome) -> bool) -> Bdd {
        let such = self.ends.iter().filter(|end| is_such(&end.outcome));
        self.all(such.map(|end| end.region.clone()).collect())
    }

    /// The mail that goes to such a place.
    fn going(&self, is_such: &dyn Fn(&Destination) -> bool) -> Bdd {
        let such = self.streams.iter().filter(|stream| is_such(stream.to));
        self.all(such.map(|stream| stream.region.clone()).collect())
    }

    fn all(&self, regions: Vec<Bdd>) -> Bdd {
        union(regions).unwrap_or_else(|| self.space.nothing())
    }

    /// Mail that leaves us without the server.
    fn leaving(&self) -> Past {
        let elsewhere = self
            .going(&|to| matches!(to, Destination::Elsewhere { .. } | Destination::GateOr { .. }));
        let inside = self.going(&|to| matches!(to, Destination::Inside { .. }));
        let ours = self.space.where_holds(&self.pair.ours);
        Past { surely: elsewhere.or(&inside.and_not(&ours)), perhaps: self.nobody_knows() }
    }

    /// Mail that comes to a recipient without the server.
    fn not_reaching(&self) -> Past {
        let past = self.going(&|to| match to {
            Destination::Gate | Destination::Nowhere | Destination::Unknown { .. } => false,
            Destination::GateOr { .. }
            | Destination::Elsewhere { .. }
            | Destination::Inside { .. }
            | Destination::Here => true,
        });
        Past { surely: past, perhaps: self.nobody_knows() }
    }

    fn nobody_knows(&self) -> Bdd {
        self.going(&|to| matches!(to, Destination::Unknown { .. }))
    }

    /// Notes routes by which no mail goes that the server would change, and those without any.
    fn routes_in_vain(&mut self, needed: &Bdd) {
        for stream in &self.streams {
            let Some(route) = stream.route else { continue };
            if stream.region.is_false() {
                self.mirror.unreached.push(route);
            } else if *stream.to == Destination::Gate && stream.region.and(needed).is_false() {
                self.mirror.unneeded.push(route);
            }
        }
    }

    /// Messages that should reach the server and go past it: those that surely do both, then those of
    /// which either is not known.
    fn strays(&mut self, should: &Bdd, perhaps_should: &Bdd, past: &Past) -> Vec<Stray> {
        let wrong = should.and(&past.surely);
        let certain = wrong.and(&self.space.for_certain(&wrong));
        let possible = should.or(perhaps_should).and(&past.surely.or(&past.perhaps));
        let mut strays = Vec::new();
        let rest = possible.and_not(&self.space.perhaps(&certain));
        self.draw_all(certain, Certainty::Certain, &mut strays);
        self.draw_all(rest, Certainty::Possible, &mut strays);
        strays
    }

    /// Draws a message of each class of a region: mail that the same rules and the same route decide.
    fn draw_all(&mut self, mut region: Bdd, certainty: Certainty, strays: &mut Vec<Stray>) {
        let mut in_vain = 0;
        while let Some(point) = region.first_valuation() {
            let sample = match self.space.draw(&point) {
                Drawn::Message(sample) => sample,
                Drawn::Nothing(nothing) if in_vain < self.limits.draws => {
                    in_vain += 1;
                    region = region.and_not(&nothing);
                    continue;
                }
                Drawn::Nothing(_) | Drawn::Unclear => return self.mirror.too_large = true,
            };
            if strays.len() >= self.limits.divergences {
                self.mirror.more = true;
                return;
            }
            let end = self.ends.iter().find(|end| end.region.eval_in(&point));
            let stream = self.streams.iter().find(|stream| stream.region.eval_in(&point));
            let (Some(end), Some(stream)) = (end, stream) else {
                return self.mirror.too_large = true;
            };
            let Some(mut stray) = self.stray(sample, end, stream) else {
                return self.mirror.too_large = true;
            };
            let mut class = end.region.and(&stream.region);
            if certainty == Certainty::Possible {
                class = self.space.perhaps(&class);
                stray.doubts = self.doubts(&region, &point);
            }
            stray.certainty = certainty;
            strays.push(stray);
            region = region.and_not(&class);
        }
    }

    /// The message as policy and criteria decide it by themselves; none where that is not what all
    /// messages at once were found to do.
    fn stray(&self, sample: Sample, end: &End, stream: &Stream<'_>) -> Option<Stray> {
        let trace = self.judge.trace(&self.pair.program, &sample);
        let policy = match &trace.decision {
            Some(Decision { fate, rules }) if fate.outcome == end.outcome => {
                Side { fate: fate.clone(), rules: rules.clone(), trace }
            }
            Some(_) => return None,
            None => Side {
                fate: Fate { outcome: end.outcome.clone(), effects: BTreeSet::new() },
                rules: end.rules.clone(),
                trace,
            },
        };
        let judged = taken(&self.pair.routes, &self.judge, &sample);
        let (route, to, doubts) = (stream.route, stream.to.clone(), Vec::new());
        let agreed = judged.is_none_or(|judged| judged == route);
        let certainty = Certainty::Possible;
        agreed.then_some(Stray { certainty, sample, policy, route, to, doubts })
    }

    fn doubts(&self, region: &Bdd, point: &BddValuation) -> Vec<Opaque> {
        let doubts = self.space.doubts(region, point).into_iter();
        doubts
            .filter_map(|question| match self.pair.questions.predicate(question) {
                Predicate::Opaque(opaque) => Some(opaque.clone()),
                _ => None,
            })
            .collect()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate => f.write_str("to the server"),
            Self::GateOr { host } => write!(f, "to {host} when the server does not take it"),
            Self::Elsewhere { host } => write!(f, "to {host}"),
            Self::Inside { host } => write!(f, "to {host}, as mail for a domain of ours"),
            Self::Here => f.write_str("nowhere, but delivers it here"),
            Self::Nowhere => f.write_str("nowhere"),
            Self::Unknown { why } => write!(f, "nobody knows where: {why}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Covers => "COVERS",
            Self::Unknown => "UNKNOWN",
            Self::Leaks => "LEAKS",
        })
    }
}

#[cfg(test)]
mod tests;
