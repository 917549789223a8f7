//! What is not documented of the server, each as a named option with a value.
//!
//! Every verdict rests on them, so a report lists them. Defaults are what sources suggest, or
//! `unknown` where they are silent: then mail that depends on it is not decided.
//!
//! Not here: what an option does (`predicate`, `program`).

use std::fmt;

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumptions {
    /// Does the case of letters matter in texts that are no addresses?
    pub text_case: Case,
    /// Must a pattern match the whole text, or a part of it?
    pub pattern: Extent,
    /// Is a domain its own subdomain?
    pub subdomain_of_itself: YesNo,
    /// Is a domain below a managed domain managed?
    pub below_managed: YesNo,
    /// What happens behind the last rule of a chain (E5).
    pub end_of_chain: EndOfChain,
    /// What happens behind a rule that matched and did not end evaluation (E4).
    pub after_effects: AfterEffects,
    /// What Learn Mode does (E8).
    pub learn_mode: LearnMode,
    /// The chain that outbound mail begins in (E3).
    pub start_outbound: String,
    /// The chain that inbound mail begins in (E3).
    pub start_inbound: String,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            text_case: Case::Insensitive,
            pattern: Extent::Whole,
            subdomain_of_itself: YesNo::No,
            below_managed: YesNo::No,
            end_of_chain: EndOfChain::Unknown,
            after_effects: AfterEffects::NextRule,
            learn_mode: LearnMode::Unknown,
            start_outbound: crate::set::DEFAULT_CHAIN.to_owned(),
            start_inbound: crate::set::DEFAULT_CHAIN.to_owned(),
        }
    }
}

/// Does the case of letters matter?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// No.
    Insensitive,
    /// Yes.
    Sensitive,
}

impl Case {
    const WORDS: &'static [(&'static str, Self)] =
        &[("insensitive", Self::Insensitive), ("sensitive", Self::Sensitive)];
}

/// How much of a text a pattern must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Any part of it.
    Part,
}

impl Extent {
    const WORDS: &'static [(&'static str, Self)] = &[("whole", Self::Whole), ("part", Self::Part)];
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
}

impl YesNo {
    const WORDS: &'static [(&'static str, Self)] = &[("yes", Self::Yes), ("no", Self::No)];
}

/// What happens behind the last rule of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfChain {
    /// Nobody knows.
    Unknown,
    /// The message is passed on unmodified.
    Unmodified,
    /// The message is bounced.
    Bounce,
}

impl EndOfChain {
    const WORDS: &'static [(&'static str, Self)] =
        &[("unknown", Self::Unknown), ("unmodified", Self::Unmodified), ("bounce", Self::Bounce)];
}

/// What happens behind a rule that matched and did not end evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEffects {
    /// The next rule is asked.
    NextRule,
    /// It is as if the chain ended.
    EndOfChain,
}

impl AfterEffects {
    const WORDS: &'static [(&'static str, Self)] =
        &[("next-rule", Self::NextRule), ("end-of-chain", Self::EndOfChain)];
}

/// What Learn Mode does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnMode {
    /// Nobody knows.
    Unknown,
    /// Everything is passed on unmodified.
    Unmodified,
}

impl LearnMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("unknown", Self::Unknown), ("unmodified", Self::Unmodified)];
}

/// One option, for a report.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// The other values that it could have.
    pub others: Vec<&'static str>,
    /// What it answers, and what is known of it.
    pub what: &'static str,
}

/// Why an option cannot be set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssumeError {
    /// There is no option of this name.
    #[error("there is no assumption {name:?}; there are: {}", Assumptions::default().names().join(", "))]
    Name {
        /// The name.
        name: String,
    },
    /// It has no such value.
    #[error("assumption {name} cannot be {value:?}; it is one of: {}", values.join(", "))]
    Value {
        /// The option.
        name: &'static str,
        /// The value.
        value: String,
        /// Its values.
        values: Vec<&'static str>,
    },
    /// It is not of the form `NAME=VALUE`.
    #[error("an assumption is written NAME=VALUE, not {text:?}")]
    Form {
        /// The text.
        text: String,
    },
}

impl Assumptions {
    /// All options as they stand.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        vec![
            shown(
                "text_case",
                self.text_case,
                Case::WORDS,
                "does the case of letters matter in texts that are no addresses? Not documented",
            ),
            shown(
                "pattern",
                self.pattern,
                Extent::WORDS,
                "must a pattern match the whole text? Inferred from an example of the vendor",
            ),
            shown(
                "subdomain_of_itself",
                self.subdomain_of_itself,
                YesNo::WORDS,
                "is a domain its own subdomain? Not documented",
            ),
            shown(
                "below_managed",
                self.below_managed,
                YesNo::WORDS,
                "is a domain below a managed domain managed? Not documented",
            ),
            shown(
                "end_of_chain",
                self.end_of_chain,
                EndOfChain::WORDS,
                "what happens behind the last rule of a chain? Not documented",
            ),
            shown(
                "after_effects",
                self.after_effects,
                AfterEffects::WORDS,
                "what happens behind a rule that matched and did not end evaluation? Not documented",
            ),
            shown(
                "learn_mode",
                self.learn_mode,
                LearnMode::WORDS,
                "what does Learn Mode do? Not documented; believed to pass mail on unmodified",
            ),
            start(
                "start_outbound",
                &self.start_outbound,
                "in which chain does outbound mail begin? Inferred from logs of inbound mail",
            ),
            start(
                "start_inbound",
                &self.start_inbound,
                "in which chain does inbound mail begin? Seen in logs",
            ),
        ]
    }

    fn names(&self) -> Vec<&'static str> {
        self.shown().into_iter().map(|shown| shown.name).collect()
    }

    /// Sets an option by its text: `NAME=VALUE`.
    ///
    /// # Errors
    /// An [`AssumeError`] that lists what there is.
    pub fn set(&mut self, text: &str) -> Result<(), AssumeError> {
        let form = || AssumeError::Form { text: text.to_owned() };
        let (name, value) = text.split_once('=').ok_or_else(form)?;
        let (name, value) = (name.trim().replace('-', "_"), value.trim());
        match name.as_str() {
            "text_case" => choose(&mut self.text_case, "text_case", value, Case::WORDS),
            "pattern" => choose(&mut self.pattern, "pattern", value, Extent::WORDS),
            "subdomain_of_itself" => {
                choose(&mut self.subdomain_of_itself, "subdomain_of_itself", value, YesNo::WORDS)
            }
            "below_managed" => {
                choose(&mut self.below_managed, "below_managed", value, YesNo::WORDS)
            }
            "end_of_chain" => {
                choose(&mut self.end_of_chain, "end_of_chain", value, EndOfChain::WORDS)
            }
            "after_effects" => {
                choose(&mut self.after_effects, "after_effects", value, AfterEffects::WORDS)
            }
            "learn_mode" => choose(&mut self.learn_mode, "learn_mode", value, LearnMode::WORDS),
            "start_outbound" => {
                value.clone_into(&mut self.start_outbound);
                Ok(())
            }
            "start_inbound" => {
                value.clone_into(&mut self.start_inbound);
                Ok(())
            }
            _ => Err(AssumeError::Name { name }),
        }
    }

    /// The same assumptions with one of them otherwise, for each other value of each.
    #[must_use]
    pub fn alternatives(&self) -> Vec<(Shown, Self)> {
        let mut alternatives = Vec::new();
        for shown in self.shown() {
            for other in &shown.others {
                let mut changed = self.clone();
                if changed.set(&format!("{}={other}", shown.name)).is_ok() {
                    let value = (*other).to_owned();
                    alternatives.push((Shown { value, ..shown.clone() }, changed));
                }
            }
        }
        alternatives
    }
}

/// The words of an option and what they stand for.
type Words<T> = &'static [(&'static str, T)];

fn shown<T: PartialEq + Copy>(
    name: &'static str,
    value: T,
    words: Words<T>,
    what: &'static str,
) -> Shown {
    let word = |wanted: bool| {
        words.iter().filter(move |(_, one)| (*one == value) == wanted).map(|(word, _)| *word)
    };
    let others = word(false).collect();
    Shown { name, value: word(true).collect(), others, what }
}

fn start(name: &'static str, value: &str, what: &'static str) -> Shown {
    Shown { name, value: value.to_owned(), others: Vec::new(), what }
}

fn choose<T: Copy>(
    place: &mut T,
    name: &'static str,
    value: &str,
    words: Words<T>,
) -> Result<(), AssumeError> {
    let Some((_, chosen)) = words.iter().find(|(word, _)| *word == value) else {
        let values = words.iter().map(|(word, _)| *word).collect();
        return Err(AssumeError::Value { name, value: value.to_owned(), values });
    };
    *place = *chosen;
    Ok(())
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_can_be_set_to_each_of_its_values() {
        let plain = Assumptions::default();
        assert_eq!(plain.alternatives().len(), 8, "as many as there are other values");
        for (shown, changed) in plain.alternatives() {
            assert_ne!(changed, plain, "{shown}");
            let now = changed.shown().into_iter().find(|one| one.name == shown.name).unwrap();
            assert_eq!(now.value, shown.value);
        }
    }

    #[test]
    fn a_mistake_is_answered_with_what_there_is() {
        let mut plain = Assumptions::default();
        assert_eq!(plain.set("end-of-chain=bounce"), Ok(()));
        assert_eq!(plain.end_of_chain, EndOfChain::Bounce);
        assert!(plain.set("end_of_chain=maybe").unwrap_err().to_string().contains("unmodified"));
        assert!(plain.set("endofchain=bounce").unwrap_err().to_string().contains("end_of_chain"));
        assert!(plain.set("bounce").unwrap_err().to_string().contains("NAME=VALUE"));
    }
}
