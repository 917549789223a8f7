//! Kinds of differences between two sets.
//!
//! Invariant: each kind has a mirror, which is the kind of the same difference with the sets
//! exchanged; the mirror of the mirror is the kind.
//!
//! Not here: how much a difference matters (`rules`, `actions`, `dictionaries`).

use serde::Serialize;

/// What kind of difference it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A chain is only in the set before.
    ChainMissing,
    /// A chain is only in the set after.
    ChainAdded,
    /// A chain has another name.
    ChainRenamed,
    /// A chain has lost all its rules.
    ChainEmptied,
    /// A chain had no rules and has some.
    ChainFilled,
    /// A chain acts on other mail.
    AppliesTo,
    /// A rule is only in the set before.
    RuleMissing,
    /// A rule is only in the set after.
    RuleAdded,
    /// A rule has another name.
    RuleRenamed,
    /// A rule stands elsewhere among the others.
    RuleMoved,
    /// A rule is no longer enabled.
    RuleDisabled,
    /// A rule is newly enabled.
    RuleEnabled,
    /// A rule asks something else.
    Condition,
    /// A rule ends with less protection.
    ActionWeaker,
    /// A rule ends with more protection.
    ActionStronger,
    /// A rule ends otherwise.
    ActionOther,
    /// A rule leads to a chain that is no longer there.
    JumpBroken,
    /// A rule led to a chain that was not there, and no longer does.
    JumpMended,
    /// A rule does less beside.
    EffectMissing,
    /// A rule does more beside.
    EffectAdded,
    /// Less protection where no key is found.
    KeyNotFoundWeaker,
    /// More protection where no key is found.
    KeyNotFoundStronger,
    /// Something else where no key is found.
    KeyNotFoundOther,
    /// A rule prefers another encoding.
    Encoding,
    /// A rule looks for keys elsewhere.
    KeySearch,
    /// A dictionary is only in the set before.
    DictionaryMissing,
    /// A dictionary is only in the set after.
    DictionaryAdded,
    /// A dictionary has another name.
    DictionaryRenamed,
    /// A dictionary is filled by somebody else.
    DictionaryKind,
    /// An entry is only in the set before.
    EntryMissing,
    /// An entry is only in the set after.
    EntryAdded,
    /// An entry was a literal and is a pattern.
    EntryNowPattern,
    /// An entry was a pattern and is a literal.
    EntryNowLiteral,
    /// An entry differs in the case of letters alone.
    EntryCase,
    /// A domain is no longer managed.
    ManagedDomainMissing,
    /// A domain is newly managed.
    ManagedDomainAdded,
    /// Learn Mode is newly on.
    LearnModeOn,
    /// Learn Mode is no longer on.
    LearnModeOff,
    /// The set after does not say whether Learn Mode is on.
    LearnModeNotStated,
    /// The set before did not say whether Learn Mode is on.
    LearnModeStated,
    /// Mail of domains that are not managed passes, and was bounced.
    UnmanagedPasses,
    /// Mail of domains that are not managed is bounced, and passed.
    UnmanagedBounces,
    /// The set after does not say what becomes of mail of domains that are not managed.
    UnmanagedNotStated,
    /// The set before did not say what becomes of mail of domains that are not managed.
    UnmanagedStated,
    /// A part that is not understood is only in the set before.
    OpaqueMissing,
    /// A part that is not understood is only in the set after.
    OpaqueAdded,
}

impl Kind {
    /// The kind of the same difference with the sets exchanged.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::ChainMissing => Self::ChainAdded,
            Self::ChainAdded => Self::ChainMissing,
            Self::ChainEmptied => Self::ChainFilled,
            Self::ChainFilled => Self::ChainEmptied,
            Self::RuleMissing => Self::RuleAdded,
            Self::RuleAdded => Self::RuleMissing,
            Self::RuleDisabled => Self::RuleEnabled,
            Self::RuleEnabled => Self::RuleDisabled,
            Self::ActionWeaker => Self::ActionStronger,
            Self::ActionStronger => Self::ActionWeaker,
            Self::JumpBroken => Self::JumpMended,
            Self::JumpMended => Self::JumpBroken,
            Self::EffectMissing => Self::EffectAdded,
            Self::EffectAdded => Self::EffectMissing,
            Self::KeyNotFoundWeaker => Self::KeyNotFoundStronger,
            Self::KeyNotFoundStronger => Self::KeyNotFoundWeaker,
            Self::DictionaryMissing => Self::DictionaryAdded,
            Self::DictionaryAdded => Self::DictionaryMissing,
            Self::EntryMissing => Self::EntryAdded,
            Self::EntryAdded => Self::EntryMissing,
            Self::EntryNowPattern => Self::EntryNowLiteral,
            Self::EntryNowLiteral => Self::EntryNowPattern,
            Self::ManagedDomainMissing => Self::ManagedDomainAdded,
            Self::ManagedDomainAdded => Self::ManagedDomainMissing,
            Self::LearnModeOn => Self::LearnModeOff,
            Self::LearnModeOff => Self::LearnModeOn,
            Self::LearnModeNotStated => Self::LearnModeStated,
            Self::LearnModeStated => Self::LearnModeNotStated,
            Self::UnmanagedPasses => Self::UnmanagedBounces,
            Self::UnmanagedBounces => Self::UnmanagedPasses,
            Self::UnmanagedNotStated => Self::UnmanagedStated,
            Self::UnmanagedStated => Self::UnmanagedNotStated,
            Self::OpaqueMissing => Self::OpaqueAdded,
            Self::OpaqueAdded => Self::OpaqueMissing,
            same => same,
        }
    }
}
