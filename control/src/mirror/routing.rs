//! Routing: which mail takes which transport to which next hop, as trivial-rewrite(8) resolves it.
//!
//! The class of the recipient's domain gives a transport; transport_maps override it. For mail that is
//! neither local nor relayed inside, sender_dependent_default_transport_maps go before
//! default_transport, and where neither names a next hop, sender_dependent_relayhost_maps go before
//! relayhost, and that before the recipient's domain (transport(5)).
//!
//! Not here: what stands before all routing (`checks`, `restrictions`, content filters), where a
//! transport leads (`next_hop`).

use policy::condition::Test;
use policy::origin::Origin;
use policy::sample::Variable;

use super::ask::{Lists, all};
use super::domains::Domains;
use super::lookup::{Answer, Found, Lookup, Order};
use super::next_hop::Way;
use super::parameters::{Scope, Unclear};
use super::services::Service;
use super::table::{Table, Tables};
use super::{Finding, Severity};

/// Mail that takes a way, where the tests before did not hold.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) test: Test,
    pub(super) way: Turn,
    /// The class of the recipient's domain, where the test tells it.
    pub(super) class: Class,
    pub(super) origin: Origin,
    pub(super) words: String,
}

/// A way that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This.
    Known(Way),
    /// It is refused.
    Refused,
    /// Nobody knows which.
    Unknown(String),
}

/// What a recipient's domain is to this MTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It is delivered by the MTA, or a host behind it: local, virtual and relay domains.
    Ours,
    /// It is somebody else's.
    Other,
}

/// Resolves recipients.
pub(super) struct Routing<'a, 'b> {
    /// What trivial-rewrite sees.
    pub(super) scope: Scope<'a>,
    pub(super) tables: &'a mut Tables<'b>,
    pub(super) lists: &'a mut Lists,
    pub(super) findings: &'a mut Vec<Finding>,
}

impl Routing<'_, '_> {
    /// Every recipient's way; the last holds always.
    pub(super) fn choices(&mut self) -> Vec<Choice> {
        let classes = self.classes();
        let maps = self.lookup("transport_maps", Order::Transport, Variable::Recipient);
        let ours = classes.iter().filter(|choice| choice.class == Class::Ours);
        let ours = super::ask::any(ours.map(|choice| choice.test.clone()).collect());
        let mut choices = Vec::new();
        for found in maps {
            let words = format!("transport_maps {}", found.words);
            match &found.answer {
                Answer::Unknown(why) => {
                    choices.push(chosen(&found, Turn::Unknown(why.clone()), Class::Other, words));
                }
                Answer::Result(result) => {
                    mapped(&found, &Way::parse(result), &words, &classes, &ours, &mut choices);
                }
            }
        }
        choices.extend(classes);
        choices
    }

    /// What the class of the recipient's domain leads to.
    fn classes(&mut self) -> Vec<Choice> {
        let relay_below = self.has_subdomains("relay_domains");
        let classes = [
            ("mydestination", "local_transport", false),
            ("virtual_alias_domains", "", false),
            ("virtual_mailbox_domains", "virtual_transport", false),
        ];
        let mut choices = Vec::new();
        for (domains, transport, below) in classes {
            let test = self.domains(domains, below);
            // What is left in a domain of aliases has no alias, and is refused.
            let way = match transport {
                "" => Turn::Refused,
                transport => self.way_of(transport),
            };
            let origin = self.scope.origin(domains);
            choices.push(Choice {
                test,
                way,
                class: Class::Ours,
                origin,
                words: domains.to_owned(),
            });
        }
        let relayed = self.domains("relay_domains", relay_below);
        let relay = self.with_relayhost("relay_transport", Class::Ours);
        let relay = relay.into_iter().map(|choice| {
            let words = format!("relay_domains, {}", choice.words);
            let test = all(vec![relayed.clone(), choice.test]);
            Choice { test, words, ..choice }
        });
        choices.extend(relay);
        choices.extend(self.of_others());
        choices
    }

    /// Mail for other people's domains.
    fn of_others(&mut self) -> Vec<Choice> {
        const MAPS: &str = "sender_dependent_default_transport_maps";
        let usual = self.with_relayhost("default_transport", Class::Other);
        let mut choices = Vec::new();
        for found in self.lookup(MAPS, Order::Sender, Variable::Sender) {
            let words = format!("{MAPS} {}", found.words);
            match &found.answer {
                Answer::Unknown(why) => {
                    choices.push(chosen(&found, Turn::Unknown(why.clone()), Class::Other, words));
                }
                Answer::Result(result) if is_dunno(result) => {
                    choices.extend(usual.iter().map(|choice| within(&found.test, choice)));
                }
                Answer::Result(result) => {
                    let way = Way::parse(result);
                    if !way.next_hop.is_empty() {
                        choices.push(chosen(&found, Turn::Known(way), Class::Other, words));
                        continue;
                    }
                    for hop in self.relay_hosts() {
                        let hop = hop.through(&way.transport, Class::Other, &words);
                        choices.push(within(&found.test, &hop));
                    }
                }
            }
        }
        choices.extend(usual);
        choices
    }

    /// What a transport parameter leads to; without a next hop of its own to those of relay hosts.
    fn with_relayhost(&mut self, parameter: &str, class: Class) -> Vec<Choice> {
        let turn = self.way_of(parameter);
        match turn {
            Turn::Known(way) if way.next_hop.is_empty() => {
                let hosts = self.relay_hosts();
                hosts.into_iter().map(|hop| hop.through(&way.transport, class, "")).collect()
            }
            way => {
                let (origin, words) = (self.scope.origin(parameter), parameter.to_owned());
                vec![Choice { test: Test::ALWAYS, way, class, origin, words }]
            }
        }
    }

    /// Next hops by sender, then relayhost; the last holds always.
    fn relay_hosts(&mut self) -> Vec<RelayHost> {
        const MAPS: &str = "sender_dependent_relayhost_maps";
        let (origin, relayhost) = (self.scope.origin("relayhost"), self.scope.value("relayhost"));
        let usual = |test| RelayHost {
            test,
            host: match &relayhost {
                Ok(value) => Ok(value.text.clone()),
                Err(unclear) => Err(format!("relayhost: {unclear}")),
            },
            origin: origin.clone(),
            words: "relayhost".to_owned(),
        };
        let mut hosts = Vec::new();
        for found in self.lookup(MAPS, Order::Sender, Variable::Sender) {
            hosts.push(match found.answer {
                Answer::Result(result) if is_dunno(&result) => usual(found.test),
                answer => RelayHost {
                    test: found.test,
                    host: match answer {
                        Answer::Result(result) => Ok(result),
                        Answer::Unknown(why) => Err(why),
                    },
                    origin: found.origin,
                    words: format!("{MAPS} {}", found.words),
                },
            });
        }
        hosts.push(usual(Test::ALWAYS));
        hosts
    }

    fn way_of(&self, parameter: &str) -> Turn {
        match self.scope.value(parameter) {
            Ok(value) => Turn::Known(Way::parse(&value.text)),
            // Which transport it is stands in front; what is behind matters to remote hosts alone.
            Err(unclear) => match self.scope.written(parameter).split_once(':') {
                Some((transport, _)) if transport == "local" || transport == "virtual" => {
                    Turn::Known(Way { transport: transport.to_owned(), next_hop: String::new() })
                }
                _ => Turn::Unknown(format!("{parameter}: {unclear}")),
            },
        }
    }

    fn domains(&mut self, parameter: &str, with_subdomains: bool) -> Test {
        let (scope, tables) = (self.scope, &mut *self.tables);
        let (lists, findings) = (&mut *self.lists, &mut *self.findings);
        Domains { scope, tables, lists, findings }.test(parameter, with_subdomains)
    }

    fn has_subdomains(&self, feature: &str) -> bool {
        let value = self.scope.value("parent_domain_matches_subdomains");
        value.is_ok_and(|value| Service::has_word(&value.text, feature))
    }

    /// What the tables of a parameter find.
    fn lookup(&mut self, parameter: &str, order: Order, variable: Variable) -> Vec<Found> {
        let value = match self.scope.value(parameter) {
            Ok(value) => value,
            Err(unclear) => return vec![self.unclear(parameter, &unclear)],
        };
        let tables: Vec<Table> = self.tables.all(&value.text, &value.origin);
        let null_key = match parameter {
            "sender_dependent_relayhost_maps" => "empty_address_relayhost_maps_lookup_key",
            _ => "empty_address_default_transport_maps_lookup_key",
        };
        let text = |name: &str| self.scope.value(name).map(|value| value.text);
        let with_subdomains = self.has_subdomains(parameter);
        let mut lookup = Lookup {
            variable,
            order,
            null_key: text(null_key).unwrap_or_default(),
            delimiters: text("recipient_delimiter").unwrap_or_default(),
            with_subdomains,
            lists: self.lists,
        };
        lookup.found(&tables)
    }

    fn unclear(&mut self, parameter: &str, unclear: &Unclear) -> Found {
        let (origin, why) = (self.scope.origin(parameter), format!("{parameter}: {unclear}"));
        self.findings.push(Finding {
            severity: Severity::Error,
            words: why.clone(),
            origin: origin.clone(),
            mend: "write it out in main.cf".to_owned(),
        });
        let (test, words) = (super::ask::opaque(why.clone()), parameter.to_owned());
        Found { test, answer: Answer::Unknown(why), origin, words }
    }
}

/// A next hop for what has none of its own.
struct RelayHost {
    test: Test,
    /// Empty: the recipient's domain.
    host: Result<String, String>,
    origin: Origin,
    words: String,
}

impl RelayHost {
    fn through(self, transport: &str, class: Class, before: &str) -> Choice {
        let way = match self.host {
            Ok(next_hop) => Turn::Known(Way { transport: transport.to_owned(), next_hop }),
            Err(why) => Turn::Unknown(why),
        };
        let comma = if before.is_empty() { "" } else { ", " };
        let words = format!("{before}{comma}{}", self.words);
        Choice { test: self.test, way, class, origin: self.origin, words }
    }
}

fn is_dunno(result: &str) -> bool {
    result.eq_ignore_ascii_case("dunno")
}

fn chosen(found: &Found, way: Turn, class: Class, words: String) -> Choice {
    Choice { test: found.test.clone(), way, class, origin: found.origin.clone(), words }
}

fn within(test: &Test, choice: &Choice) -> Choice {
    Choice { test: all(vec![test.clone(), choice.test.clone()]), ..choice.clone() }
}

/// What an entry of transport_maps does: an empty transport or next hop keeps that of the class, but
/// a transport alone resets the next hop to the recipient's domain.
fn mapped(
    found: &Found,
    way: &Way,
    words: &str,
    classes: &[Choice],
    ours: &Test,
    choices: &mut Vec<Choice>,
) {
    if !way.transport.is_empty() {
        let turn = Turn::Known(way.clone());
        let ours = all(vec![found.test.clone(), ours.clone()]);
        let choice = chosen(found, turn, Class::Other, words.to_owned());
        choices.push(Choice { test: ours, class: Class::Ours, ..choice.clone() });
        choices.push(choice);
        return;
    }
    for class in classes {
        let mut choice = within(&found.test, class);
        choice.words = format!("{words}, {}", class.words);
        if let (Turn::Known(kept), false) = (&mut choice.way, way.next_hop.is_empty()) {
            kept.next_hop.clone_from(&way.next_hop);
            choice.origin = found.origin.clone();
        }
        choices.push(choice);
    }
}
