//! Addresses as logs write them: `<local@domain>` of mail, `name[192.0.2.1]:25` of hosts.
//!
//! Invariant: in an address of mail a quoted local part may hold anything, also what looks like
//! the rest of a log line; the end of the address is looked for behind it.

use std::net::IpAddr;

use super::cut::cut;

/// The longest text that may be an address of a host, with port and zone.
const IP_OCTETS_MAX: usize = 80;

/// An address in angle brackets at the beginning of a text, and what stands behind the bracket.
/// The bracket that closes it is the first behind the local part that one of `next` follows.
pub(super) fn path<'a>(text: &'a str, next: &[&str]) -> Option<(&'a str, &'a str)> {
    let inner = text.strip_prefix('<')?;
    let mut from = quoted_length(inner).unwrap_or(0);
    loop {
        let end = from + memchr::memchr(b'>', inner.as_bytes().get(from..)?)?;
        let behind = inner.get(end + 1..)?;
        if next.iter().any(|next| behind.starts_with(next)) {
            return Some((inner.get(..end)?, behind));
        }
        from = end + 1;
    }
}

/// How long the quoted local part is at the beginning of an address; none when it is not quoted,
/// or when no `@` follows.
pub(super) fn quoted_length(address: &str) -> Option<usize> {
    let bytes = address.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut place = 1;
    loop {
        match bytes.get(place)? {
            b'\\' => place += 2,
            b'"' => break,
            _ => place += 1,
        }
    }
    (bytes.get(place + 1) == Some(&b'@')).then_some(place + 1)
}

/// A word at the beginning of a text, up to a blank; blanks in a quoted local part belong to it,
/// with or without brackets around the address.
pub(super) fn word(text: &str) -> (&str, &str) {
    let bare = text.strip_prefix('<').unwrap_or(text);
    let from = text.len() - bare.len() + quoted_length(bare).unwrap_or(0);
    let end = memchr::memchr(b' ', text.as_bytes().get(from..).unwrap_or_default())
        .map_or(text.len(), |place| from + place);
    (text.get(..end).unwrap_or(text), text.get(end..).unwrap_or("").trim_start_matches(' '))
}

/// The text without angle brackets around it.
pub(super) fn bare(text: &str) -> &str {
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

/// The address of a host as written in `name[192.0.2.1]`, `name [IPv6:2001:db8::1]:25`.
pub(super) fn bracketed_ip(text: &str) -> Option<IpAddr> {
    let open = memchr::memrchr(b'[', text.as_bytes())?;
    let inner = text.get(open + 1..)?;
    ip(inner.get(..memchr::memchr(b']', inner.as_bytes())?)?)
}

/// The address of a host, with or without brackets, port and zone.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if text.len() > IP_OCTETS_MAX {
        return None;
    }
    if let Some(inner) = text.strip_prefix('[') {
        return ip(cut(inner, b']')?.0);
    }
    let text = text.strip_prefix("IPv6:").or_else(|| text.strip_prefix("ipv6:")).unwrap_or(text);
    let text = cut(text, b'%').map_or(text, |(address, _)| address);
    text.parse().ok().or_else(|| {
        let (address, port) = text.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        address.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4)
    })
}
