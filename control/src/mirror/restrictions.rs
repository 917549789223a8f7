//! Restrictions of smtpd(8): access tables that refuse mail, redirect it or give it to a filter.
//!
//! A table is asked only where nothing before it in its list has permitted the client; which clients
//! those are, no message tells.
//!
//! Not here: access tables in themselves (`lookup`), checks of fields (`checks`).

use policy::condition::Test;
use policy::origin::Origin;
use policy::sample::Variable;

use super::ask::{Lists, all, opaque};
use super::checks::{Act, Acted, act};
use super::lines::{in_braces, parts};
use super::lookup::{Answer, Lookup, Order};
use super::parameters::Scope;
use super::services::Service;
use super::table::Tables;

/// The lists, in the order in which they are asked.
const LISTS: [&str; 7] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
];

/// Restrictions with an argument that ask a table or a server of what no message tells.
const UNSEEN: [&str; 13] = [
    "check_client_access",
    "check_ccert_access",
    "check_helo_access",
    "check_sasl_access",
    "check_etrn_access",
    "check_reverse_client_hostname_access",
    "check_client_mx_access",
    "check_client_ns_access",
    "check_helo_mx_access",
    "check_sender_mx_access",
    "check_sender_ns_access",
    "check_recipient_mx_access",
    "check_recipient_ns_access",
];

/// Different results of a table that are held against one another.
const FOUND_MAX: usize = 300;

/// Reads the restrictions of a service.
pub(super) struct Restrictions<'a, 'b> {
    /// What smtpd sees.
    pub(super) scope: Scope<'a>,
    pub(super) tables: &'a mut Tables<'b>,
    pub(super) lists: &'a mut Lists,
}

/// Whether a restriction is asked at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Surely,
    Perhaps,
}

impl Restrictions<'_, '_> {
    /// What access tables do, the last first: of two filters, the last wins.
    pub(super) fn acted(&mut self) -> Vec<Acted> {
        let mut acted = Vec::new();
        for list in LISTS {
            match self.scope.value(list) {
                Ok(value) => self.list(list, &value.text, &value.origin, &mut acted),
                Err(unclear) => {
                    acted.push(unknown(list, &unclear.to_string(), self.scope.origin(list)));
                }
            }
        }
        acted.reverse();
        acted
    }

    fn list(&mut self, list: &str, text: &str, origin: &Origin, acted: &mut Vec<Acted>) {
        // Of several recipients, these two lists see none.
        let many = matches!(list, "smtpd_data_restrictions" | "smtpd_end_of_data_restrictions");
        let mut reached = if many { Reached::Perhaps } else { Reached::Surely };
        let (mut words, mut only_warns) = (parts(text).into_iter(), false);
        while let Some(word) = words.next() {
            let word = in_braces(word).unwrap_or(word).to_ascii_lowercase();
            match word.as_str() {
                "reject" | "defer" if !only_warns => return,
                "check_recipient_access" | "check_sender_access" => {
                    let Some(table) = words.next() else { return };
                    let table = argument(table);
                    let (name, before) = (format!("{list}, {word}"), acted.len());
                    if self.table(&word, table, &name, (reached, origin), acted) == Ends::Perhaps {
                        reached = Reached::Perhaps;
                    }
                    if only_warns {
                        let kept = acted.split_off(before).into_iter();
                        acted.extend(kept.filter(|one| one.act != Act::Refuse));
                    }
                }
                "check_policy_service" => {
                    let Some(service) = words.next() else { return };
                    let why = format!("the policy service {} was not asked", argument(service));
                    acted.push(unknown(list, &why, origin.clone()));
                    reached = Reached::Perhaps;
                }
                word if UNSEEN.contains(&word) || word.ends_with("_a_access") => {
                    let Some(table) = words.next() else { return };
                    self.unseen(list, word, argument(table), origin, acted);
                    reached = Reached::Perhaps;
                }
                word if word.starts_with("permit") || self.is_class(word) => {
                    if self.is_class(word) {
                        acted.push(unknown(list, &format!("the class {word}"), origin.clone()));
                    }
                    reached = Reached::Perhaps;
                }
                // What else there is refuses or does nothing.
                _ => {}
            }
            only_warns = word == "warn_if_reject";
        }
    }

    fn is_class(&self, word: &str) -> bool {
        let classes = self.scope.value("smtpd_restriction_classes");
        classes.is_ok_and(|classes| Service::has_word(&classes.text, word))
    }

    /// A table that is asked for an address. Tells whether it may end the list.
    fn table(
        &mut self,
        check: &str,
        table: &str,
        name: &str,
        (reached, origin): (Reached, &Origin),
        acted: &mut Vec<Acted>,
    ) -> Ends {
        let variable = match check {
            "check_sender_access" => Variable::Sender,
            _ => Variable::Recipient,
        };
        let text = |name: &str| self.scope.value(name).map(|value| value.text).unwrap_or_default();
        let parents = text("parent_domain_matches_subdomains");
        let mut lookup = Lookup {
            variable,
            order: Order::Access,
            null_key: text("smtpd_null_access_lookup_key"),
            delimiters: text("recipient_delimiter"),
            with_subdomains: Service::has_word(&parents, "smtpd_access_maps"),
            lists: self.lists,
        };
        let found = lookup.found(&[self.tables.read(table, origin)]);
        let asked = match reached {
            Reached::Surely => Test::ALWAYS,
            Reached::Perhaps => opaque(format!("the restrictions before {name} let it be asked")),
        };
        if found.len() > FOUND_MAX {
            acted.push(unknown(
                name,
                &format!("{table} has too many different results"),
                origin.clone(),
            ));
            return Ends::Perhaps;
        }
        let mut ends = Ends::Never;
        let mut before: Vec<Test> = Vec::new();
        for one in found {
            let act = match &one.answer {
                Answer::Unknown(why) => Some(Act::Unknown(why.clone())),
                Answer::Result(result) => act(result).or_else(|| self.classes_in(result)),
            };
            if permits(&one.answer) {
                ends = Ends::Perhaps;
            }
            if let Some(act) = act {
                let taken = super::ask::none(before.clone());
                let test = all(vec![one.test.clone(), taken, asked.clone()]);
                let words = format!("{name} {}", one.words);
                acted.push(Acted { test, act, origin: one.origin, words });
            }
            before.push(one.test);
        }
        ends
    }

    /// A result may be a list of restrictions, and name classes.
    fn classes_in(&self, result: &str) -> Option<Act> {
        let words = parts(result);
        let class = words.iter().find(|word| self.is_class(word) || word.starts_with("check_"))?;
        Some(Act::Unknown(format!("it leads to the restriction {class}")))
    }

    /// A table that is asked for what no message tells: what matters is what it can answer.
    fn unseen(
        &mut self,
        list: &str,
        check: &str,
        table: &str,
        origin: &Origin,
        acted: &mut Vec<Acted>,
    ) {
        use super::table::Content;
        let table = self.tables.read(table, origin);
        let results: Vec<(String, Origin)> = match &table.content {
            Content::Keys(entries) => {
                entries.iter().map(|one| (one.result.clone(), one.origin.clone())).collect()
            }
            Content::Rules(rules) => {
                rules.iter().map(|one| (one.result.clone(), one.origin.clone())).collect()
            }
            Content::Always(result) => vec![(result.clone(), origin.clone())],
            Content::Unknown(why) => {
                acted.push(unknown(
                    list,
                    &format!("{check} {}: {why}", table.name),
                    origin.clone(),
                ));
                return;
            }
        };
        for (result, origin) in results {
            let act = act(&result).or_else(|| self.classes_in(&result));
            // Mail that is refused needs no route.
            let Some(act) = act.filter(|act| *act != Act::Refuse) else { continue };
            let name = format!("{list}, {check} {}: {result}", table.name);
            let test = opaque(format!("{name}, by the client"));
            acted.push(Acted { test, act, origin, words: name });
        }
    }
}

/// Whether a table ends its list for some mail.
#[derive(PartialEq, Eq)]
enum Ends {
    Never,
    Perhaps,
}

/// May an answer permit the client, so that nothing behind is asked?
fn permits(answer: &Answer) -> bool {
    match answer {
        Answer::Unknown(_) => true,
        Answer::Result(result) => {
            let word = result.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
            let other =
                ["filter", "redirect", "reject", "defer", "discard", "dunno", "hold", "warn"];
            let other = other.contains(&word.as_str())
                || ["prepend", "bcc", "info"].contains(&word.as_str())
                || word.starts_with("reject_")
                || word.starts_with("defer_");
            !other
        }
    }
}

/// What a restriction is given: a table, or in braces a table and its options.
fn argument(text: &str) -> &str {
    match in_braces(text) {
        Some(inside) => parts(inside).first().copied().unwrap_or_default(),
        None => text,
    }
}

fn unknown(list: &str, why: &str, origin: Origin) -> Acted {
    let words = format!("{list}: {why}");
    let test = opaque(format!("{list} answers FILTER or REDIRECT ({why})"));
    Acted { test, act: Act::Unknown(words.clone()), origin, words }
}
