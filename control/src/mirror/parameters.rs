//! Parameters: what main.cf says, what a service says otherwise, and what Postfix has by itself.
//!
//! Invariants
//! - A value that refers to what is not known here is not known, never empty.
//! - Parameters that refer to one another in a circle, or blow up, end with an error.
//!
//! Not here: what a parameter does (`routing`, `checks`, `restrictions`).

use std::collections::HashMap;

use policy::origin::Origin;

use super::lines::{self, in_braces};

/// How deep values may refer to others; Postfix has such a bound too.
const DEPTH_MAX: u32 = 50;

/// References that are followed for one value.
const STEPS_MAX: u32 = 10_000;

/// Octets of one value.
const VALUE_OCTETS_MAX: usize = 1 << 20;

/// Parameters that matter here, with what they are where nobody says (postconf -d, Postfix 3.9).
/// `myhostname` is not among them: it is the host's.
const DEFAULTS: [(&str, &str); 67] = [
    ("body_checks", ""),
    ("canonical_maps", ""),
    ("cleanup_service_name", "cleanup"),
    ("compatibility_level", "0"),
    ("config_directory", "/etc/postfix"),
    ("content_filter", ""),
    ("default_database_type", "hash"),
    ("default_filter_nexthop", ""),
    ("default_transport", "smtp"),
    ("disable_dns_lookups", "no"),
    ("empty_address_default_transport_maps_lookup_key", "<>"),
    ("empty_address_relayhost_maps_lookup_key", "<>"),
    ("fallback_relay", ""),
    ("fallback_transport", ""),
    ("fallback_transport_maps", ""),
    ("header_checks", ""),
    ("inet_interfaces", "all"),
    ("lmtp_fallback_relay", ""),
    ("lmtp_tcp_port", "24"),
    ("local_transport", "local:$myhostname"),
    ("luser_relay", ""),
    ("masquerade_domains", ""),
    ("mailbox_transport", ""),
    ("mailbox_transport_maps", ""),
    ("mime_header_checks", "$header_checks"),
    ("multi_instance_directories", ""),
    ("mydestination", "$myhostname, localhost.$mydomain, localhost"),
    ("mynetworks", ""),
    ("myorigin", "$myhostname"),
    ("nested_header_checks", "$header_checks"),
    ("non_smtpd_milters", ""),
    (
        "parent_domain_matches_subdomains",
        "debug_peer_list,fast_flush_domains,mynetworks,permit_mx_backup_networks,\
         qmqpd_authorized_clients,relay_domains,smtpd_access_maps",
    ),
    ("proxy_interfaces", ""),
    ("queue_directory", "/var/spool/postfix"),
    ("receive_override_options", ""),
    ("recipient_canonical_maps", ""),
    ("recipient_delimiter", ""),
    ("relay_domains", ""),
    ("relay_transport", "relay"),
    ("relayhost", ""),
    ("rewrite_service_name", "rewrite"),
    ("sender_canonical_maps", ""),
    ("sender_dependent_default_transport_maps", ""),
    ("sender_dependent_relayhost_maps", ""),
    ("service_name", ""),
    ("smtp_dns_support_level", ""),
    ("smtp_fallback_relay", "$fallback_relay"),
    ("smtp_tcp_port", "smtp"),
    ("smtpd_client_restrictions", ""),
    ("smtpd_data_restrictions", ""),
    ("smtpd_end_of_data_restrictions", ""),
    ("smtpd_helo_restrictions", ""),
    ("smtpd_milters", ""),
    ("smtpd_null_access_lookup_key", "<>"),
    ("smtpd_proxy_filter", ""),
    ("smtpd_recipient_restrictions", ""),
    // The default has no table in it, and what it is hangs on the level of compatibility.
    ("smtpd_relay_restrictions", ""),
    ("smtpd_restriction_classes", ""),
    ("smtpd_sender_restrictions", ""),
    ("transport_maps", ""),
    ("virtual_alias_domains", "$virtual_alias_maps"),
    ("virtual_alias_maps", "$virtual_maps"),
    ("virtual_mailbox_domains", "$virtual_mailbox_maps"),
    ("virtual_mailbox_maps", ""),
    ("virtual_maps", ""),
    ("virtual_transport", "virtual"),
    ("syslog_name", "postfix"),
];

/// What is set, by name.
pub(super) type Settings = HashMap<String, Setting>;

/// A value as it is written.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// A value, with what it refers to in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Why a value is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    /// It refers to itself.
    #[error("it refers to itself, or too deep, by ${name}")]
    Circle {
        /// What is referred to.
        name: String,
    },
    /// It blows up.
    #[error("it is too long")]
    Long,
    /// It refers to what is neither set nor known.
    #[error("it refers to ${name}, which main.cf does not set")]
    Unset {
        /// What is referred to.
        name: String,
    },
    /// A form that is not read here.
    #[error("this is not understood: {form}")]
    Form {
        /// The form.
        form: String,
    },
}

/// A line that is no `name = value`.
#[derive(Clone, Debug)]
pub(super) struct Stray {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Reads main.cf: of a name that is set twice, the last counts.
pub(super) fn read(text: &str, file: &str) -> (Settings, Vec<Stray>) {
    let (mut settings, mut strays) = (Settings::new(), Vec::new());
    for line in lines::logical(text, file) {
        match line.text.split_once('=') {
            Some((name, value)) if is_name(name.trim()) => {
                let (text, origin) = (value.trim().to_owned(), line.origin);
                settings.insert(name.trim().to_owned(), Setting { text, origin });
            }
            _ => strays.push(Stray { text: line.text, origin: line.origin }),
        }
    }
    (settings, strays)
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
}

/// What a program of Postfix sees: main.cf, and before it what its service says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) main: &'a Settings,
    pub(super) service: Option<&'a Settings>,
}

impl<'a> Scope<'a> {
    fn setting(&self, name: &str) -> Option<&'a Setting> {
        let own = self.service.and_then(|service| service.get(name));
        own.or_else(|| self.main.get(name))
    }

    /// Where it is set; main.cf as a whole where it is not.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.setting(name).map_or_else(|| Origin::of("main.cf"), |setting| setting.origin.clone())
    }

    /// The value of a parameter as it is written, by main.cf or by default.
    pub(super) fn written(&self, name: &str) -> String {
        let default = DEFAULTS.iter().find(|(known, _)| *known == name);
        match self.setting(name) {
            Some(setting) => setting.text.clone(),
            None => default.map_or_else(String::new, |(_, default)| (*default).to_owned()),
        }
    }

    /// The value of a parameter.
    pub(super) fn value(&self, name: &str) -> Result<Value, Unclear> {
        let mut expansion = Expansion { scope: self, steps: 0 };
        let mut text = String::new();
        expansion.parameter(name, 0, &mut text)?;
        Ok(Value { text: text.trim().to_owned(), origin: self.origin(name) })
    }

    /// The text of a value that is put in place of what it refers to.
    pub(super) fn expand(&self, text: &str) -> Result<String, Unclear> {
        let mut expansion = Expansion { scope: self, steps: 0 };
        let mut expanded = String::new();
        expansion.text(text, 0, &mut expanded)?;
        Ok(expanded.trim().to_owned())
    }
}

struct Expansion<'a> {
    scope: &'a Scope<'a>,
    steps: u32,
}

impl Expansion<'_> {
    fn parameter(&mut self, name: &str, depth: u32, out: &mut String) -> Result<(), Unclear> {
        self.steps += 1;
        if depth > DEPTH_MAX {
            return Err(Unclear::Circle { name: name.to_owned() });
        }
        if self.steps > STEPS_MAX {
            return Err(Unclear::Long);
        }
        if let Some(setting) = self.scope.setting(name) {
            return self.text(&setting.text, depth + 1, out);
        }
        if let Some((_, default)) = DEFAULTS.iter().find(|(known, _)| *known == name) {
            return self.text(default, depth + 1, out);
        }
        if name == "mydomain" {
            // By default what stands behind the first dot of the host's name.
            let mut host = String::new();
            self.parameter("myhostname", depth + 1, &mut host)?;
            out.push_str(host.split_once('.').map_or("localdomain", |(_, domain)| domain));
            return Ok(());
        }
        Err(Unclear::Unset { name: name.to_owned() })
    }

    fn text(&mut self, text: &str, depth: u32, out: &mut String) -> Result<(), Unclear> {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = self.reference(&rest[at + 1..], depth, out)?;
            if out.len() > VALUE_OCTETS_MAX {
                return Err(Unclear::Long);
            }
        }
        out.push_str(rest);
        if out.len() > VALUE_OCTETS_MAX { Err(Unclear::Long) } else { Ok(()) }
    }

    /// Puts in place what a `$` refers to; what stands behind it is left.
    fn reference<'t>(
        &mut self,
        text: &'t str,
        depth: u32,
        out: &mut String,
    ) -> Result<&'t str, Unclear> {
        let form = || Unclear::Form { form: format!("${text}") };
        if let Some(rest) = text.strip_prefix('$') {
            out.push('$');
            return Ok(rest);
        }
        let close = match text.as_bytes().first() {
            Some(b'{') => '}',
            Some(b'(') => ')',
            _ => {
                let other = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
                let end = text.find(other).unwrap_or(text.len());
                if end == 0 {
                    return Err(form());
                }
                self.parameter(&text[..end], depth, out)?;
                return Ok(&text[end..]);
            }
        };
        let end = closing(text, close).ok_or_else(form)?;
        let (inside, rest) = (&text[1..end], &text[end + 1..]);
        self.braced(inside, depth, out)?;
        Ok(rest)
    }

    /// `name`, `name?text`, `name:text`, `name?{text}:{text}`.
    fn braced(&mut self, inside: &str, depth: u32, out: &mut String) -> Result<(), Unclear> {
        let form = || Unclear::Form { form: format!("${{{inside}}}") };
        let other = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
        let end = inside.find(other).unwrap_or(inside.len());
        let (name, rest) = inside.split_at(end);
        if name.is_empty() {
            return Err(form());
        }
        if rest.is_empty() {
            return self.parameter(name, depth, out);
        }
        let mut value = String::new();
        match self.parameter(name, depth, &mut value) {
            // Whether a name that is not set has a default decides here.
            Ok(()) => {}
            Err(unclear) => return Err(unclear),
        }
        let empty = value.is_empty();
        let (operator, text) = rest.split_at(1);
        let (then, otherwise) = branches(text).ok_or_else(form)?;
        match operator {
            "?" if !empty => self.text(then, depth + 1, out),
            "?" => self.text(otherwise, depth + 1, out),
            ":" if empty => self.text(then, depth + 1, out),
            ":" => Ok(()),
            _ => Err(form()),
        }
    }
}

/// `text`, `{text}` or `{text}:{text}`; blanks around a text in braces do not count.
fn branches(text: &str) -> Option<(&str, &str)> {
    if !text.trim_start().starts_with('{') {
        return Some((text, ""));
    }
    let text = text.trim();
    let end = closing(text, '}')?;
    let (first, rest) = (&text[1..end], text[end + 1..].trim_start());
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((first.trim(), "")),
        None => None,
        Some(second) => Some((first.trim(), in_braces(second).unwrap_or(second.trim()))),
    }
}

/// Where the bracket closes that the text begins with.
fn closing(text: &str, close: char) -> Option<usize> {
    let open = if close == '}' { '{' } else { '(' };
    let mut depth = 0_u32;
    for (at, letter) in text.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, name: &str) -> Result<String, Unclear> {
        let (main, _) = read(text, "main.cf");
        Scope { main: &main, service: None }.value(name).map(|value| value.text)
    }

    #[test]
    fn values_refer_to_others_and_to_defaults() {
        let text = "a = x\na = y\nb = $a ${a} $(a)z\nc=${a?yes}${a:no}${e:no}\ne =\n\
                    d = ${e?{ yes } : { no $a }}\nf = $$a\nmyhostname = mx.example.com\n";
        assert_eq!(value(text, "b").unwrap(), "y y yz", "the last counts");
        assert_eq!(value(text, "c").unwrap(), "yesno");
        assert_eq!(value(text, "d").unwrap(), "no y");
        assert_eq!(value(text, "f").unwrap(), "$a");
        assert_eq!(
            value(text, "mydestination").unwrap(),
            "mx.example.com, localhost.example.com, localhost"
        );
        assert_eq!(value("fallback_relay = [x]", "smtp_fallback_relay").unwrap(), "[x]");
    }

    #[test]
    fn what_is_not_known_is_not_empty() {
        let unset = |name: &str| Unclear::Unset { name: name.to_owned() };
        assert_eq!(value("", "mydestination").unwrap_err(), unset("myhostname"));
        assert_eq!(value("a = $strange", "a").unwrap_err(), unset("strange"));
        assert!(matches!(value("a = ${{1} == {2} ? {x}}", "a"), Err(Unclear::Form { .. })));
        assert!(matches!(value("a = ${b", "a"), Err(Unclear::Form { .. })));
        assert!(matches!(value("a = $", "a"), Err(Unclear::Form { .. })));
    }

    #[test]
    fn circles_and_bombs_end() {
        assert!(matches!(value("a = $b\nb = $a", "a"), Err(Unclear::Circle { .. })));
        let mut bomb = "p0 =\nq0 = 0123456789\n".to_owned();
        for number in 1..40 {
            let before = number - 1;
            bomb +=
                &format!("p{number} = $p{before}$p{before}\nq{number} = $q{before}$q{before}\n");
        }
        assert_eq!(value(&bomb, "p39"), Err(Unclear::Long));
        assert_eq!(value(&bomb, "q39"), Err(Unclear::Long));
    }

    #[test]
    fn a_service_goes_before_main_cf_and_refers_to_it() {
        let (main, strays) = read("a = main $b\nb = 1\nnonsense\n", "main.cf");
        assert_eq!(strays.len(), 1);
        let (own, _) = read("b = 2", "master.cf");
        let scope = Scope { main: &main, service: Some(&own) };
        assert_eq!(scope.value("a").unwrap().text, "main 2");
        assert_eq!(scope.origin("b").to_string(), "master.cf:1:1");
    }
}
