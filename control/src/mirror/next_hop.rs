//! Next hops: what `transport:nexthop` leads to, by the service of that name, held against the
//! addresses of the gates.
//!
//! Invariant: mail is said to go to a gate only where every host that may be tried is one. A name
//! without brackets is looked up for MX records, which may name any host; a relay to fall back on is
//! tried when the gate does not answer, or answers 4yz, as it does when it refuses.
//!
//! Not here: which mail takes which transport (`routing`).

use std::net::{IpAddr, SocketAddr};

use policy::mirror::Destination;
use policy::origin::Origin;

use super::lines::parts;
use super::parameters::{Scope, Settings, Unclear};
use super::services::Service;
use super::{Finding, Gates, Severity};

/// A transport and where it is to send to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) transport: String,
    /// Empty: to the recipient's domain.
    pub(super) next_hop: String,
}

impl Way {
    /// `transport:nexthop`.
    pub(super) fn parse(text: &str) -> Self {
        let (transport, next_hop) = text.split_once(':').unwrap_or((text, ""));
        Self { transport: transport.trim().to_owned(), next_hop: next_hop.trim().to_owned() }
    }
}

/// Follows ways to their ends.
pub(super) struct Ways<'a> {
    pub(super) main: &'a Settings,
    pub(super) services: &'a [Service],
    pub(super) gates: &'a Gates,
    pub(super) findings: Vec<Finding>,
}

/// A host that is tried.
enum Hop {
    Gate,
    Other(String),
    /// It may be a gate, or not.
    Unclear(String),
}

impl Ways<'_> {
    /// Where mail goes that takes this way; `origin` is where that is said.
    pub(super) fn destination(&mut self, way: &Way, origin: &Origin) -> Destination {
        let is_this = |one: &&Service| one.name == way.transport && one.kind != "inet";
        let Some(service) = self.services.iter().find(is_this) else {
            self.note(
                Severity::Warning,
                format!("master.cf has no service {:?}: mail for it waits", way.transport),
                origin,
                "name a service that there is",
            );
            return Destination::Nowhere;
        };
        let scope = Scope { main: self.main, service: Some(&service.settings) };
        match service.command.as_str() {
            "error" | "retry" | "discard" => Destination::Nowhere,
            "local" | "virtual" => Destination::Here,
            "smtp" | "lmtp" => {
                let found = self.sent(scope, service, way, origin);
                found.unwrap_or_else(|unclear| Destination::Unknown {
                    why: format!("a parameter of the service {}: {unclear}", service.name),
                })
            }
            command => Destination::Unknown {
                why: format!("the service {} gives it to {command}", service.name),
            },
        }
    }

    /// Where a service of the SMTP client sends to.
    fn sent(
        &mut self,
        scope: Scope<'_>,
        service: &Service,
        way: &Way,
        origin: &Origin,
    ) -> Result<Destination, Unclear> {
        let lmtp = service.command == "lmtp";
        if lmtp && way.next_hop.starts_with("unix:") {
            return Ok(Destination::Here);
        }
        let looks_up = !lmtp
            && scope.value("disable_dns_lookups")?.text != "yes"
            && scope.value("smtp_dns_support_level")?.text != "disabled";
        let port = scope.value(if lmtp { "lmtp_tcp_port" } else { "smtp_tcp_port" })?.text;
        if way.next_hop.is_empty() {
            let host = "the MX hosts of the recipient's domain".to_owned();
            return Ok(Destination::Elsewhere { host });
        }
        let next_hop = way.next_hop.strip_prefix("inet:").filter(|_| lmtp);
        let mut hops = Vec::new();
        for name in parts(next_hop.unwrap_or(&way.next_hop)) {
            hops.push(self.hop(name, looks_up, &port, origin));
        }
        let first_is_gate = matches!(hops.first(), Some(Hop::Gate));
        if first_is_gate && hops.len() > 1 {
            self.name_second(&hops, origin);
        }
        let fallback = if lmtp { "lmtp_fallback_relay" } else { "smtp_fallback_relay" };
        let fallback = scope.value(fallback)?;
        for name in parts(&fallback.text) {
            let hop = self.hop(name, true, &port, &fallback.origin);
            if let (Hop::Other(host) | Hop::Unclear(host), true) = (&hop, first_is_gate) {
                let words = format!(
                    "smtp_fallback_relay of the service {}: mail goes to {host} when the gate does \
                     not answer, or answers 4yz",
                    service.name
                );
                let mend = format!("-o smtp_fallback_relay= for {} in master.cf", service.name);
                self.note(Severity::Leak, words, &fallback.origin, &mend);
            }
            hops.push(hop);
        }
        Ok(joined(hops))
    }

    fn name_second(&mut self, hops: &[Hop], origin: &Origin) {
        if let Some(Hop::Other(host) | Hop::Unclear(host)) =
            hops.iter().find(|hop| !matches!(hop, Hop::Gate))
        {
            let words =
                format!("a further next hop: mail goes to {host} when the gate does not take it");
            self.note(Severity::Leak, words, origin, "name gates alone");
        }
    }

    /// A host of a list: `host`, `host:port`, `[host]`, `[host]:port`.
    fn hop(&mut self, name: &str, looks_up: bool, default_port: &str, origin: &Origin) -> Hop {
        let (host, port, bracketed) = split(name);
        let port = port.unwrap_or(default_port);
        let at = self.gate_at(host, port);
        if bracketed || !looks_up {
            return match at {
                At::Gate => Hop::Gate,
                At::Perhaps => Hop::Unclear(name.to_owned()),
                At::Other => Hop::Other(name.to_owned()),
            };
        }
        if !matches!(at, At::Other) {
            let words = format!(
                "{name} has no brackets: its MX records decide where mail goes, and they may name \
                 other hosts than the gate"
            );
            self.note(Severity::Leak, words, origin, &format!("write [{host}]:{port}"));
        }
        Hop::Other(format!("the MX hosts of {name}"))
    }

    fn gate_at(&self, host: &str, port: &str) -> At {
        let host =
            host.strip_prefix("ipv6:").or_else(|| host.strip_prefix("IPv6:")).unwrap_or(host);
        let Some(port) = number(port) else { return At::Other };
        let named = |name: &String| {
            let (known, known_port, _) = split(name);
            known.eq_ignore_ascii_case(host) && known_port.and_then(number) == Some(port)
        };
        if self.gates.names.iter().any(named) {
            return At::Gate;
        }
        let ip: Option<IpAddr> = host.parse().ok();
        let loopback =
            ip.is_some_and(|ip| ip.is_loopback()) || host.eq_ignore_ascii_case("localhost");
        let mut at = At::Other;
        for gate in self.gates.forward.iter().filter(|gate| gate.port() == port) {
            if ip.is_some_and(|ip| SocketAddr::new(ip, port) == *gate)
                || (loopback
                    && (gate.ip().is_unspecified() || (ip.is_none() && gate.ip().is_loopback())))
            {
                return At::Gate;
            }
            if gate.ip().is_unspecified() && ip.is_some() {
                at = At::Perhaps;
            }
        }
        at
    }

    fn note(&mut self, severity: Severity, words: String, origin: &Origin, mend: &str) {
        let finding = Finding { severity, words, origin: origin.clone(), mend: mend.to_owned() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Is a gate at an address?
#[derive(Clone, Copy)]
enum At {
    Gate,
    Perhaps,
    Other,
}

/// One word for all hosts that may be tried, in order.
fn joined(hops: Vec<Hop>) -> Destination {
    let mut others = Vec::new();
    let mut unclear = Vec::new();
    let first_is_gate = matches!(hops.first(), Some(Hop::Gate));
    for hop in hops {
        match hop {
            Hop::Gate => {}
            Hop::Other(host) => others.push(host),
            Hop::Unclear(host) => unclear.push(host),
        }
    }
    match (others.is_empty(), unclear.is_empty(), first_is_gate) {
        (true, true, _) => Destination::Gate,
        (true, false, _) => Destination::Unknown {
            why: format!(
                "a gate listens on all addresses, and nobody says whether {} is one of them",
                unclear.join(", ")
            ),
        },
        (false, _, true) => Destination::GateOr { host: others.join(", ") },
        (false, _, false) => Destination::Elsewhere { host: others.join(", ") },
    }
}

/// Host and port, and whether the host stands in brackets.
fn split(name: &str) -> (&str, Option<&str>, bool) {
    if let Some((host, rest)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').filter(|port| !port.is_empty()), true);
    }
    match name.rsplit_once(':') {
        Some((host, port)) => (host, Some(port), false),
        None => (name, None, false),
    }
}

/// A port's number.
pub(super) fn number(port: &str) -> Option<u16> {
    match port {
        "smtp" => Some(25),
        "smtps" | "submissions" | "ssmtp" | "urd" => Some(465),
        "submission" => Some(587),
        "lmtp" => Some(24),
        port => port.parse().ok(),
    }
}
