//! State machine of the sending side: which reply is owed, and whether the connection may serve again
//! (RFC 5321 §4.2, §4.3; RFC 2920).
//!
//! Invariants: a reply belongs to the oldest command that awaits one; a reply nobody awaits, or one
//! that cannot answer its command, taints the connection for good; so do 421 and any 5yz. A tainted
//! connection is never used for another transaction, for what it says next may belong to the last.
//!
//! Not here: sockets, deadlines, the pool.

use std::collections::VecDeque;

use crate::reply::{Reply, Severity};

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owed {
    /// The connection itself.
    Greeting,
    /// EHLO.
    Ehlo,
    /// HELO.
    Helo,
    /// STARTTLS.
    StartTls,
    /// XFORWARD.
    Xforward,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The end of mail data.
    EndOfData,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

/// A reply that does not belong here. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// Nothing awaits a reply.
    #[error("a reply that nothing awaits")]
    Unasked,
    /// A reply of that severity cannot answer this: 354 to anything but DATA, 2yz to DATA.
    #[error("a reply that cannot answer {0:?}")]
    Impossible(Owed),
}

/// The sending side of one connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// What awaits a reply, oldest first.
    owed: VecDeque<Owed>,
    /// EHLO or HELO was accepted.
    greeted: bool,
    /// MAIL was accepted, and neither RSET nor the end of mail data was answered since.
    in_transaction: bool,
    /// 421, a 5yz or something unexpected was seen.
    tainted: bool,
    /// 421 was seen: the next hop closes the connection.
    closing: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A connection on which the greeting is awaited.
    #[must_use]
    pub fn new() -> Self {
        Self {
            owed: VecDeque::from([Owed::Greeting]),
            greeted: false,
            in_transaction: false,
            tainted: false,
            closing: false,
        }
    }

    /// Notes that something was sent which will be answered. [`Owed::EndOfData`] only once the last
    /// octet was handed over, and with no octet of the next hop unread: a reply that came before it
    /// cannot be the answer (it is [`Unexpected::Unasked`]).
    pub fn sent(&mut self, what: Owed) {
        self.owed.push_back(what);
    }

    /// Takes a reply and says what it answers.
    ///
    /// # Errors
    /// [`Unexpected`] where it answers nothing; the connection is tainted.
    pub fn reply(&mut self, reply: &Reply) -> Result<Owed, Unexpected> {
        if reply.code() == 421 {
            self.closing = true;
        }
        if reply.code() == 421 || reply.is_permanent() {
            self.tainted = true;
        }
        let Some(owed) = self.owed.pop_front() else {
            self.tainted = true;
            return Err(Unexpected::Unasked);
        };
        if !can_answer(owed, reply.severity()) {
            self.tainted = true;
            return Err(Unexpected::Impossible(owed));
        }
        self.note(owed, reply);
        Ok(owed)
    }

    /// What a reply changes.
    fn note(&mut self, owed: Owed, reply: &Reply) {
        match owed {
            Owed::Ehlo | Owed::Helo if reply.is_positive() => {
                self.greeted = true;
                self.in_transaction = false;
            }
            // RFC 3207 §4.2: EHLO must be said again.
            Owed::StartTls if reply.is_positive() => self.greeted = false,
            Owed::Mail if reply.is_positive() => self.in_transaction = true,
            Owed::Rset if reply.is_positive() => self.in_transaction = false,
            Owed::EndOfData => self.in_transaction = false,
            _ => {}
        }
    }

    /// What the next reply will answer.
    #[must_use]
    pub fn next_owed(&self) -> Option<Owed> {
        self.owed.front().copied()
    }

    /// How many replies are awaited.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether the end of mail data was sent and its answer is awaited: if the connection is lost
    /// now, nobody knows who has the message.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        self.owed.contains(&Owed::EndOfData)
    }

    /// Whether a transaction is open at the next hop, so that RSET must come before another MAIL.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether the next hop said 421 and is about to close.
    #[must_use]
    pub const fn closing(&self) -> bool {
        self.closing
    }

    /// Marks the connection as not to be used again: a reset, a time-out, octets that were no reply.
    pub const fn taint(&mut self) {
        self.tainted = true;
    }

    /// Whether another transaction may begin on the connection: greeted, nothing owed, no transaction
    /// open, and neither 421 nor 5yz nor anything unexpected seen. The caller also has to know that
    /// no octet is unread.
    #[must_use]
    pub fn reusable(&self) -> bool {
        self.greeted && !self.tainted && !self.in_transaction && self.owed.is_empty()
    }
}

/// RFC 5321 §4.3.2: 3yz answers DATA and nothing else, 2yz everything else.
const fn can_answer(owed: Owed, severity: Severity) -> bool {
    match severity {
        Severity::Positive => !matches!(owed, Owed::Data),
        Severity::Intermediate => matches!(owed, Owed::Data),
        Severity::Transient | Severity::Permanent => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(client: &mut Client, code: u16) -> Result<Owed, Unexpected> {
        client.reply(&Reply::new(code, "x"))
    }

    /// Sends one thing and takes its reply.
    fn exchange(client: &mut Client, what: Owed, code: u16) {
        client.sent(what);
        assert_eq!(reply(client, code), Ok(what));
    }

    /// A connection after EHLO.
    fn greeted() -> Client {
        let mut client = Client::new();
        assert_eq!(reply(&mut client, 220), Ok(Owed::Greeting));
        exchange(&mut client, Owed::Ehlo, 250);
        client
    }

    #[test]
    fn a_whole_transaction_leaves_the_connection_reusable() {
        let mut client = greeted();
        assert!(client.reusable());
        exchange(&mut client, Owed::Xforward, 250);
        exchange(&mut client, Owed::Mail, 250);
        assert!(!client.reusable(), "a transaction is open");
        exchange(&mut client, Owed::Rcpt, 251);
        exchange(&mut client, Owed::Rcpt, 452);
        exchange(&mut client, Owed::Data, 354);
        client.sent(Owed::EndOfData);
        assert!(client.outcome_unknown() && !client.reusable());
        assert_eq!(reply(&mut client, 250), Ok(Owed::EndOfData));
        assert!(!client.outcome_unknown() && client.reusable());
    }

    #[test]
    fn replies_answer_pipelined_commands_in_order() {
        let mut client = greeted();
        for what in [Owed::Mail, Owed::Rcpt, Owed::Rcpt, Owed::Data] {
            client.sent(what);
        }
        assert_eq!(client.owed(), 4);
        for (code, what) in [(250, Owed::Mail), (250, Owed::Rcpt), (450, Owed::Rcpt)] {
            assert_eq!(client.next_owed(), Some(what));
            assert_eq!(reply(&mut client, code), Ok(what));
        }
        assert!(!client.reusable(), "a reply is owed");
        assert_eq!(reply(&mut client, 354), Ok(Owed::Data));
    }

    #[test]
    fn a_reply_nobody_awaits_taints_the_connection() {
        let mut client = greeted();
        assert_eq!(reply(&mut client, 250), Err(Unexpected::Unasked));
        assert!(!client.reusable());
        exchange(&mut client, Owed::Rset, 250);
        assert!(!client.reusable(), "for good");
    }

    #[test]
    fn a_reply_before_the_end_of_mail_data_is_not_its_answer() {
        let mut client = greeted();
        exchange(&mut client, Owed::Mail, 250);
        exchange(&mut client, Owed::Rcpt, 250);
        exchange(&mut client, Owed::Data, 354);
        assert_eq!(reply(&mut client, 250), Err(Unexpected::Unasked));
    }

    #[test]
    fn only_data_is_answered_by_354_and_never_by_250() {
        let mut client = greeted();
        client.sent(Owed::Data);
        assert_eq!(reply(&mut client, 250), Err(Unexpected::Impossible(Owed::Data)));
        for what in [Owed::Mail, Owed::Rcpt, Owed::EndOfData, Owed::Rset, Owed::Quit] {
            let mut client = greeted();
            client.sent(what);
            assert_eq!(reply(&mut client, 354), Err(Unexpected::Impossible(what)));
            assert!(!client.reusable());
        }
    }

    #[test]
    fn after_421_or_any_5yz_the_connection_is_not_reused() {
        for (what, code) in [(Owed::Mail, 421), (Owed::Mail, 550), (Owed::Rset, 500)] {
            let mut client = greeted();
            exchange(&mut client, what, code);
            assert!(!client.reusable(), "{what:?} {code}");
            assert_eq!(client.closing(), code == 421);
        }
        let mut client = greeted();
        exchange(&mut client, Owed::Mail, 450);
        assert!(client.reusable(), "4yz to MAIL opens no transaction and says nothing of the link");
    }

    #[test]
    fn an_open_transaction_must_be_reset_before_reuse() {
        let mut client = greeted();
        exchange(&mut client, Owed::Mail, 250);
        exchange(&mut client, Owed::Data, 451);
        assert!(client.in_transaction() && !client.reusable());
        exchange(&mut client, Owed::Rset, 250);
        assert!(client.reusable());
    }

    #[test]
    fn after_starttls_ehlo_must_be_said_again() {
        let mut client = greeted();
        exchange(&mut client, Owed::StartTls, 220);
        assert!(!client.reusable());
        exchange(&mut client, Owed::Ehlo, 250);
        assert!(client.reusable());
        client.taint();
        assert!(!client.reusable());
    }

    proptest! {
        #[test]
        fn any_replies_to_any_commands_are_survived(
            moves in proptest::collection::vec((0_usize..8, 200_u16..600), 0..40),
        ) {
            use Owed::{Data, Ehlo, EndOfData, Mail, Rcpt, Rset};
            let mut client = Client::new();
            let mut expected = VecDeque::from([Owed::Greeting]);
            let mut bad = false;
            for (choice, code) in moves {
                if let Some(&what) = [Ehlo, Mail, Rcpt, Data, EndOfData, Rset].get(choice) {
                    client.sent(what);
                    expected.push_back(what);
                }
                let oldest = expected.pop_front();
                let answer = reply(&mut client, code);
                prop_assert!(answer.is_err() || answer.ok() == oldest);
                bad |= answer.is_err() || code == 421 || code >= 500;
                prop_assert!(!(bad && client.reusable()));
                prop_assert_eq!(client.owed(), expected.len());
            }
        }
    }
}
