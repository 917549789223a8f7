//! What a Postfix configuration sends where, as criteria that are held against a policy.
//!
//! Read from the configuration as it lies in its folder, nothing is run and nobody is asked. What a
//! message does not tell (which client it came from), or what is not read here (LDAP, a policy
//! service), becomes a question that is not understood or a destination that is not known, each by its
//! name; it is never left out.
//!
//! | module | what |
//! |---|---|
//! | `files` | the files of a folder, within bounds |
//! | `lines` | logical lines and lists |
//! | `parameters` | main.cf |
//! | `services` | master.cf |
//! | `table`, `expression` | lookup tables |
//! | `ask`, `lookup`, `domains` | keys of tables and lists, as tests of a policy |
//! | `routing` | trivial-rewrite(8): classes of recipients, transport_maps, relay hosts |
//! | `checks`, `restrictions` | FILTER, REDIRECT, REJECT of cleanup(8) and smtpd(8) |
//! | `next_hop` | where a transport leads, and whether a gate is there |
//!
//! What is not looked at: rewriting (aliases, canonical maps; the policy and the routes both see what
//! comes of it, but restrictions do not), milters, and mail that Postfix makes itself.
//!
//! Not here: whether the criteria cover a policy (`policy::mirror`).

mod ask;
mod checks;
mod domains;
mod expression;
mod files;
mod lines;
mod lookup;
mod next_hop;
mod parameters;
mod restrictions;
mod routing;
mod services;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use policy::condition::Test;
use policy::mirror::{Criteria, Destination, Route};
use policy::origin::Origin;
use policy::set::Opaque;

pub use files::{FileError, Files, Folder};

use ask::Lists;
use checks::{Act, Acted, Looks};
use next_hop::{Way, Ways, number};
use parameters::{Scope, Settings, Stray, Unclear, Value};
use restrictions::Restrictions;
use routing::{Choice, Class, Routing, Turn};
use services::Service;
use table::Tables;

/// Lines of one file that are named because they are wrong.
const STRAYS_MAX: usize = 20;

/// Routes of one entrance.
const ROUTES_MAX: usize = 20_000;

/// Where lockgate listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// Where forward gates listen: what goes there goes to the server.
    pub forward: Vec<SocketAddr>,
    /// Other names of the same, as the MTA may write them: `host:port`, `[host]:port`.
    pub names: Vec<String>,
    /// Where the MTA takes mail back from the server: not for mail that still has to go there.
    pub returns: Vec<SocketAddr>,
}

impl Gates {
    /// Those of a configuration of lockgate.
    #[must_use]
    pub fn of(config: &proxy::config::Config) -> Self {
        let (forward, back): (Vec<_>, Vec<_>) =
            config.gates.iter().partition(|gate| gate.returns.is_none());
        let members = back.iter().flat_map(|gate| &gate.members);
        let at = members.filter_map(|member| {
            let address = member.address.as_ref()?;
            Some(SocketAddr::new(address.literal()?, address.port()))
        });
        Self {
            forward: forward.iter().filter_map(|gate| gate.listen).collect(),
            names: Vec::new(),
            returns: at.collect(),
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A person should know.
    Note,
    /// It may not be as it seems.
    Warning,
    /// Part of the configuration was not read: what hangs on it is not known.
    Error,
    /// Mail for the gate may go elsewhere.
    Leak,
}

/// Something about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub words: String,
    /// Where.
    pub origin: Origin,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.origin, self.words, self.mend)
    }
}

/// How mail comes in, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// The services of master.cf that it comes in by.
    pub services: Vec<String>,
    /// Where it goes.
    pub criteria: Criteria,
}

/// A configuration, read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Services with the same criteria are one entrance; there is at least one.
    pub entrances: Vec<Entrance>,
    /// What else there is to say, the worst first.
    pub findings: Vec<Finding>,
}

/// Why a configuration is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file of it is not read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It takes no mail.
    #[error("master.cf has no service that takes mail (smtpd, pickup)")]
    NoEntrance,
    /// There is too much to it.
    #[error("mail of the service {service} takes more than {ROUTES_MAX} routes")]
    Large {
        /// The service.
        service: String,
    },
}

/// What a Postfix with this configuration sends where.
///
/// # Errors
/// Where main.cf or master.cf cannot be read, or there is too much in them. A table that cannot be
/// read is no error: what hangs on it is not known, and a finding says so.
pub fn criteria_of(files: &dyn Files, gates: &Gates) -> Result<Reading, ReadError> {
    let (main, main_strays) = parameters::read(&files.text(Path::new("main.cf"))?, "main.cf");
    let (services, strays) = services::read(&files.text(Path::new("master.cf"))?, "master.cf");
    let default_type = Scope { main: &main, service: None }.value("default_database_type");
    let default_type = default_type.map_or_else(|_| "hash".to_owned(), |value| value.text);
    let tables = Tables { files, default_type, findings: Vec::new(), doubts: Vec::new() };
    let ways = Ways { main: &main, services: &services, gates, findings: Vec::new() };
    let mut reader = Reader { main: &main, services: &services, gates, tables, ways };
    for stray in main_strays.iter().chain(&strays).take(STRAYS_MAX) {
        reader.name_stray(stray);
    }
    let entrances = reader.entrances()?;
    reader.look_around();
    Ok(Reading { entrances, findings: reader.findings() })
}

struct Reader<'a> {
    main: &'a Settings,
    services: &'a [Service],
    gates: &'a Gates,
    tables: Tables<'a>,
    ways: Ways<'a>,
}

impl<'a> Reader<'a> {
    fn entrances(&mut self) -> Result<Vec<Entrance>, ReadError> {
        let services = self.services;
        let mut entrances: Vec<Entrance> = Vec::new();
        let takes_mail =
            |service: &&Service| matches!(service.command.as_str(), "smtpd" | "pickup" | "qmqpd");
        for service in services.iter().filter(takes_mail) {
            if self.is_return(service) {
                let words = "it takes mail back from the server, and is no entrance";
                self.note(
                    Severity::Note,
                    format!("{}: {words}", service.name),
                    &service.origin,
                    "",
                );
                continue;
            }
            let criteria = self.criteria(service)?;
            match entrances.iter_mut().find(|entrance| entrance.criteria == criteria) {
                Some(entrance) => entrance.services.push(service.name.clone()),
                None => {
                    entrances.push(Entrance { services: vec![service.name.clone()], criteria });
                }
            }
        }
        if entrances.is_empty() { Err(ReadError::NoEntrance) } else { Ok(entrances) }
    }

    /// Does a service listen where the server gives mail back? Ports that anybody may use are
    /// entrances all the same.
    fn is_return(&self, service: &Service) -> bool {
        let (host, port) = service.listens();
        let Some(port) = number(port).filter(|port| !matches!(port, 25 | 465 | 587)) else {
            return false;
        };
        let ip: Option<IpAddr> = host.and_then(|host| match host {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().ok(),
        });
        service.kind == "inet"
            && self.gates.returns.iter().any(|back| {
                back.port() == port && (host.is_none() || ip.is_some_and(|ip| ip == back.ip()))
            })
    }

    /// What becomes of mail that comes in by a service.
    fn criteria(&mut self, service: &'a Service) -> Result<Criteria, ReadError> {
        let scope = Scope { main: self.main, service: Some(&service.settings) };
        let (mut lists, mut routes, mut doubts) = (Lists::default(), Vec::new(), Vec::new());
        routes.extend(self.proxy_filter(scope));
        routes.extend(self.before_routing(scope, service, &mut lists, &mut doubts));
        routes.extend(self.content_filter(scope));
        routes.extend(self.routed(&mut lists));
        if routes.len() > ROUTES_MAX {
            return Err(ReadError::Large { service: service.name.clone() });
        }
        doubts.extend(self.tables.doubts.iter().map(|words| doubt(words)));
        let default = Destination::Unknown { why: "no route is left".to_owned() };
        Ok(Criteria { dictionaries: lists.dictionaries, routes, default, doubts })
    }

    /// The scope of a service that another hands mail to.
    fn scope_of(&self, scope: Scope<'a>, parameter: &str) -> Scope<'a> {
        let name = scope.value(parameter).map(|value| value.text).unwrap_or_default();
        let service = self.services.iter().find(|one| one.name == name && one.kind != "inet");
        Scope { main: self.main, service: service.map(|service| &service.settings) }
    }

    /// What the queue manager sees, whatever service the mail came by.
    fn queue_manager(&self) -> Scope<'a> {
        let service = self.services.iter().find(|one| one.command == "qmgr");
        Scope { main: self.main, service: service.map(|service| &service.settings) }
    }

    /// A filter that smtpd hands mail to before it is accepted.
    fn proxy_filter(&mut self, scope: Scope<'_>) -> Option<Route> {
        const NAME: &str = "smtpd_proxy_filter";
        let (to, origin) = match scope.value(NAME) {
            Ok(value) if value.text.is_empty() => return None,
            Ok(Value { text, origin }) => {
                let host = text.strip_prefix("inet:").unwrap_or(&text);
                let gate = self.ways.gates.has(host);
                let why = format!("what {NAME} {text} does with it");
                (if gate { Destination::Gate } else { Destination::Unknown { why } }, origin)
            }
            Err(unclear) => (not_known(NAME, &unclear), scope.origin(NAME)),
        };
        Some(Route { test: Test::ALWAYS, to, origin, words: NAME.to_owned() })
    }

    /// What checks and restrictions do before a message is routed.
    fn before_routing(
        &mut self,
        scope: Scope<'a>,
        service: &Service,
        lists: &mut Lists,
        doubts: &mut Vec<Opaque>,
    ) -> Vec<Route> {
        let checks = self.checks(scope);
        let checks = self.plain(checks, doubts);
        let mut restrictions = Vec::new();
        if service.command == "smtpd" {
            restrictions = Restrictions { scope, tables: &mut self.tables, lists }.acted();
        }
        let mut filters = restrictions.iter().filter(|one| matches!(one.act, Act::Filter(_)));
        if filters.next().is_some_and(|first| filters.any(|one| one.act != first.act)) {
            doubts.push(doubt(
                "a FILTER for one recipient takes all recipients of the message along, and of \
                 several the last counts",
            ));
        }
        let helps = |one: &Acted| matches!(one.act, Act::Filter(_) | Act::Refuse);
        if restrictions.iter().any(helps) && self.rewrites() {
            doubts.push(doubt(
                "restrictions see addresses as the client wrote them, before aliases and canonical \
                 maps rewrite them",
            ));
        }
        let acted = checks::in_order(checks, restrictions);
        acted.into_iter().map(|one| self.act(one)).collect()
    }

    /// Are addresses rewritten when a message is queued?
    fn rewrites(&self) -> bool {
        let scope = Scope { main: self.main, service: None };
        let parameters = [
            "virtual_alias_maps",
            "canonical_maps",
            "recipient_canonical_maps",
            "sender_canonical_maps",
            "masquerade_domains",
        ];
        let is_empty = |name| scope.value(name).is_ok_and(|value| value.text.is_empty());
        !parameters.into_iter().all(is_empty)
    }

    fn checks(&mut self, scope: Scope<'a>) -> Vec<Acted> {
        let options = scope.value("receive_override_options");
        if options.is_ok_and(|options| Service::has_word(&options.text, "no_header_body_checks")) {
            return Vec::new();
        }
        let cleanup = self.scope_of(scope, "cleanup_service_name");
        let kinds = [
            ("header_checks", Looks::Header),
            ("mime_header_checks", Looks::Parts),
            ("nested_header_checks", Looks::Parts),
            ("body_checks", Looks::Body),
        ];
        let mut acted: Vec<Acted> = Vec::new();
        let header = cleanup.value("header_checks").map(|value| value.text).unwrap_or_default();
        for (parameter, looks) in kinds {
            match cleanup.value(parameter) {
                // By default, tables for fields of the message are asked for those of parts too:
                // messages within a message are left out.
                Ok(value) if looks == Looks::Parts && value.text == header => {}
                Ok(value) => {
                    let tables = self.tables.all(&value.text, &value.origin);
                    let findings = &mut self.ways.findings;
                    acted.extend(checks::acted(parameter, &tables, looks, findings));
                }
                Err(unclear) => acted.push(Acted {
                    test: ask::opaque(format!("{parameter} finds a line ({unclear})")),
                    act: Act::Unknown(format!("{parameter}: {unclear}")),
                    origin: cleanup.origin(parameter),
                    words: parameter.to_owned(),
                }),
            }
        }
        acted
    }

    /// Checks see fields as they are written, and patterns do not meet what is written in encoded words
    /// (RFC 2047): they may fail to refuse mail, or to send it to the gate; and they may send
    /// elsewhere what they meet by chance.
    fn plain(&mut self, mut checks: Vec<Acted>, doubts: &mut Vec<Opaque>) -> Vec<Acted> {
        const PLAIN: &str = "the field is not written in encoded words (RFC 2047)";
        for one in &mut checks {
            let helps = match &one.act {
                Act::Refuse => true,
                Act::Filter(way) => self.filter(way, &one.origin) == Destination::Gate,
                Act::Redirect(_) | Act::Unknown(_) => continue,
            };
            if helps {
                one.test = ask::all(vec![one.test.clone(), ask::opaque(PLAIN)]);
            } else if doubts.is_empty() {
                doubts.push(doubt("a FILTER may meet a field by how it is encoded (RFC 2047)"));
            }
        }
        checks
    }

    /// Where mail goes to which something happened.
    fn act(&mut self, acted: Acted) -> Route {
        let Acted { test, act, origin, words } = acted;
        let to = match act {
            Act::Refuse => Destination::Nowhere,
            Act::Redirect(to) => {
                Destination::Unknown { why: format!("it is redirected to {to}, whoever that is") }
            }
            Act::Filter(way) => self.filter(&way, &origin),
            Act::Unknown(why) => Destination::Unknown { why },
        };
        Route { test, to, origin, words }
    }

    fn content_filter(&mut self, scope: Scope<'_>) -> Option<Route> {
        const NAME: &str = "content_filter";
        let value = match scope.value(NAME) {
            Ok(value) if value.text.is_empty() => return None,
            value => value,
        };
        let origin = scope.origin(NAME);
        let (to, words) = match value {
            Ok(Value { text, .. }) => {
                let to = self.filter(&text, &origin);
                if to == Destination::Gate {
                    let words = "what local(8) forwards (aliases, .forward) and what Postfix writes \
                                 itself passes no content_filter: it goes by its addresses";
                    let mend = "let relayhost or transport_maps lead to the gate, too";
                    self.note(Severity::Warning, words.to_owned(), &origin, mend);
                }
                (to, format!("{NAME} = {text}"))
            }
            Err(unclear) => (not_known(NAME, &unclear), NAME.to_owned()),
        };
        Some(Route { test: Test::ALWAYS, to, origin, words })
    }

    /// Where a filter leads.
    fn filter(&mut self, way: &str, origin: &Origin) -> Destination {
        let mut way = Way::parse(way);
        if way.next_hop.is_empty() {
            match self.queue_manager().value("default_filter_nexthop") {
                Ok(value) => way.next_hop = value.text,
                Err(unclear) => return not_known("default_filter_nexthop", &unclear),
            }
        }
        self.ways.destination(&way, origin)
    }

    /// What becomes of mail that is routed by its addresses.
    fn routed(&mut self, lists: &mut Lists) -> Vec<Route> {
        let scope = self.scope_of(self.queue_manager(), "rewrite_service_name");
        let (tables, findings) = (&mut self.tables, &mut Vec::new());
        let choices = Routing { scope, tables, lists, findings: &mut *findings }.choices();
        self.ways.findings.append(findings);
        choices.into_iter().map(|choice| self.route(choice)).collect()
    }

    fn route(&mut self, choice: Choice) -> Route {
        let Choice { test, way, class, origin, words } = choice;
        let to = match way {
            Turn::Refused => Destination::Nowhere,
            Turn::Unknown(why) => Destination::Unknown { why },
            Turn::Known(way) => {
                let words = format!("{}:{}", way.transport, way.next_hop);
                let is_pipe = |one: &Service| one.name == way.transport && one.command == "pipe";
                match (self.ways.destination(&way, &origin), class) {
                    (Destination::Unknown { .. }, Class::Ours)
                        if self.services.iter().any(is_pipe) =>
                    {
                        Destination::Here
                    }
                    (Destination::Elsewhere { host }, Class::Ours) => Destination::Inside { host },
                    (Destination::Elsewhere { host }, Class::Other) => {
                        Destination::Elsewhere { host: format!("{host} ({words})") }
                    }
                    (to, _) => to,
                }
            }
        };
        Route { test, to, origin, words }
    }
}

impl Reader<'_> {
    /// What is beside the routes.
    fn look_around(&mut self) {
        let beside = [
            ("luser_relay", Severity::Warning, "mail for users that are not known here goes there"),
            (
                "fallback_transport",
                Severity::Warning,
                "mail for users that are not known here goes there, past the gate",
            ),
            (
                "fallback_transport_maps",
                Severity::Warning,
                "mail for users that are not known here goes there, past the gate",
            ),
            (
                "mailbox_transport",
                Severity::Note,
                "local mail is delivered by it; it was not looked at",
            ),
            (
                "mailbox_transport_maps",
                Severity::Note,
                "local mail is delivered by it; it was not looked at",
            ),
            (
                "smtpd_milters",
                Severity::Note,
                "a milter can change recipients and fields; it was not looked at",
            ),
            (
                "non_smtpd_milters",
                Severity::Note,
                "a milter can change recipients and fields; it was not looked at",
            ),
            (
                "multi_instance_directories",
                Severity::Warning,
                "other instances of Postfix were not looked at",
            ),
        ];
        let scope = Scope { main: self.main, service: None };
        for (parameter, severity, what) in beside {
            // Some refer to what is known only when mail is delivered ($user).
            let written = scope.written(parameter);
            let value = scope.value(parameter).map_or(written, |value| value.text);
            if !value.is_empty() {
                let words = format!("{parameter} = {value}: {what}");
                self.note(severity, words, &scope.origin(parameter), "is that meant?");
            }
        }
    }

    fn name_stray(&mut self, stray: &Stray) {
        let line: String = stray.text.chars().take(80).collect();
        let words = format!("this line is not understood: {line:?}");
        self.note(Severity::Error, words, &stray.origin, "mend it; postfix check names it too");
    }

    fn note(&mut self, severity: Severity, words: String, origin: &Origin, mend: &str) {
        let (origin, mend) = (origin.clone(), mend.to_owned());
        self.ways.findings.push(Finding { severity, words, origin, mend });
    }

    /// All findings, each once, the worst first.
    fn findings(self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for finding in self.tables.findings.into_iter().chain(self.ways.findings) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }
}

impl Gates {
    /// Is a gate at this `host:port`?
    fn has(&self, name: &str) -> bool {
        let at = |gate: &SocketAddr| gate.to_string() == name;
        self.forward.iter().any(at) || self.names.iter().any(|known| known == name)
    }
}

fn doubt(what: &str) -> Opaque {
    Opaque { text: what.to_owned(), what: what.to_owned() }
}

fn not_known(parameter: &str, unclear: &Unclear) -> Destination {
    Destination::Unknown { why: format!("{parameter}: {unclear}") }
}
