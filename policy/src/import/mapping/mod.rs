//! Mapping files: what the elements of an export stand for.
//!
//! The schema of a server's export is not documented, so it is data. A mapping says where things
//! stand and what the export's words mean, as TOML; all of it may be left out. What it does not
//! name stays opaque: it is equal only where it is the same, and mail that it may touch gets no
//! verdict.
//!
//! ```toml
//! volatile = ["**/@id", "mailPolicy/@exported"]   # other in every export: never compared
//! informational = ["**/description"]              # told to people only: no part of the policy
//!
//! [globals]                               # paths from the document on
//! learn_mode = "mailPolicy/settings/@learnMode"
//! unmanaged_domains = "mailPolicy/settings/@unmanaged"
//! managed_domains = "mailPolicy/managed/domain"
//!
//! [dictionary]                            # `at`: from the document on; the others: from there on
//! at = "mailPolicy/dictionaries/dictionary"
//! name = "@name"
//! id = "@id"                              # if conditions and actions name it by this
//! kind = "@kind"
//! literals = "entry[@type=literal]"
//! patterns = "entry[@type=regex]"
//! entries = "item"                        # or: entries whose form stands in them
//!
//! [entry]                                 # paths from an element of `entries` on
//! form = "@form"
//! text = "text()"
//!
//! [chain]                                 # `at`: from the document on
//! at = "mailPolicy/chains/chain"
//! name = "@name"
//! id = "@id"                              # if actions or rules name it by this
//! applies_to = "@appliesTo"
//!
//! [rule]                                  # `at`: from the chain on
//! at = "rule"
//! name = "@name"
//! enabled = "@enabled"
//! group = "conditions"                    # what holds the conditions; "." is the rule itself
//! actions = "actions/*"
//! # chain = "@chain"                      # if rules stand apart from chains: the chain's id or
//!                                         # name; then `at` is from the document on
//! # order = "@position"                   # if their order is a number
//!
//! [group]                                 # paths from a group of conditions on
//! mode = "@match"
//! conditions = "condition"
//! groups = "conditions"                   # groups within
//!
//! [condition]                             # paths from a condition on
//! subject = "@subject"
//! argument = "@header"
//! operator = "@operator"
//! value = "@value"
//! negated = "@not"
//!
//! [action]                                # paths from an action on
//! action = "name()"
//! sign = "@sign"
//! encoding = "@encoding"
//! keys_from = "keys/source"
//! key_not_found = "@otherwise"
//! chain = "@chain"
//! dictionary = "@dictionary"
//! text = "@text"
//! server = "@server"
//!
//! [absent]                                # what it means that something is not there; where this
//! enabled = true                          # does not say it, nothing is taken for granted
//! mode = "all"
//! applies_to = "server and client"
//! kind = "static"
//! form = "literal"
//! sign = false
//! encoding = "Automatic"
//!
//! [words.subject]                         # the export's words = the words of a typed policy
//! recipientAddress = "recipient address"
//! secretHeader = "message header: X-Secret"
//! [words.operator]
//! inDictionary = "is_in_dictionary"
//! differs = "not is"                      # negated
//! [words.action]                          # also for key_not_found
//! signAndSend = "sign and send"
//! [words.outcome]                         # for key_not_found alone, before [words.action]
//! clear = "send clear (unsigned)"
//! [words.mode]
//! or = "any"
//! [words.encoding]
//! auto = "Automatic"
//! [words.applies_to]
//! both = "server and client"
//! [words.kind]
//! manual = "static"
//! [words.form]
//! regex = "pattern"
//! [words.flag]                            # true, yes, on, 1, enabled and their opposites are known
//! active = true
//! [words.unmanaged_domains]
//! relay = "pass through unmodified"
//! ```
//!
//! A path is read as [`Selector`] says. Where a value is asked for and an element is found, its text
//! is meant; `name()` means its name. A list of paths is tried in order. Words of a typed policy need
//! no line in `[words]`.
//!
//! Not here: how a mapping file is read (`parse`), what is done with what is found (`xml`).

mod parse;

use std::collections::HashMap;

use super::words::{self, Compare, SubjectWord, Verb, Words};
use crate::action::Encoding;
use crate::chain::AppliesTo;
use crate::condition::{Mode, Subject};
use crate::dictionary::{Form, Kind};
use crate::set::Unmanaged;
use crate::tree::Selector;

/// Paths that are tried in order; none: it is not mapped.
pub(super) type Paths = Vec<Selector>;

/// What the elements of an export stand for.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub(super) volatile: Paths,
    pub(super) informational: Paths,
    pub(super) globals: GlobalPaths,
    pub(super) dictionary: DictionaryPaths,
    pub(super) entry: EntryPaths,
    pub(super) chain: ChainPaths,
    pub(super) rule: RulePaths,
    pub(super) group: GroupPaths,
    pub(super) condition: ConditionPaths,
    pub(super) action: ActionPaths,
    pub(super) absent: Absent,
    pub(super) words: Vocabulary,
}

impl Mapping {
    /// What is other in every export: for the comparison of trees.
    #[must_use]
    pub fn volatile(&self) -> &[Selector] {
        &self.volatile
    }
}

/// `[globals]`.
#[derive(Clone, Debug)]
pub(super) struct GlobalPaths {
    pub(super) learn_mode: Paths,
    pub(super) unmanaged_domains: Paths,
    pub(super) managed_domains: Paths,
}

/// `[dictionary]`.
#[derive(Clone, Debug)]
pub(super) struct DictionaryPaths {
    pub(super) at: Paths,
    pub(super) name: Paths,
    pub(super) id: Paths,
    pub(super) kind: Paths,
    pub(super) literals: Paths,
    pub(super) patterns: Paths,
    pub(super) entries: Paths,
}

/// `[entry]`.
#[derive(Clone, Debug)]
pub(super) struct EntryPaths {
    pub(super) form: Paths,
    pub(super) text: Paths,
}

/// `[chain]`.
#[derive(Clone, Debug)]
pub(super) struct ChainPaths {
    pub(super) at: Paths,
    pub(super) name: Paths,
    pub(super) id: Paths,
    pub(super) applies_to: Paths,
}

/// `[rule]`.
#[derive(Clone, Debug)]
pub(super) struct RulePaths {
    pub(super) at: Paths,
    pub(super) chain: Paths,
    pub(super) order: Paths,
    pub(super) name: Paths,
    pub(super) enabled: Paths,
    pub(super) group: Paths,
    pub(super) actions: Paths,
}

/// `[group]`.
#[derive(Clone, Debug)]
pub(super) struct GroupPaths {
    pub(super) mode: Paths,
    pub(super) conditions: Paths,
    pub(super) groups: Paths,
}

/// `[condition]`.
#[derive(Clone, Debug)]
pub(super) struct ConditionPaths {
    pub(super) subject: Paths,
    pub(super) argument: Paths,
    pub(super) operator: Paths,
    pub(super) value: Paths,
    pub(super) negated: Paths,
}

/// `[action]`.
#[derive(Clone, Debug)]
pub(super) struct ActionPaths {
    pub(super) action: Paths,
    pub(super) sign: Paths,
    pub(super) encoding: Paths,
    pub(super) keys_from: Paths,
    pub(super) key_not_found: Paths,
    pub(super) chain: Paths,
    pub(super) dictionary: Paths,
    pub(super) text: Paths,
    pub(super) server: Paths,
}

/// `[absent]`: what it means that something is not there; none: nobody knows.
#[derive(Clone, Debug)]
pub(super) struct Absent {
    pub(super) enabled: Option<bool>,
    pub(super) mode: Option<Mode>,
    pub(super) applies_to: Option<AppliesTo>,
    pub(super) kind: Option<Kind>,
    pub(super) form: Option<Form>,
    pub(super) sign: Option<bool>,
    pub(super) encoding: Option<Encoding>,
}

/// `[words]`: the words of an export.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    pub(super) subjects: HashMap<String, Named>,
    pub(super) operators: HashMap<String, Comparison>,
    pub(super) verbs: Terms<Verb>,
    pub(super) outcomes: Terms<Verb>,
    pub(super) modes: Terms<Mode>,
    pub(super) encodings: Terms<Encoding>,
    pub(super) applies_to: Terms<AppliesTo>,
    pub(super) kinds: Terms<Kind>,
    pub(super) forms: Terms<Form>,
    pub(super) flags: Terms<bool>,
    pub(super) unmanaged: Terms<Unmanaged>,
}

/// One of our names of subjects, with an argument where the word has one in it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    name: String,
    argument: Option<String>,
}

/// An operator that is still to be given what it compares with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) negated: bool,
    pub(super) compare: Compare,
}

/// Words of an export, and beside them our own.
#[derive(Clone, Debug)]
pub(super) struct Terms<T> {
    foreign: HashMap<String, T>,
    own: Words<T>,
}

impl<T: Clone> Terms<T> {
    /// What a word stands for.
    pub(super) fn find(&self, word: &str) -> Option<T> {
        self.foreign.get(word).cloned().or_else(|| words::find(&self.own, word))
    }
}

impl Vocabulary {
    /// The subject of a word; none where it is not known or its argument is missing or too much.
    pub(super) fn subject(&self, word: &str, argument: Option<&str>) -> Option<Subject> {
        let (name, argument) = match (self.subjects.get(word), argument) {
            (Some(Named { argument: Some(_), .. }), Some(_)) => return None,
            (Some(named), argument) => (&*named.name, named.argument.as_deref().or(argument)),
            (None, argument) => (word, argument),
        };
        match words::subject(name, argument) {
            SubjectWord::Known(subject) => Some(subject),
            SubjectWord::NeedsArgument | SubjectWord::HasNoArgument | SubjectWord::Unknown => None,
        }
    }

    /// The operator of a word.
    pub(super) fn operator(&self, word: &str) -> Option<Comparison> {
        self.operators.get(word).copied().or_else(|| comparison(word))
    }

    /// What stands for a missing key.
    pub(super) fn outcome(&self, word: &str) -> Option<Verb> {
        self.outcomes.find(word).or_else(|| self.verbs.find(word))
    }
}

/// `is`, `not is_in_dictionary`, `not is in dictionary`.
fn comparison(typed: &str) -> Option<Comparison> {
    let typed = typed.split_whitespace().collect::<Vec<_>>().join("_");
    let (negated, word) = match typed.strip_prefix("not_") {
        Some(word) => (true, word),
        None => (false, typed.as_str()),
    };
    let compare = words::find(&words::operators(), word)?;
    Some(Comparison { negated, compare })
}

/// Words for yes and no that need no line.
fn flags() -> Words<bool> {
    let yes = ["true", "yes", "on", "1", "enabled"].map(|word| (word, true));
    let no = ["false", "no", "off", "0", "disabled"].map(|word| (word, false));
    yes.into_iter().chain(no).collect()
}
