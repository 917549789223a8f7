//! Blast radius: which mail that the journal knows would be treated otherwise.
//!
//! The journal has envelopes and little of the headers. What it does not have is not known: then a message is counted as
//! one that may be affected, never left out.
//!
//! Not here: the journal (`proxy`), the proof (`policy::parity`).

use std::collections::{BTreeMap, BTreeSet};

use policy::action::Relation;
use policy::decide::Judge;
use policy::parity::{Affected, Explored};
use policy::sample::{Fact, Sample, Variable};
use proxy::api::{JournalLine, JournalWhat};
use serde::Serialize;

/// Senders, domains and messages that are listed.
const LISTED_MAX: usize = 20;

/// What would be affected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlastRadius {
    /// Since when (RFC 3339); none: since the journal begins.
    pub since: Option<String>,
    /// Messages, counted for each forward-path.
    pub messages: u64,
    /// Of these, treated otherwise whatever is not known of them.
    pub certainly: u64,
    /// Of these, treated otherwise or not: it depends on what the journal does not have.
    pub perhaps: u64,
    /// By how the treatment differs.
    pub relations: BTreeMap<Relation, u64>,
    /// Senders of such mail, most of it first.
    pub senders: Vec<Counted>,
    /// Recipients' domains of such mail, most of it first.
    pub domains: Vec<Counted>,
    /// Some of the messages, those that are certain first.
    pub examples: Vec<Example>,
    /// Parts of the time of which the journal may lack entries.
    pub gaps: u64,
}

/// How much mail has this in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// What.
    pub name: String,
    /// How many messages.
    pub messages: u64,
}

/// A message that would be affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Its id.
    pub id: String,
    /// When it was handed over.
    pub at: String,
    /// Reverse-path.
    pub from: String,
    /// Forward-path.
    pub to: String,
    /// It is certain.
    pub certain: bool,
    /// How the treatment differs, or may.
    pub relations: BTreeSet<Relation>,
}

/// Counts, message by message.
#[derive(Debug)]
pub struct Counter<'a> {
    explored: &'a Explored<'a>,
    judge: &'a Judge,
    inbound: &'a [String],
    /// Mail of the same envelope and size is affected alike.
    known: BTreeMap<(bool, String, String, Option<u64>), Affected>,
    senders: BTreeMap<String, u64>,
    domains: BTreeMap<String, u64>,
    radius: BlastRadius,
}

/// Envelopes whose answer is remembered.
const KNOWN_MAX: usize = 100_000;

impl<'a> Counter<'a> {
    /// Begins; `inbound` are the gates whose mail comes in.
    #[must_use]
    pub const fn new(explored: &'a Explored<'a>, judge: &'a Judge, inbound: &'a [String]) -> Self {
        Self {
            explored,
            judge,
            inbound,
            known: BTreeMap::new(),
            senders: BTreeMap::new(),
            domains: BTreeMap::new(),
            radius: BlastRadius {
                since: None,
                messages: 0,
                certainly: 0,
                perhaps: 0,
                relations: BTreeMap::new(),
                senders: Vec::new(),
                domains: Vec::new(),
                examples: Vec::new(),
                gaps: 0,
            },
        }
    }

    /// Counts one line of the journal: mail that clients gave to a forward gate, whatever came of it.
    pub fn add(&mut self, line: &JournalLine) {
        if line.what == JournalWhat::Gap {
            self.radius.gaps += 1;
            return;
        }
        let doing = line.doing.as_deref();
        if !matches!(doing, Some("pass" | "hold" | "refuse")) {
            return;
        }
        let inbound = line.gate.as_ref().is_some_and(|gate| self.inbound.contains(gate));
        let from = address(line.from.as_deref().unwrap_or_default());
        for to in &line.to {
            self.path(line, inbound, from, address(to));
        }
    }

    fn path(&mut self, line: &JournalLine, inbound: bool, from: &str, to: &str) {
        self.radius.messages += 1;
        let key = (inbound, from.to_owned(), to.to_owned(), line.size);
        let affected = match self.known.get(&key) {
            Some(affected) => affected.clone(),
            None => {
                let sample = sample(inbound, from, to, line.size);
                let affected = self.explored.affected(self.judge, &sample);
                if self.known.len() < KNOWN_MAX {
                    self.known.insert(key, affected.clone());
                }
                affected
            }
        };
        let (certain, relations) = match affected {
            Affected::No => return,
            Affected::Perhaps(relations) => (false, relations),
            Affected::Certainly(relations) => (true, relations),
        };
        *if certain { &mut self.radius.certainly } else { &mut self.radius.perhaps } += 1;
        for relation in &relations {
            *self.radius.relations.entry(*relation).or_default() += 1;
        }
        *self.senders.entry(from.to_owned()).or_default() += 1;
        let domain = to.rsplit_once('@').map_or(to, |(_, domain)| domain);
        *self.domains.entry(domain.to_ascii_lowercase()).or_default() += 1;
        let examples = &mut self.radius.examples;
        let full = examples.len() >= LISTED_MAX;
        let spare = examples.iter().rposition(|example| !example.certain);
        if full && (!certain || spare.is_none()) {
            return;
        }
        if let (true, Some(place)) = (full, spare) {
            examples.remove(place);
        }
        examples.push(Example {
            id: line.id.clone().unwrap_or_default(),
            at: line.at.clone().unwrap_or_default(),
            from: from.to_owned(),
            to: to.to_owned(),
            certain,
            relations,
        });
    }

    /// What was counted.
    #[must_use]
    pub fn finish(self, since: Option<String>) -> BlastRadius {
        let mut radius = self.radius;
        radius.since = since;
        radius.senders = most(self.senders);
        radius.domains = most(self.domains);
        radius.examples.sort_by_key(|example| !example.certain);
        radius
    }
}

fn most(counts: BTreeMap<String, u64>) -> Vec<Counted> {
    let mut all: Vec<Counted> =
        counts.into_iter().map(|(name, messages)| Counted { name, messages }).collect();
    all.sort_by(|one, two| two.messages.cmp(&one.messages).then(one.name.cmp(&two.name)));
    all.truncate(LISTED_MAX);
    all
}

/// A path of the journal without its brackets.
fn address(path: &str) -> &str {
    path.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(path)
}

/// What the journal knows of a message. Few messages cannot be processed: it is taken for one that can.
fn sample(inbound: bool, from: &str, to: &str, size: Option<u64>) -> Sample {
    let direction = if inbound { "inbound" } else { "outbound" };
    let sample = Sample::unknown()
        .with_text(Variable::Direction, direction)
        .with_text(Variable::Processing, "ok")
        .with_text(Variable::Sender, from)
        .with_text(Variable::Recipient, to);
    match size {
        Some(octets) => sample.with(Variable::Size, Fact::Number(octets)),
        None => sample,
    }
}

#[cfg(test)]
mod tests {
    use policy::assume::Assumptions;
    use policy::parity::{Limits, Pair, explore};
    use policy::set::PolicySet;

    use super::*;

    fn set(domain: &str, subject: &str) -> PolicySet {
        let text = format!(
            r#"
[globals]
learn_mode = false
unmanaged_domains = "bounce"
managed_domains = ["example.com"]
[[chain]]
name = "Default"
[[chain.rule]]
name = "partner"
conditions = [{{ subject = "recipient domain", is = "{domain}" }}]
actions = [{{ action = "bounce" }}]
[[chain.rule]]
name = "secret"
conditions = [{{ subject = "message subject", contains = "{subject}" }}]
actions = [{{ action = "bounce" }}]
[[chain.rule]]
name = "else"
actions = [{{ action = "send clear (unsigned)" }}]
[[chain]]
name = "Exception"
[[chain.rule]]
name = "all"
actions = [{{ action = "bounce" }}]
"#
        );
        policy::import::from_toml(&text, "t", &|_| Err(String::new())).unwrap()
    }

    fn line(doing: &str, from: &str, to: &[&str]) -> JournalLine {
        JournalLine {
            doing: Some(doing.into()),
            gate: Some("outbound".into()),
            from: Some(from.into()),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
            size: Some(100),
            ..JournalLine::default()
        }
    }

    fn radius(before: &PolicySet, after: &PolicySet, lines: &[JournalLine]) -> BlastRadius {
        let pair = Pair::new(before, after, &Assumptions::default());
        let explored = explore(&pair, Limits::default()).unwrap();
        let mut counter = Counter::new(&explored, &pair.judge, &[]);
        lines.iter().for_each(|line| counter.add(line));
        counter.finish(None)
    }

    #[test]
    fn mail_whose_treatment_changes_is_counted_by_what_the_journal_knows() {
        let (before, after) = (set("a.example", "secret"), set("b.example", "secret"));
        let lines = [
            line("pass", "<u@example.com>", &["<x@a.example>", "<x@b.example>"]),
            line("hold", "<v@example.com>", &["<x@A.EXAMPLE>"]),
            line("pass", "<v@example.com>", &["<x@c.example>"]),
            line("replay", "<v@example.com>", &["<x@a.example>"]),
        ];
        let found = radius(&before, &after, &lines);
        assert_eq!((found.messages, found.certainly, found.perhaps), (4, 0, 3));
        assert_eq!(found.senders[0], Counted { name: "u@example.com".into(), messages: 2 });
        assert_eq!(found.domains[0], Counted { name: "a.example".into(), messages: 2 });
    }

    #[test]
    fn what_the_journal_does_not_have_makes_mail_one_that_may_be_affected() {
        let (before, after) = (set("a.example", "secret"), set("a.example", "top secret"));
        let found = radius(&before, &after, &[line("pass", "<u@example.com>", &["<x@a.example>"])]);
        assert_eq!((found.certainly, found.perhaps), (0, 0), "bounced either way");
        let found = radius(&before, &after, &[line("pass", "<u@example.com>", &["<x@c.example>"])]);
        assert_eq!((found.certainly, found.perhaps), (0, 1), "nobody knows its subject");
        assert_eq!(found.relations, BTreeMap::from([(Relation::Looser, 1)]));
    }
}
