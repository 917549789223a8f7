//! Ids that a next hop gives to a message and names in its reply.
//!
//! Each MTA words it in its own way; what none of the known wordings fits has no id, which costs
//! a link between two logs and proves nothing.

use super::QueueId;

/// The id in a reply to the end of mail data.
pub(super) fn next_id(reply: &str) -> Option<QueueId<'_>> {
    // Postfix, and others that word it alike. A content filter quotes the reply of its own next
    // hop at the end, and that is the id under which the message goes on.
    if let Some(at) = rfind(reply, "ueued as ") {
        return id_at_start(reply.get(at + 9..)?);
    }
    // Exim
    if let Some(at) = rfind(reply, "OK id=") {
        return id_at_start(reply.get(at + 6..)?);
    }
    // Sendmail and OpenSMTPD
    if let Some(at) = rfind(reply, " Message accepted for delivery") {
        let word = reply.get(..at)?.rsplit([' ', '(']).next()?;
        let looks = word.len() >= 6 && word.bytes().any(|octet| octet.is_ascii_digit());
        return id_at_start(word).filter(|id| looks && id.0 == word && !word.contains('.'));
    }
    // Exchange: the internal-message-id of its tracking log.
    if let Some(at) = rfind(reply, "[InternalId=") {
        return id_at_start(reply.get(at + 12..)?);
    }
    // Our own.
    let at = rfind(reply, "held as ")?;
    id_at_start(reply.get(at + 8..)?)
}

fn rfind(text: &str, mark: &str) -> Option<usize> {
    memchr::memmem::rfind(text.as_bytes(), mark.as_bytes())
}

fn id_at_start(text: &str) -> Option<QueueId<'_>> {
    let end = text
        .bytes()
        .position(|octet| !octet.is_ascii_alphanumeric() && !matches!(octet, b'-' | b'_'))
        .unwrap_or(text.len());
    text.get(..end).filter(|id| !id.is_empty() && id.len() <= 64).map(QueueId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_the_wordings_of_many_servers() {
        for (reply, id) in [
            ("250 2.0.0 Ok: queued as 5B5A83818C6", Some("5B5A83818C6")),
            ("250 2.0.0 from MTA(smtp:[::1]:10025): 250 2.0.0 Ok: queued as 4Bn", Some("4Bn")),
            ("250 OK id=1RwtK9-0004SS-Fm", Some("1RwtK9-0004SS-Fm")),
            ("n6BKjb0S009609 Message accepted for delivery", Some("n6BKjb0S009609")),
            ("250 2.0.0: f6e94209 Message accepted for delivery", Some("f6e94209")),
            ("250 2.0.0 Message accepted for delivery", None),
            ("250 2.6.0 <a@b> [InternalId=438, Hostname=x] Queued mail for delivery", Some("438")),
            ("250 2.0.0 held as 001K0XH3KE6S2", Some("001K0XH3KE6S2")),
            ("ok 1247345138 qp 26344", None),
            ("250 2.0.0 OK  1562385708 z11si6726563wmb.62 - gsmtp", None),
            ("queued as ", None),
        ] {
            assert_eq!(next_id(reply), id.map(QueueId), "{reply}");
        }
    }
}
