//! A policy set as a program: what is asked in which order, and where each answer leads.
//!
//! Both readings of a policy use it: `decide` walks it with one message, `diagram` with all of them
//! at once. What the server does around its chains stands in front of them as rules of ours:
//! Learn Mode, mail of domains that are not managed (E2), mail that cannot be processed (E6), and
//! the chain that evaluation begins in (E3).
//!
//! Invariants
//! - Rules are in order; a rule that is not enabled is not here; a chain for clients alone is no
//!   target (E9).
//! - What is not understood is a question of its own, shared by two sets only where it is the same.
//!
//! Not here: answers (`decide`), the meaning of a predicate (`predicate`).

use std::collections::{BTreeSet, HashMap};

use crate::action::{Action, Cause, Effect, Outcome, SEARCH_DEFAULT, Send};
use crate::assume::{AfterEffects, Assumptions, Case, EndOfChain, Extent, LearnMode, YesNo};
use crate::chain::{AppliesTo, Chain, Rule};
use crate::condition::{Condition, Mode, Operator, Subject, Test};
use crate::dictionary::{Dictionary, Form};
use crate::pattern::{PatternError, branches};
use crate::predicate::{Language, Part, Predicate};
use crate::sample::{Shape, Variable};
use crate::set::{EXCEPTION_CHAIN, MANAGED_DOMAINS, Opaque, PolicySet, Stated, Unmanaged};

/// A question's number in [`Questions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question(pub u32);

/// Every question that one or more programs ask; the same question has one number.
#[derive(Debug, Default)]
pub struct Questions {
    asked: Vec<Predicate>,
    numbers: HashMap<Predicate, Question>,
}

impl Questions {
    /// The number of this question.
    pub fn number(&mut self, predicate: Predicate) -> Question {
        let next = Question(u32::try_from(self.asked.len()).unwrap_or(u32::MAX));
        *self.numbers.entry(predicate).or_insert_with_key(|predicate| {
            self.asked.push(predicate.clone());
            next
        })
    }

    /// All of them, in order of their numbers.
    #[must_use]
    pub fn all(&self) -> &[Predicate] {
        &self.asked
    }

    /// One of them.
    #[must_use]
    pub fn predicate(&self, question: Question) -> &Predicate {
        &self.asked[question.0 as usize]
    }
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formula {
    /// The answer to a question is yes.
    Ask(Question),
    /// This does not hold.
    Not(Box<Formula>),
    /// All hold; nothing: always.
    All(Vec<Formula>),
    /// One holds; nothing: never.
    Any(Vec<Formula>),
}

impl Formula {
    /// Holds always.
    pub const ALWAYS: Self = Self::All(Vec::new());
    /// Holds never.
    pub const NEVER: Self = Self::Any(Vec::new());

    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

/// A rule's place: chain and rule in the set, or before all chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In front of the chains.
    Before(Guard),
    /// In a chain of the set.
    Rule {
        /// Its chain's place in the set.
        chain: usize,
        /// Its place in the chain.
        rule: usize,
    },
}

/// What is asked in front of the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// Is Learn Mode on?
    LearnMode,
    /// Is the sender's domain managed?
    Unmanaged,
    /// Can the message be processed?
    Processing,
    /// Which chain is first?
    Start,
}

impl Guard {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LearnMode => "Learn Mode",
            Self::Unmanaged => "sender's domain is not managed",
            Self::Processing => "message cannot be processed",
            Self::Start => "first chain",
        }
    }
}

/// A rule, made ready.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which one.
    pub place: Place,
    /// When it matches.
    pub formula: Formula,
    /// What it does beside.
    pub effects: BTreeSet<Effect>,
    /// Where it leads.
    pub then: Then,
}

/// Where a rule leads.
#[derive(Clone, Debug)]
pub enum Then {
    /// To an end.
    Finish(Outcome),
    /// To one end where a key is found, to another where none is.
    Key {
        /// A key is found.
        found: Formula,
        /// Then.
        with: Outcome,
        /// Else.
        without: Outcome,
    },
    /// To a chain: its place in [`Program::chains`].
    Chain(usize),
    /// To the next rule.
    Next,
}

/// A policy set, made ready.
#[derive(Debug)]
pub struct Program {
    /// Chains; the last is what is asked in front of them, and evaluation begins there.
    pub chains: Vec<Vec<Line>>,
    /// What happens behind the last rule of a chain.
    pub end_of_chain: Outcome,
    names: Vec<(String, Vec<String>)>,
}

impl Program {
    /// Makes a set ready; what it asks is added to `questions`.
    #[must_use]
    pub fn new(set: &PolicySet, assumptions: &Assumptions, questions: &mut Questions) -> Self {
        let tests = Tests::new(&set.dictionaries, assumptions, questions);
        let mut compiler = Compiler { set, assumptions, tests };
        let mut chains: Vec<Vec<Line>> = set
            .chains
            .iter()
            .enumerate()
            .map(|(place, chain)| compiler.chain(place, chain))
            .collect();
        chains.push(compiler.front());
        let rules = |chain: &Chain| chain.rules.iter().map(|rule| rule.name.clone()).collect();
        let names = set.chains.iter().map(|chain| (chain.name.clone(), rules(chain))).collect();
        Self { chains, end_of_chain: compiler.end_of_chain(), names }
    }

    /// Where evaluation begins.
    #[must_use]
    pub fn start(&self) -> usize {
        self.chains.len() - 1
    }

    /// The names of a place's chain and rule.
    #[must_use]
    pub fn name(&self, place: Place) -> (&str, &str) {
        match place {
            Place::Before(guard) => ("", guard.as_str()),
            Place::Rule { chain, rule } => {
                let (chain, rules) = &self.names[chain];
                (chain, &rules[rule])
            }
        }
    }
}

struct Compiler<'a> {
    set: &'a PolicySet,
    assumptions: &'a Assumptions,
    tests: Tests<'a>,
}

impl<'a> Compiler<'a> {
    /// What is asked in front of the chains.
    fn front(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut line = |guard, formula, then| {
            lines.push(Line {
                place: Place::Before(guard),
                formula,
                effects: BTreeSet::new(),
                then,
            });
        };
        let globals = &self.set.globals;
        let unstated = |setting| Then::Finish(Outcome::Undecided(Cause::Unstated { setting }));
        match (globals.learn_mode, self.assumptions.learn_mode) {
            (Stated::Yes(false), _) => {}
            (Stated::Yes(true), LearnMode::Unmodified) => {
                line(Guard::LearnMode, Formula::ALWAYS, Then::Finish(Outcome::Unmodified));
            }
            (Stated::Yes(true), LearnMode::Unknown) => {
                let outcome = Outcome::Undecided(Cause::LearnMode);
                line(Guard::LearnMode, Formula::ALWAYS, Then::Finish(outcome));
            }
            (Stated::No, _) => {
                line(Guard::LearnMode, Formula::ALWAYS, unstated("whether Learn Mode is on"));
            }
        }
        let outbound = self.tests.word(Variable::Direction, "outbound");
        let managed = self.tests.managed(Variable::Sender);
        let then = match globals.unmanaged {
            // Without the domains, all mail is of some that may not be managed.
            _ if managed.is_none() => unstated("which domains are managed"),
            Stated::Yes(Unmanaged::PassUnmodified) => Then::Finish(Outcome::Unmodified),
            Stated::Yes(Unmanaged::Bounce) => Then::Finish(Outcome::Bounced),
            Stated::No => unstated("what becomes of mail from domains that are not managed"),
        };
        let managed = managed.unwrap_or(Formula::NEVER);
        let unmanaged = Formula::All(vec![outbound.clone(), managed.not()]);
        line(Guard::Unmanaged, unmanaged, then);
        let failed = self.tests.word(Variable::Processing, "failed");
        line(Guard::Processing, failed, self.go_to(EXCEPTION_CHAIN));
        line(Guard::Start, outbound, self.go_to(&self.assumptions.start_outbound));
        line(Guard::Start, Formula::ALWAYS, self.go_to(&self.assumptions.start_inbound));
        lines
    }

    fn chain(&mut self, place: usize, chain: &'a Chain) -> Vec<Line> {
        let enabled = chain.rules.iter().enumerate().filter(|(_, rule)| rule.enabled);
        let lines = enabled.map(|(rule, content)| {
            let place = Place::Rule { chain: place, rule };
            let formula = self.tests.test(&content.test);
            let (effects, then) = self.actions(content);
            Line { place, formula, effects, then }
        });
        lines.collect()
    }

    fn actions(&mut self, rule: &Rule) -> (BTreeSet<Effect>, Then) {
        let mut effects = BTreeSet::new();
        for action in &rule.actions {
            let then = match action {
                Action::Effect(Effect::Log { .. }) => continue,
                Action::Effect(effect) => {
                    effects.insert(effect.clone());
                    continue;
                }
                Action::Finish(outcome) => Then::Finish(outcome.clone()),
                Action::Opaque(opaque) => {
                    Then::Finish(Outcome::Undecided(Cause::Action(opaque.clone())))
                }
                Action::GoTo(chain) => self.go_to(chain),
                Action::Send(send) => self.send(send),
            };
            return (effects, then);
        }
        let then = match self.assumptions.after_effects {
            AfterEffects::NextRule => Then::Next,
            AfterEffects::EndOfChain => Then::Finish(self.end_of_chain()),
        };
        (effects, then)
    }

    fn end_of_chain(&self) -> Outcome {
        match self.assumptions.end_of_chain {
            EndOfChain::Unknown => Outcome::Undecided(Cause::EndOfChain),
            EndOfChain::Unmodified => Outcome::Unmodified,
            EndOfChain::Bounce => Outcome::Bounced,
        }
    }

    fn send(&mut self, send: &Send) -> Then {
        let default = [SEARCH_DEFAULT.to_owned()];
        let places = if send.search.is_empty() { &default[..] } else { &send.search };
        let word = |place: &String| self.tests.word(Variable::RecipientKey, place);
        let found = places.iter().map(word).collect();
        Then::Key {
            found: Formula::Any(found),
            with: Outcome::Encrypted { sign: send.sign, encoding: send.encoding },
            without: send.key_not_found.clone(),
        }
    }

    fn go_to(&self, name: &str) -> Then {
        let acts = |chain: &Chain| chain.name == name && chain.applies_to != AppliesTo::ClientOnly;
        match self.set.chains.iter().position(acts) {
            Some(place) => Then::Chain(place),
            None => Then::Finish(Outcome::Undecided(Cause::NoChain)),
        }
    }
}

/// Makes tests ready, whoever asks them.
pub(crate) struct Tests<'a> {
    dictionaries: &'a [Dictionary],
    assumptions: &'a Assumptions,
    questions: &'a mut Questions,
    known: HashMap<(&'a str, Subject), Formula>,
    /// Stands in front of what is not understood, so that it is shared with nobody else.
    asker: &'static str,
}

impl<'a> Tests<'a> {
    /// Tests that may name these dictionaries.
    pub(crate) fn new(
        dictionaries: &'a [Dictionary],
        assumptions: &'a Assumptions,
        questions: &'a mut Questions,
    ) -> Self {
        Self { dictionaries, assumptions, questions, known: HashMap::new(), asker: "" }
    }

    /// The same, asked by somebody who may read what is not understood otherwise: it is another
    /// question then, though it be written alike.
    pub(crate) fn asked_by(mut self, asker: &'static str) -> Self {
        self.asker = asker;
        self
    }

    fn named(&self, name: &str) -> Option<&'a Dictionary> {
        self.dictionaries.iter().find(|dictionary| dictionary.name == name)
    }

    /// Is a fact this word, or one of its texts?
    pub(crate) fn word(&mut self, variable: Variable, word: &str) -> Formula {
        let language = Language::none(false, true).with_exact(word);
        Formula::Ask(self.questions.number(Predicate::Text { variable, language }))
    }

    /// Is the domain of this address managed? The entries are domains.
    /// None where the dictionaries do not say which are.
    pub(crate) fn managed(&mut self, address: Variable) -> Option<Formula> {
        let dictionary = self.named(MANAGED_DOMAINS)?;
        let subject = Subject::DomainOf(address);
        let mut formula = vec![self.dictionary(&subject, dictionary)];
        if self.assumptions.below_managed == YesNo::Yes {
            let mut language = Language::none(true, true);
            for entry in dictionary.entries.iter().filter(|entry| entry.form == Form::Literal) {
                language = language.with(Part::Ends(format!(".{}", entry.text)));
            }
            formula.push(self.ask(&subject, language));
        }
        Some(Formula::Any(formula))
    }

    /// What must hold where the test does.
    pub(crate) fn test(&mut self, test: &'a Test) -> Formula {
        match test {
            Test::Group { mode, items } => {
                let items = items.iter().map(|item| self.test(item)).collect();
                match mode {
                    Mode::All => Formula::All(items),
                    Mode::Any => Formula::Any(items),
                    Mode::None => Formula::Any(items).not(),
                }
            }
            Test::Condition(condition) if condition.negated => self.condition(condition).not(),
            Test::Condition(condition) => self.condition(condition),
            Test::Opaque(opaque) => self.opaque(opaque.clone()),
        }
    }

    fn opaque(&mut self, mut opaque: Opaque) -> Formula {
        opaque.text.insert_str(0, self.asker);
        Formula::Ask(self.questions.number(Predicate::Opaque(opaque)))
    }

    /// The question of a condition that is understood only as its text.
    fn not_understood(&mut self, condition: &Condition, why: &str) -> Formula {
        let text = format!("{} {}", condition.subject, condition.operator);
        self.opaque(Opaque { what: format!("{text} ({why})"), text })
    }

    fn condition(&mut self, condition: &'a Condition) -> Formula {
        let subject = &condition.subject;
        match (subject.variable().shape(), &condition.operator) {
            (Shape::Number, operator) => self.number(condition, operator),
            (_, Operator::IsGreaterThan(_) | Operator::IsLessThan(_)) => {
                self.not_understood(condition, "this is no number")
            }
            (_, Operator::IsInDictionary(name)) => match self.named(name) {
                None => self.not_understood(condition, "there is no such dictionary"),
                Some(dictionary) => self.dictionary(subject, dictionary),
            },
            (Shape::Word(words), Operator::Is(word)) if !is_one_of(words, word) => {
                self.not_understood(condition, "this word is not known")
            }
            (_, operator) => self.text(condition, operator),
        }
    }

    fn number(&mut self, condition: &Condition, operator: &Operator) -> Formula {
        let (from, to) = match operator {
            Operator::IsGreaterThan(u64::MAX) | Operator::IsLessThan(0) => return Formula::NEVER,
            Operator::IsGreaterThan(number) => (number + 1, u64::MAX),
            Operator::IsLessThan(number) => (0, number - 1),
            Operator::Is(text) => match text.parse() {
                Ok(number) => (number, number),
                Err(_) => return self.not_understood(condition, "this is no number"),
            },
            _ => return self.not_understood(condition, "numbers are not compared so"),
        };
        let variable = condition.subject.variable().clone();
        Formula::Ask(self.questions.number(Predicate::Number { variable, from, to }))
    }

    fn text(&mut self, condition: &Condition, operator: &Operator) -> Formula {
        let subject = &condition.subject;
        let none = self.none(subject);
        let language = match operator {
            Operator::Is(text) => none.with_exact(text),
            Operator::Contains(text) => none.with(Part::Contains(text.clone())),
            Operator::BeginsWith(text) => none.with(Part::Begins(text.clone())),
            Operator::EndsWith(text) => none.with(Part::Ends(text.clone())),
            Operator::IsSubdomainOf(domain) => {
                let below = none.with(Part::Ends(format!(".{domain}")));
                match self.assumptions.subdomain_of_itself {
                    YesNo::Yes => below.with_exact(domain),
                    YesNo::No => below,
                }
            }
            Operator::Matches(pattern) => match self.pattern(&none, pattern) {
                Ok(part) => none.with(part),
                Err(why) => return self.not_understood(condition, &why.to_string()),
            },
            Operator::IsInDictionary(_) | Operator::IsGreaterThan(_) | Operator::IsLessThan(_) => {
                return self.not_understood(condition, "texts are not compared so");
            }
        };
        self.ask(subject, language)
    }

    /// The language of no text, with what counts for this subject: addresses and words are compared
    /// without regard to case (the server's rule is not known; RFC 5321 §2.4 has it for domains).
    fn none(&self, subject: &Subject) -> Language {
        let free = matches!(subject.variable().shape(), Shape::Text | Shape::Texts);
        let folded = !free || self.assumptions.text_case == Case::Insensitive;
        Language::none(matches!(subject, Subject::DomainOf(_)), folded)
    }

    fn pattern(&self, language: &Language, text: &str) -> Result<Part, PatternError> {
        branches(text, language.folded)?;
        let anywhere = self.assumptions.pattern == Extent::Part;
        Ok(Part::Pattern { text: text.to_owned(), anywhere })
    }

    fn ask(&mut self, subject: &Subject, language: Language) -> Formula {
        let variable = subject.variable().clone();
        Formula::Ask(self.questions.number(Predicate::Text { variable, language }))
    }

    /// Is an entry of the dictionary met? Patterns that are not understood are questions of their own.
    fn dictionary(&mut self, subject: &Subject, dictionary: &'a Dictionary) -> Formula {
        let key = (dictionary.name.as_str(), subject.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut language = self.none(subject);
        let mut strange = Vec::new();
        for entry in &dictionary.entries {
            match entry.form {
                Form::Literal => {
                    let text = language.fold(&entry.text);
                    language.exact.insert(text);
                }
                Form::Pattern => match self.pattern(&language, &entry.text) {
                    Ok(part) => {
                        language.parts.insert(part);
                    }
                    Err(why) => strange.push((entry, why)),
                },
            }
        }
        let mut formula = self.ask(subject, language);
        if !strange.is_empty() {
            let mut any = vec![formula];
            for (entry, why) in strange {
                let text = format!("{subject} matches pattern {:?}", entry.text);
                let what = format!("{text} of dictionary {:?} ({why})", dictionary.name);
                any.push(self.opaque(Opaque { text, what }));
            }
            formula = Formula::Any(any);
        }
        self.known.insert(key, formula.clone());
        formula
    }
}

fn is_one_of(words: &[&str], word: &str) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}
