//! Two policies compared in every way that is possible, as one document: for the terminal, for programs, for the page.
//!
//! Invariants
//! - Without a policy that is understood on both sides, the only equal is an export that is the same.
//! - Every verdict lists the assumptions that it rests on, and those that would change it.
//!
//! Not here: the proof (`policy::parity`), the page (`page`).

use std::cmp::Reverse;

use policy::action::Relation;
use policy::assume::{Assumptions, Shown};
use policy::decide::{Step, Trace};
use policy::findings::{Finding, findings, new_rules_that_shadow};
use policy::message::{self, Message};
use policy::parity::{self, Divergence, Doubt, Explored, Limits, Pair, Side, opaque_doubts};
use policy::predicate::Predicate;
use policy::program::{Place, Program, Questions};
use policy::sample::{Fact, Sample, Variable};
use policy::set::PolicySet;
use policy::severity::Severity;
use policy::structure::{self, Change};
use policy::tree::{self, Kind};
use serde::Serialize;

use super::blast::BlastRadius;
use super::source::Loaded;

/// Differences of two exports that are shown.
const TREE_SHOWN: usize = 200;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The verdict over all mail.
    pub verdict: Relation,
    /// Why, in sentences; the most important first.
    pub reasons: Vec<String>,
    /// What was compared.
    pub before: Named,
    /// With what.
    pub after: Named,
    /// Mail that is treated otherwise, a message for each class; the worst first.
    pub divergences: Vec<Differs>,
    /// There are more classes than are shown.
    pub more: bool,
    /// What was changed, one by one; the gravest first. Mail may be treated alike all the same.
    pub changes: Vec<Change>,
    /// What is wrong with the policy after, and new rules of it that stand in the way of others; the gravest first.
    pub findings: Vec<Finding>,
    /// How the exports differ as they are, where both are exports.
    pub export: Vec<ExportDiffers>,
    /// What is not documented of the server, as it was taken.
    pub assumptions: Vec<Shown>,
    /// Assumptions that would change the verdict.
    pub hinges: Vec<Hinge>,
    /// Mail of the journal that would be treated otherwise, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blast_radius: Option<BlastRadius>,
}

/// One of two policies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Named {
    /// As it was named: a file, or `@` and the name of a snapshot.
    pub name: String,
    /// SHA-256 of all that was read.
    pub sha256: String,
    /// Chains, where they are known.
    pub chains: usize,
    /// Rules, where they are known.
    pub rules: usize,
}

/// Mail that is treated otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Differs {
    /// How.
    pub relation: Relation,
    /// Before.
    pub before: Decided,
    /// After.
    pub after: Decided,
    /// The smallest such message.
    pub message: Shows,
    /// What is not understood and decides about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hangs_on: Vec<String>,
}

/// What one policy does with a message.
#[derive(Clone, Debug, Serialize)]
pub struct Decided {
    /// What becomes of it.
    pub outcome: String,
    /// How well it is protected then; none where that cannot be told.
    pub protection: Option<&'static str>,
    /// The rules that led there: chain and rule.
    pub rules: Vec<[String; 2]>,
    /// Every rule that was looked at.
    pub trace: Vec<Looked>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Looked {
    /// Chain; empty for what is asked in front of all chains.
    pub chain: String,
    /// Rule.
    pub rule: String,
    /// Did it match? None: not known.
    pub matched: Option<bool>,
    /// What it asked.
    pub asked: Vec<Asked>,
}

/// A question and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The question.
    pub question: String,
    /// The answer; none: not known.
    pub answer: Option<bool>,
}

/// A message that shows a difference.
#[derive(Clone, Debug, Serialize)]
pub struct Shows {
    /// Reverse-path.
    pub from: String,
    /// Forward-path.
    pub to: String,
    /// The message (RFC 5322).
    pub eml: String,
    /// What only the server knows, and must be so.
    pub beside: Vec<String>,
    /// What the message should have and cannot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<String>,
}

/// A difference of two exports.
#[derive(Clone, Debug, Serialize)]
pub struct ExportDiffers {
    /// Where in the tree.
    pub path: String,
    /// What differs.
    pub what: String,
    /// Where before: of what is new, the element around its place.
    pub before: String,
    /// Where after.
    pub after: String,
}

/// An assumption that would change the verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Hinge {
    /// The assumption, otherwise: `NAME = VALUE`.
    pub assumption: String,
    /// The verdict then.
    pub verdict: Relation,
}

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is not documented, as it is taken.
    pub assumptions: Assumptions,
    /// How much is explored and shown.
    pub limits: Limits,
    /// Find out which assumptions would change the verdict: one comparison more for each.
    pub hinges: bool,
}

/// A policy and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// As it was named.
    pub name: &'a str,
    /// Its hash.
    pub sha256: &'a str,
    /// What it says.
    pub loaded: &'a Loaded,
}

/// Compares two policies. `look` gets what was explored, to ask it about more messages.
#[must_use]
pub fn compare(
    before: Input<'_>,
    after: Input<'_>,
    options: &Options,
    look: &mut dyn FnMut(&Explored<'_>, &Pair) -> Option<BlastRadius>,
) -> Comparison {
    let mut comparison = Comparison {
        verdict: Relation::Unknown,
        reasons: Vec::new(),
        before: named(before),
        after: named(after),
        divergences: Vec::new(),
        more: false,
        changes: Vec::new(),
        findings: Vec::new(),
        export: export(before.loaded, after.loaded),
        assumptions: options.assumptions.shown(),
        hinges: Vec::new(),
        blast_radius: None,
    };
    match (&before.loaded.set, &after.loaded.set) {
        (Some(one), Some(two)) => by_meaning(&mut comparison, one, two, options, look),
        _ => by_tree(&mut comparison, before.loaded, after.loaded),
    }
    comparison
}

fn named(input: Input<'_>) -> Named {
    let chains = input.loaded.set.as_ref().map_or(&[][..], |set| &set.chains);
    Named {
        name: input.name.to_owned(),
        sha256: input.sha256.to_owned(),
        chains: chains.len(),
        rules: chains.iter().map(|chain| chain.rules.len()).sum(),
    }
}

fn by_meaning(
    comparison: &mut Comparison,
    before: &PolicySet,
    after: &PolicySet,
    options: &Options,
    look: &mut dyn FnMut(&Explored<'_>, &Pair) -> Option<BlastRadius>,
) {
    let pair = Pair::new(before, after, &options.assumptions);
    let explored = parity::explore(&pair, options.limits).ok();
    let doubts = opaque_doubts(before, after);
    let found = parity::parity(&pair, explored.as_ref(), doubts, options.limits);
    comparison.verdict = found.verdict;
    comparison.more = found.more;
    comparison.reasons = reasons(&found);
    comparison.changes = structure::differences(before, after, &options.assumptions);
    comparison.changes.sort_by_key(|change| Reverse(change.severity));
    comparison.findings = findings(after, &options.assumptions);
    let shadowing = new_rules_that_shadow(before, after, &options.assumptions);
    comparison.findings.extend(shadowing);
    comparison.findings.sort_by_key(|finding| Reverse(finding.severity));
    let blockers =
        comparison.changes.iter().filter(|one| one.severity == Severity::Blocker).count();
    if blockers > 0 {
        comparison
            .reasons
            .push(format!("{blockers} of the changes would be reason enough to stop"));
    }
    comparison.divergences = found.divergences.iter().map(|one| differs(&pair, one)).collect();
    comparison.blast_radius = explored.as_ref().and_then(|explored| look(explored, &pair));
    if options.hinges {
        for (shown, other) in options.assumptions.alternatives() {
            let verdict = parity::compare(before, after, &other, options.limits).verdict;
            if verdict != found.verdict {
                comparison.hinges.push(Hinge { assumption: shown.to_string(), verdict });
            }
        }
    }
}

fn by_tree(comparison: &mut Comparison, before: &Loaded, after: &Loaded) {
    let mapping = "write a mapping (`lockgate policy learn EXPORT --draft`), and compare with it";
    comparison.reasons.push(match (&before.tree, &after.tree) {
        (Some(_), Some(_)) if comparison.export.is_empty() => {
            comparison.verdict = Relation::Equal;
            "the exports are the same; what stands in no export (Learn Mode, for one) was not compared".into()
        }
        (Some(_), Some(_)) => {
            format!("the exports differ, and what that means for mail is not known: {mapping}")
        }
        _ => format!("an export that nothing is known of cannot be compared with a typed policy: {mapping}"),
    });
}

fn reasons(found: &parity::Parity) -> Vec<String> {
    let mut reasons = Vec::new();
    let count = |relation| found.divergences.iter().filter(|one| one.relation == relation).count();
    let known = [
        (Relation::Looser, "less protected after than before"),
        (Relation::Incomparable, "treated otherwise, neither better nor worse protected"),
        (Relation::Stricter, "better protected after than before, or no longer sent"),
        (Relation::Unknown, "treated otherwise or not; it hangs on what is not known"),
    ];
    for (relation, what) in known {
        let classes = count(relation);
        if classes > 0 {
            let more = if found.more { " or more" } else { "" };
            let classes =
                if classes == 1 { "1 class".into() } else { format!("{classes} classes") };
            reasons.push(format!("{classes}{more} of mail: {what}"));
        }
    }
    for doubt in &found.doubts {
        reasons.push(match doubt {
            Doubt::Opaque { part, before } => {
                let which = if *before { "before" } else { "after" };
                format!("only the policy {which} has a part that is not understood: {}", part.what)
            }
            Doubt::TooLarge => {
                "there was too much to explore: not all mail was compared".to_owned()
            }
        });
    }
    if reasons.is_empty() {
        reasons.push("every message is treated alike".into());
    }
    reasons
}

fn differs(pair: &Pair, divergence: &Divergence) -> Differs {
    Differs {
        relation: divergence.relation,
        before: decided(&pair.questions, &pair.before, &divergence.before),
        after: decided(&pair.questions, &pair.after, &divergence.after),
        message: shows(&divergence.sample),
        hangs_on: divergence.doubts.iter().map(|doubt| doubt.what.clone()).collect(),
    }
}

fn decided(questions: &Questions, program: &Program, side: &Side) -> Decided {
    Decided {
        outcome: side.fate.to_string(),
        protection: side.fate.outcome.protection().map(policy::action::Protection::as_str),
        rules: side.rules.iter().map(|place| name(program, *place)).collect(),
        trace: trace(questions, program, &side.trace),
    }
}

/// Every rule that was looked at, in words.
#[must_use]
pub fn trace(questions: &Questions, program: &Program, trace: &Trace) -> Vec<Looked> {
    let looked = |step: &Step| {
        let [chain, rule] = name(program, step.place);
        let asked = step.asked.iter().map(|(question, answer)| Asked {
            question: question_text(questions.predicate(*question)),
            answer: *answer,
        });
        Looked { chain, rule, matched: step.matched, asked: asked.collect() }
    };
    trace.steps.iter().map(looked).collect()
}

/// Chain and rule.
#[must_use]
pub fn name(program: &Program, place: Place) -> [String; 2] {
    let (chain, rule) = program.name(place);
    [chain.to_owned(), rule.to_owned()]
}

fn question_text(predicate: &Predicate) -> String {
    /// Longest question that is shown whole.
    const LENGTH: usize = 200;
    let mut text = predicate.to_string();
    if text.chars().count() > LENGTH {
        text = text.chars().take(LENGTH).chain("…".chars()).collect();
    }
    text
}

/// The smallest message with these facts.
#[must_use]
pub fn shows(sample: &Sample) -> Shows {
    let Message { octets, sender, recipient, beside, unmet } = message::write(sample);
    let fact = |(variable, fact): &(Variable, Fact)| format!("{variable}: {fact}");
    // Nearly all mail can be processed: only what cannot is worth a word.
    let usual = (Variable::Processing, Fact::Text("ok".into()));
    let unmet = unmet.iter().map(|one| format!("{}: {}", one.variable, one.wanted));
    Shows {
        from: sender,
        to: recipient,
        eml: String::from_utf8_lossy(&octets).into_owned(),
        beside: beside.iter().filter(|one| **one != usual).map(fact).collect(),
        unmet: unmet.collect(),
    }
}

/// How two exports differ as they are, without what either mapping calls volatile.
fn export(before: &Loaded, after: &Loaded) -> Vec<ExportDiffers> {
    let (Some(one), Some(two)) = (&before.tree, &after.tree) else {
        return Vec::new();
    };
    let volatile = |loaded: &Loaded| {
        loaded.mapping.as_ref().map_or_else(Vec::new, |mapping| mapping.volatile().to_vec())
    };
    let mut all = volatile(before);
    all.extend(volatile(after));
    let differences = tree::Tree::differences(one, two, &all);
    let what = |kind: &Kind| match kind {
        Kind::OnlyBefore => "only before".to_owned(),
        Kind::OnlyAfter => "only after".to_owned(),
        Kind::Moved => "moved".to_owned(),
        Kind::Text { before, after } => format!("text {before:?} is now {after:?}"),
        Kind::Attribute { before, after } => format!("value {before:?} is now {after:?}"),
    };
    let shown = differences.iter().take(TREE_SHOWN).map(|one| ExportDiffers {
        path: one.path.clone(),
        what: what(&one.kind),
        before: one.before.to_string(),
        after: one.after.to_string(),
    });
    shown.collect()
}
