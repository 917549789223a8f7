//! Which mail the rules of two sets match, as far as that decides how much a difference matters.
//!
//! Rules are asked as if all were enabled and each for itself: whether mail comes to them at all is
//! the business of a comparison of all mail.
//!
//! Invariant: where it is too much to find out, the answer is [`Meeting::Unknown`], never that two
//! rules have nothing to do with one another.
//!
//! Not here: what becomes of the mail (`parity`).

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use biodivine_lib_bdd::Bdd;

use crate::assume::Assumptions;
use crate::language::Budget;
use crate::program::{Place, Program, Questions};
use crate::set::PolicySet;
use crate::space::Space;

/// A rule of one of the sets: its chain's place and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    /// In which set.
    pub(super) side: Side,
    /// Its chain.
    pub(super) chain: usize,
    /// Its place in the chain.
    pub(super) rule: usize,
}

/// One of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// Before the upgrade.
    Before,
    /// After it.
    After,
}

/// How the mail that two rules match compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// The same.
    Same,
    /// The second matches less.
    Narrower,
    /// The second matches more.
    Wider,
    /// Some mail is matched by both, some by either alone.
    Partly,
    /// No mail is matched by both.
    Apart,
    /// Not to be told.
    Unknown,
}

impl Meeting {
    /// Can both match the same mail?
    pub(super) fn shares(self) -> bool {
        self != Self::Apart
    }
}

/// Questions of both sets.
pub(super) struct Asked {
    questions: Questions,
    before: Program,
    after: Program,
}

impl Asked {
    /// Reads what both sets ask.
    pub(super) fn new(before: &PolicySet, after: &PolicySet, assumptions: &Assumptions) -> Self {
        let mut questions = Questions::default();
        let before = Program::new(&all_enabled(before), assumptions, &mut questions);
        let after = Program::new(&all_enabled(after), assumptions, &mut questions);
        Self { questions, before, after }
    }
}

/// A program leaves out rules that are not enabled.
fn all_enabled(set: &PolicySet) -> PolicySet {
    let mut set = set.clone();
    for rule in set.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.enabled = true;
    }
    set
}

/// The mail of both sets; written down when it is first asked for.
pub(super) struct Mail<'a> {
    asked: &'a Asked,
    space: OnceCell<Option<Space<'a>>>,
    regions: RefCell<HashMap<At, Bdd>>,
}

impl<'a> Mail<'a> {
    /// Asks nothing yet.
    pub(super) fn new(asked: &'a Asked) -> Self {
        Self { asked, space: OnceCell::new(), regions: RefCell::default() }
    }

    /// How the mail of two rules compares.
    pub(super) fn meeting(&self, one: At, other: At) -> Meeting {
        let (Some(one), Some(other)) = (self.region(one), self.region(other)) else {
            return Meeting::Unknown;
        };
        if one == other {
            return Meeting::Same;
        }
        if one.and(&other).is_false() {
            return Meeting::Apart;
        }
        match (other.and_not(&one).is_false(), one.and_not(&other).is_false()) {
            (true, _) => Meeting::Narrower,
            (_, true) => Meeting::Wider,
            _ => Meeting::Partly,
        }
    }

    /// Is it certain that no mail matches this rule?
    pub(super) fn is_idle(&self, rule: At) -> bool {
        self.region(rule).is_some_and(|region| region.is_false())
    }

    fn region(&self, at: At) -> Option<Bdd> {
        if let Some(known) = self.regions.borrow().get(&at) {
            return Some(known.clone());
        }
        let make = || Space::new(&self.asked.questions, Budget::default()).ok();
        let space = self.space.get_or_init(make).as_ref()?;
        let program = match at.side {
            Side::Before => &self.asked.before,
            Side::After => &self.asked.after,
        };
        let place = Place::Rule { chain: at.chain, rule: at.rule };
        let line = program.chains.get(at.chain)?.iter().find(|line| line.place == place)?;
        let region = space.where_holds(&line.formula).and(space.valid());
        self.regions.borrow_mut().insert(at, region.clone());
        Some(region)
    }
}
