//! Which thing of one set is which of the other: by name, and what is left by what it says.
//!
//! Chains refer to one another, so that those which have other names are told apart in rounds: each
//! round, a chain says what it said and where its jumps lead as of the round before. What is the same
//! when nothing new is told apart is the same chain under another name.
//!
//! Invariant: exchanging the two sets exchanges the pairs.
//!
//! Not here: how pairs differ (`rules`, `dictionaries`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::content::{Names, entries};
use crate::chain::Chain;
use crate::set::{MANAGED_DOMAINS, PolicySet};

/// Places in two lists that are the same thing, and those that are in one list alone.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// In both, in the order of the list before.
    pub(super) both: Vec<(usize, usize)>,
    /// Only before.
    pub(super) before: Vec<usize>,
    /// Only after.
    pub(super) after: Vec<usize>,
}

impl Pairs {
    /// Nothing is paired yet.
    pub(super) fn none(before: usize, after: usize) -> Self {
        Self { both: Vec::new(), before: (0..before).collect(), after: (0..after).collect() }
    }

    /// Pairs what is left and has the same key: the first with the first, and so on. What has no key
    /// is not paired.
    pub(super) fn by<K: Ord>(
        mut self,
        before: impl Fn(usize) -> Option<K>,
        after: impl Fn(usize) -> Option<K>,
    ) -> Self {
        let mut waiting: BTreeMap<K, Vec<usize>> = BTreeMap::new();
        for place in self.after.iter().rev() {
            if let Some(key) = after(*place) {
                waiting.entry(key).or_default().push(*place);
            }
        }
        let mut left = Vec::new();
        for place in self.before {
            let key = before(place);
            match key.and_then(|key| waiting.get_mut(&key)).and_then(Vec::pop) {
                Some(other) => self.both.push((place, other)),
                None => left.push(place),
            }
        }
        let paired: BTreeSet<usize> = self.both.iter().map(|(_, other)| *other).collect();
        self.before = left;
        self.after.retain(|place| !paired.contains(place));
        self.both.sort_unstable();
        self
    }
}

/// Two sets with everything in them that is the same thing.
pub(super) struct Matching<'a> {
    /// The names of the set before: its own.
    pub(super) before: Names<'a>,
    /// The names of the set after, as the set before has them.
    pub(super) after: Names<'a>,
    /// Chains.
    pub(super) chains: Pairs,
    /// Dictionaries.
    pub(super) dictionaries: Pairs,
}

impl<'a> Matching<'a> {
    /// Finds what is the same. Chains of the names `reserved` are known to the server by them, and
    /// are never the same under another.
    pub(super) fn new(before: &'a PolicySet, after: &'a PolicySet, reserved: &[&str]) -> Self {
        let mut names = [Names::of(before), Names::of(after)];
        let dictionaries = dictionaries(before, after);
        for (one, other) in &dictionaries.both {
            let (one, other) = (&before.dictionaries[*one], &after.dictionaries[*other]);
            names[1].dictionaries.insert(other.name.clone(), one.name.clone());
        }
        let chains = chains(before, after, &mut names, reserved);
        let [before_names, mut after_names] = names;
        for (one, other) in &chains.both {
            let (one, other) = (&before.chains[*one], &after.chains[*other]);
            after_names.chains.insert(other.name.clone(), one.name.clone());
        }
        Self { before: before_names, after: after_names, chains, dictionaries }
    }

    /// The rules of two chains that are the same.
    pub(super) fn rules(&self, before: &Chain, after: &Chain) -> Pairs {
        let (one, two) = (&before.rules, &after.rules);
        Pairs::none(one.len(), two.len())
            .by(|place| Some(&one[place].name), |place| Some(&two[place].name))
            .by(
                |place| Some(self.before.rule(&one[place])),
                |place| Some(self.after.rule(&two[place])),
            )
    }
}

fn dictionaries(before: &PolicySet, after: &PolicySet) -> Pairs {
    let (one, two) = (&before.dictionaries, &after.dictionaries);
    // Empty ones all look the same, and the server knows its own by its name.
    let content = |set: &PolicySet, place: usize| {
        let dictionary = &set.dictionaries[place];
        let tells = !dictionary.entries.is_empty() && dictionary.name != MANAGED_DOMAINS;
        tells.then(|| entries(dictionary))
    };
    Pairs::none(one.len(), two.len())
        .by(|place| Some(&one[place].name), |place| Some(&two[place].name))
        .by(|place| content(before, place), |place| content(after, place))
}

fn chains(
    before: &PolicySet,
    after: &PolicySet,
    names: &mut [Names<'_>; 2],
    reserved: &[&str],
) -> Pairs {
    let (one, two) = (&before.chains, &after.chains);
    let pairs = Pairs::none(one.len(), two.len())
        .by(|place| Some(&one[place].name), |place| Some(&two[place].name));
    if pairs.before.is_empty() || pairs.after.is_empty() {
        return pairs;
    }
    let left: [Vec<&Chain>; 2] = [
        pairs.before.iter().map(|place| &one[*place]).collect(),
        pairs.after.iter().map(|place| &two[*place]).collect(),
    ];
    tell_apart(names, &left);
    let key = |names: &Names<'_>, chain: &Chain| {
        let tells = !chain.rules.is_empty() && !reserved.contains(&chain.name.as_str());
        tells.then(|| names.chains.get(&chain.name).cloned()).flatten()
    };
    let pairs = pairs.by(|place| key(&names[0], &one[place]), |place| key(&names[1], &two[place]));
    for names in names {
        names.chains.clear();
    }
    pairs
}

/// Names the chains that are left by what they say.
fn tell_apart(names: &mut [Names<'_>; 2], left: &[Vec<&Chain>; 2]) {
    for (chains, names) in left.iter().zip(names.iter_mut()) {
        let unnamed = |chain: &&Chain| (chain.name.clone(), "\0".to_owned());
        names.chains = chains.iter().map(unnamed).collect();
    }
    let mut told = 0;
    loop {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut renamed = [HashMap::new(), HashMap::new()];
        for ((chains, names), renamed) in left.iter().zip(names.iter()).zip(&mut renamed) {
            for chain in chains {
                let next = numbers.len();
                let number = *numbers.entry(names.rules(chain)).or_insert(next);
                // No name of a chain begins with a NUL.
                renamed.insert(chain.name.clone(), format!("\0{number}"));
            }
        }
        let [before, after] = renamed;
        names[0].chains = before;
        names[1].chains = after;
        if numbers.len() == told {
            return;
        }
        told = numbers.len();
    }
}
