//! Checks of fields and lines: header_checks, and its kin, as cleanup(8) asks them.
//!
//! A check sees a line as it is written. Fields are asked here as the policy asks them, decoded: that
//! a field may be written in encoded words (RFC 2047), which no pattern meets, is a doubt that the
//! criteria carry. What is asked of parts (MIME fields) and of lines of the text is not understood.
//!
//! Not here: what a restriction of smtpd(8) does (`restrictions`), where FILTER leads (`next_hop`).

use policy::condition::{Operator, Subject, Test};
use policy::origin::Origin;
use policy::sample::Variable;

use super::ask::{self, all, any, none, opaque};
use super::expression::{Expression, Rule};
use super::lookup::shown;
use super::table::{Content, Table};
use super::{Finding, Severity};

/// Rules of a table that are held against one another; of more, each is a question of its own.
const RULES_MAX: usize = 300;

/// What happens to a message before it is routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It is refused or thrown away.
    Refuse,
    /// It goes to another address.
    Redirect(String),
    /// It takes this way, whatever its recipients are.
    Filter(String),
    /// Nobody knows.
    Unknown(String),
}

/// Mail to which something happens.
#[derive(Clone, Debug)]
pub(super) struct Acted {
    pub(super) test: Test,
    pub(super) act: Act,
    pub(super) origin: Origin,
    pub(super) words: String,
}

/// What a kind of check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// Fields of the message.
    Header,
    /// Fields of its parts, and of messages in it.
    Parts,
    /// Lines of its text.
    Body,
}

/// The action of a result, if it is one that decides where mail goes.
pub(super) fn act(result: &str) -> Option<Act> {
    let (word, rest) = result.split_once(char::is_whitespace).unwrap_or((result, ""));
    let rest = rest.trim().to_owned();
    let code = word.len() == 3 && matches!(word.as_bytes().first(), Some(b'4' | b'5'));
    match word.to_ascii_uppercase().as_str() {
        "FILTER" | "REDIRECT" if rest.contains('$') => {
            Some(Act::Unknown(format!("what is put in place of $ in {result:?} is not known")))
        }
        "FILTER" => Some(Act::Filter(rest)),
        "REDIRECT" => Some(Act::Redirect(rest)),
        "REJECT" | "DEFER" | "DISCARD" => Some(Act::Refuse),
        _ if code && word.bytes().all(|octet| octet.is_ascii_digit()) => Some(Act::Refuse),
        _ => None,
    }
}

/// What the tables of one kind of check do.
pub(super) fn acted(
    parameter: &str,
    tables: &[Table],
    looks: Looks,
    findings: &mut Vec<Finding>,
) -> Vec<Acted> {
    let mut acted = Vec::new();
    for table in tables {
        let name = &table.name;
        match &table.content {
            Content::Rules(rules) => {
                for (place, rule) in rules.iter().enumerate() {
                    note_changes(parameter, rule, findings);
                    let Some(act) = act(&rule.result).or_else(|| stops(&rule.result)) else {
                        continue;
                    };
                    let test = match (rules.len() <= RULES_MAX, &act) {
                        (true, _) => asked(rule, &rules[..place], looks),
                        // Refused mail that is taken for mail that goes on hides nothing.
                        (false, Act::Refuse) => continue,
                        (false, _) => opaque(format!("{parameter} {name}: {}", shown(rule))),
                    };
                    let words = format!("{parameter} {name}: {} {}", shown(rule), rule.result);
                    acted.push(Acted { test, act, origin: rule.origin.clone(), words });
                }
            }
            Content::Keys(entries) if entries.is_empty() => {}
            Content::Keys(_) | Content::Always(_) | Content::Unknown(_) => {
                let why = match &table.content {
                    Content::Unknown(why) => why.clone(),
                    _ => "it has whole lines as keys".to_owned(),
                };
                acted.push(Acted {
                    test: opaque(format!("{parameter} {name} finds a line ({why})")),
                    act: Act::Unknown(format!("{parameter} {name}: {why}")),
                    origin: Origin::of("main.cf"),
                    words: format!("{parameter} {name}"),
                });
            }
        }
    }
    acted
}

/// `PASS` ends all checks of the message.
fn stops(result: &str) -> Option<Act> {
    let word = result.split_whitespace().next().unwrap_or_default();
    let passes = word.eq_ignore_ascii_case("PASS");
    passes.then(|| Act::Unknown("PASS ends the checks of the message".to_owned()))
}

/// A field that is changed is not what the policy sees.
fn note_changes(parameter: &str, rule: &Rule, findings: &mut Vec<Finding>) {
    let word = rule.result.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(word.as_str(), "REPLACE" | "IGNORE" | "STRIP") {
        return;
    }
    findings.push(Finding {
        severity: Severity::Warning,
        words: format!(
            "{parameter} {word}: the server does not see the line that matches {}",
            shown(rule)
        ),
        origin: rule.origin.clone(),
        mend: "is it a line that the policy asks for?".to_owned(),
    });
}

/// Does a rule meet a line of the message, that none of those before takes?
fn asked(rule: &Rule, before: &[Rule], looks: Looks) -> Test {
    let kind = match looks {
        Looks::Header => "a field",
        Looks::Parts => "a field of a part",
        Looks::Body => "a line of the text",
    };
    let unknown = |why: &str| opaque(format!("{kind} matches {} ({why})", shown(rule)));
    if looks != Looks::Header {
        return unknown("parts and lines are not looked at");
    }
    let field = match Field::of(rule) {
        Ok(field) => field,
        Err(why) => return unknown(why),
    };
    let mut taken = Vec::new();
    for other in before {
        match Field::of(other) {
            Ok(other) if other.variable != field.variable => {}
            Ok(other) if field.variable == Variable::Subject => taken.push(other.test()),
            // One of several fields of a name may meet this rule, and another the one before.
            Ok(_) => return unknown("a rule before it asks for the same field"),
            Err(why) => {
                taken.push(opaque(format!("{kind} matches {} ({why})", shown(other))));
            }
        }
    }
    all(vec![field.test(), none(taken)])
}

/// A field of the message, and what its text must match.
struct Field {
    variable: Variable,
    pattern: String,
    origin: Origin,
}

impl Field {
    /// The field that a rule asks for: `/^Name:\s*pattern/`; `if /^Name:/` around it says nothing more.
    fn of(rule: &Rule) -> Result<Self, &'static str> {
        let (own, ifs) = rule.all.split_last().ok_or("it asks nothing")?;
        let (name, rest) = named(own)?;
        for condition in ifs {
            if named(condition)? != (name.clone(), "") {
                return Err("it stands within an `if`");
            }
        }
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("content-") || lower == "mime-version" {
            return Err("it asks for a field of MIME");
        }
        if matches!(lower.as_str(), "received" | "return-path" | "bcc" | "resent-bcc") {
            return Err("this field changes on the way");
        }
        let variable = Variable::header(&name);
        if rest.is_empty() {
            return match variable {
                Variable::Subject => Err("it asks whether there is a Subject"),
                variable => {
                    Ok(Self { variable, pattern: String::new(), origin: rule.origin.clone() })
                }
            };
        }
        let pattern = format!("^{}", behind_blanks(rest).ok_or("what stands behind the colon")?);
        Ok(Self { variable, pattern, origin: rule.origin.clone() })
    }

    fn test(&self) -> Test {
        let operator = Operator::Matches(self.pattern.clone());
        ask::condition(Subject::Whole(self.variable.clone()), operator, &self.origin)
    }
}

/// The name of the field that an expression begins with, and what is behind its colon.
fn named(one: &Expression) -> Result<(String, &str), &'static str> {
    if let Some(why) = one.strange {
        return Err(why);
    }
    if one.negated {
        return Err("it is negated");
    }
    let rest = one.text.strip_prefix('^').ok_or("it does not begin with the name of a field")?;
    let end = rest.find(':').ok_or("it does not begin with the name of a field")?;
    let name = rest[..end].replace("\\-", "-");
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("it does not begin with the name of a field");
    }
    let rest = &rest[end + 1..];
    if has_alternatives(rest) { Err("it has alternatives") } else { Ok((name, rest)) }
}

/// Is there a `|` outside of all groups and classes?
fn has_alternatives(pattern: &str) -> bool {
    let (mut depth, mut escaped, mut class) = (0_i32, false, false);
    for letter in pattern.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => depth -= 1,
            '|' if !class && depth <= 0 => return true,
            _ => {}
        }
    }
    false
}

/// What an expression asks of the text behind the blank that follows the colon.
fn behind_blanks(rest: &str) -> Option<&str> {
    const BLANKS: [&str; 6] = ["\\s", "[[:space:]]", "[[:blank:]]", "[ \t]", "[ \\t]", " "];
    if rest.starts_with(".*") {
        return Some(rest);
    }
    let behind = BLANKS.iter().find_map(|blank| rest.strip_prefix(blank))?;
    match behind.chars().next() {
        Some('*' | '+') => Some(&behind[1..]),
        Some('?' | '{') => None,
        _ => Some(behind),
    }
}

/// Acts in the order in which they win: what is refused goes nowhere; then REDIRECT, then FILTER, and
/// of each those of checks before those of restrictions, which are asked earlier: the last one counts.
/// Restrictions come with the last first; which of two checks is the last, no message tells.
pub(super) fn in_order(checks: Vec<Acted>, restrictions: Vec<Acted>) -> Vec<Acted> {
    let rank = |one: &Acted| match one.act {
        Act::Refuse => 0,
        Act::Redirect(_) | Act::Unknown(_) => 1,
        Act::Filter(_) => 2,
    };
    let filters: Vec<&Acted> = checks.iter().filter(|one| rank(one) == 2).collect();
    let two = meeting(&filters);
    let all: Vec<Acted> = two.into_iter().chain(checks).chain(restrictions).collect();
    let of_rank = |wanted: u8| all.iter().filter(move |one| rank(one) == wanted);
    of_rank(0).chain(of_rank(1)).chain(of_rank(2)).cloned().collect()
}

/// Mail that two different filters would take.
fn meeting(filters: &[&Acted]) -> Vec<Acted> {
    let mut ways: Vec<(&Acted, Vec<Test>)> = Vec::new();
    for filter in filters {
        match ways.iter_mut().find(|(first, _)| first.act == filter.act) {
            Some((_, tests)) => tests.push(filter.test.clone()),
            None => ways.push((filter, vec![filter.test.clone()])),
        }
    }
    let mut meeting = Vec::new();
    for (place, (one, tests)) in ways.iter().enumerate() {
        for (other, others) in &ways[..place] {
            meeting.push(Acted {
                test: all(vec![any(tests.clone()), any(others.clone())]),
                act: Act::Unknown(format!("two filters take it: {}; {}", other.words, one.words)),
                origin: one.origin.clone(),
                words: format!("{}, {}", other.words, one.words),
            });
        }
    }
    meeting
}
