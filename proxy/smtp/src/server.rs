//! State machine of the receiving side: which command may come now (RFC 5321 §4.1.4), for a relay
//! whose answers may come from a next hop.
//!
//! Invariants: every state has an answer to every command; no transaction has mail data without an
//! accepted MAIL and an accepted RCPT; EHLO, HELO, RSET and the end of mail data end a transaction.
//!
//! Pipelining (RFC 2920): RCPT may be judged while the answer to MAIL or to a former RCPT is still
//! awaited from the next hop; it is then taken for accepted. Every other command must wait until all
//! answers are in: ask [`Server::must_wait`] before [`Server::step`]. Answers are told in order by
//! [`Server::mail_answered`] and [`Server::rcpt_answered`]. A reply that `step` gives itself must not
//! overtake the replies that are awaited.
//!
//! Not here: limits on recipients, sizes and errors; whether TLS is required; replies of greeting.

use crate::command::Command;
use crate::envelope::Recipient;
use crate::reply::Reply;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No EHLO or HELO yet.
    Start,
    /// Greeted; no transaction.
    Ready,
    /// MAIL was sent on or accepted; counts of its recipients.
    Transaction {
        /// MAIL was accepted, and not only sent on.
        confirmed: bool,
        /// MAIL carried SMTPUTF8.
        smtputf8: bool,
        /// RCPT accepted.
        accepted: usize,
        /// RCPT refused.
        refused: usize,
    },
    /// DATA was sent on or accepted; mail data is coming or about to.
    Data,
}

/// What the session has to do about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Give this reply; nothing else changes.
    Reply(Reply),
    /// Answer EHLO (`extended`) or HELO, and drop the transaction, if there was one.
    Greet {
        /// EHLO: offer extensions. HELO: offer none.
        extended: bool,
        /// A transaction was ended by it (RFC 5321 §4.1.4).
        in_transaction: bool,
    },
    /// Begin a transaction; tell the answer by [`Server::mail_answered`].
    BeginMail,
    /// Add the recipient; tell the answer by [`Server::rcpt_answered`].
    Rcpt,
    /// Ask for mail data; tell the answer by [`Server::data_answered`].
    Data,
    /// Reply 250 and drop the transaction, if there was one.
    Reset {
        /// A transaction was ended by it.
        in_transaction: bool,
    },
    /// Reply 220 and do the handshake; then call [`Server::tls_started`].
    StartTls,
    /// Reply 221 and close.
    Quit,
}

/// The receiving side of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    state: State,
    /// The client said EHLO and not HELO.
    extended: bool,
    /// Answers to MAIL and RCPT that are awaited.
    awaited: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A session that was just greeted with 220.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Start, extended: false, awaited: 0 }
    }

    /// Where the session stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether the client said EHLO: only then extensions are offered and their parameters allowed.
    #[must_use]
    pub const fn extended(&self) -> bool {
        self.extended
    }

    /// Whether a transaction is open, up to the end of mail data.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        matches!(self.state, State::Transaction { .. } | State::Data)
    }

    /// Recipients accepted in this transaction so far.
    #[must_use]
    pub const fn accepted(&self) -> usize {
        match self.state {
            State::Transaction { accepted, .. } => accepted,
            _ => 0,
        }
    }

    /// Answers that are awaited.
    #[must_use]
    pub const fn awaited(&self) -> usize {
        self.awaited
    }

    /// Whether all answers must be in before this command can be judged.
    #[must_use]
    pub const fn must_wait(&self, command: &Command) -> bool {
        self.awaited > 0 && !matches!(command, Command::Rcpt(_))
    }

    /// Judges a command and goes to the next state. Total and pure: no I/O, no clock. DATA while
    /// answers are awaited counts only recipients that were accepted already.
    pub fn step(&mut self, command: &Command) -> Step {
        match command {
            Command::Noop => Step::Reply(Reply::OK),
            Command::Vrfy => Step::Reply(Reply::VRFY),
            Command::Help => Step::Reply(Reply::HELP),
            Command::Quit => Step::Quit,
            Command::Ehlo(_) => self.greet(true),
            Command::Helo(_) => self.greet(false),
            Command::Rset => self.reset(),
            Command::StartTls => match self.state {
                State::Ready => Step::StartTls,
                State::Start => Step::Reply(Reply::NEED_HELLO),
                State::Transaction { .. } | State::Data => Step::Reply(Reply::BAD_SEQUENCE),
            },
            Command::Mail(sender) => self.mail(sender.parameters.smtputf8()),
            Command::Rcpt(recipient) => self.rcpt(recipient),
            Command::Data => self.data(),
        }
    }

    fn greet(&mut self, extended: bool) -> Step {
        let in_transaction = self.in_transaction();
        self.extended = extended;
        self.state = State::Ready;
        Step::Greet { extended, in_transaction }
    }

    fn reset(&mut self) -> Step {
        let in_transaction = self.in_transaction();
        if in_transaction {
            self.state = State::Ready;
        }
        Step::Reset { in_transaction }
    }

    fn mail(&mut self, smtputf8: bool) -> Step {
        match self.state {
            State::Start => Step::Reply(Reply::NEED_HELLO),
            State::Ready => {
                let confirmed = false;
                self.state = State::Transaction { confirmed, smtputf8, accepted: 0, refused: 0 };
                self.awaited += 1;
                Step::BeginMail
            }
            State::Transaction { .. } | State::Data => Step::Reply(Reply::BAD_SEQUENCE),
        }
    }

    fn rcpt(&mut self, recipient: &Recipient) -> Step {
        match &mut self.state {
            State::Start => Step::Reply(Reply::NEED_HELLO),
            State::Ready => Step::Reply(Reply::NEED_MAIL),
            State::Data => Step::Reply(Reply::BAD_SEQUENCE),
            State::Transaction { smtputf8: false, refused, .. } if !is_ascii(recipient) => {
                *refused += 1;
                Step::Reply(Reply::NONASCII_WITHOUT_SMTPUTF8)
            }
            State::Transaction { .. } => {
                self.awaited += 1;
                Step::Rcpt
            }
        }
    }

    fn data(&mut self) -> Step {
        match self.state {
            State::Start => Step::Reply(Reply::NEED_HELLO),
            State::Ready => Step::Reply(Reply::NEED_MAIL),
            State::Data => Step::Reply(Reply::BAD_SEQUENCE),
            State::Transaction { confirmed: true, accepted: 1.., .. } => {
                self.state = State::Data;
                Step::Data
            }
            State::Transaction { refused: 1.., .. } => Step::Reply(Reply::NO_VALID_RECIPIENTS),
            State::Transaction { .. } => Step::Reply(Reply::NEED_RCPT),
        }
    }

    /// The answer to MAIL. A refusal ends the transaction; answers to RCPT that were pipelined behind
    /// it are still awaited, and count for nothing.
    pub const fn mail_answered(&mut self, positive: bool) {
        self.awaited = self.awaited.saturating_sub(1);
        if let State::Transaction { confirmed, .. } = &mut self.state {
            if positive {
                *confirmed = true;
            } else {
                self.state = State::Ready;
            }
        }
    }

    /// The answer to the oldest RCPT that awaits one.
    pub const fn rcpt_answered(&mut self, positive: bool) {
        self.awaited = self.awaited.saturating_sub(1);
        if let State::Transaction { accepted, refused, .. } = &mut self.state {
            if positive {
                *accepted += 1;
            } else {
                *refused += 1;
            }
        }
    }

    /// The answer to DATA: 354 or not. A refusal ends the transaction here; at the next hop it must
    /// be ended by RSET.
    pub fn data_answered(&mut self, started: bool) {
        if self.state == State::Data && !started {
            self.state = State::Ready;
        }
    }

    /// Mail data has ended and was answered, whatever the answer (RFC 5321 §4.1.1.4).
    pub fn data_ended(&mut self) {
        if self.state == State::Data {
            self.state = State::Ready;
        }
    }

    /// The transaction, if any, was ended by us. Answers that were awaited will not be told.
    pub const fn aborted(&mut self) {
        self.awaited = 0;
        if self.in_transaction() {
            self.state = State::Ready;
        }
    }

    /// The handshake is done: everything said before is forgotten (RFC 3207 §4.2).
    pub const fn tls_started(&mut self) {
        *self = Self::new();
    }
}

/// Whether RCPT can be sent on without SMTPUTF8.
fn is_ascii(recipient: &Recipient) -> bool {
    let values = recipient.parameters.iter().filter_map(|parameter| parameter.value.as_deref());
    recipient.path.is_ascii() && values.into_iter().all(str::is_ascii)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::extension::Extensions;
    use proptest::prelude::*;

    fn command(line: &str) -> Command {
        let offered = Extensions::from_words("SMTPUTF8 STARTTLS DSN");
        Command::parse(line.as_bytes(), &offered).unwrap()
    }

    fn step(server: &mut Server, line: &str) -> Step {
        server.step(&command(line))
    }

    /// A session after EHLO.
    fn ready() -> Server {
        let mut server = Server::new();
        step(&mut server, "EHLO a");
        server
    }

    /// A session whose MAIL was accepted.
    fn with_sender() -> Server {
        let mut server = ready();
        step(&mut server, "MAIL FROM:<a@b>");
        server.mail_answered(true);
        server
    }

    #[test]
    fn a_transaction_goes_from_mail_to_the_end_of_mail_data() {
        let mut server = with_sender();
        assert_eq!(step(&mut server, "RCPT TO:<c@d>"), Step::Rcpt);
        server.rcpt_answered(true);
        assert_eq!(step(&mut server, "DATA"), Step::Data);
        server.data_answered(true);
        assert_eq!(step(&mut server, "MAIL FROM:<a@b>"), Step::Reply(Reply::BAD_SEQUENCE));
        server.data_ended();
        assert_eq!(step(&mut server, "MAIL FROM:<a@b>"), Step::BeginMail);
    }

    #[test]
    fn commands_out_of_order_get_503() {
        let mut server = Server::new();
        for line in ["MAIL FROM:<a@b>", "RCPT TO:<a@b>", "DATA", "STARTTLS"] {
            assert_eq!(step(&mut server, line), Step::Reply(Reply::NEED_HELLO), "{line}");
        }
        let mut server = ready();
        for line in ["RCPT TO:<a@b>", "DATA"] {
            assert_eq!(step(&mut server, line), Step::Reply(Reply::NEED_MAIL), "{line}");
        }
        let mut server = with_sender();
        for line in ["MAIL FROM:<a@b>", "STARTTLS"] {
            assert_eq!(step(&mut server, line), Step::Reply(Reply::BAD_SEQUENCE), "{line}");
        }
        assert_eq!(step(&mut server, "DATA"), Step::Reply(Reply::NEED_RCPT));
    }

    #[test]
    fn data_after_refused_recipients_only_gets_554() {
        let mut server = with_sender();
        step(&mut server, "RCPT TO:<c@d>");
        server.rcpt_answered(false);
        assert_eq!(step(&mut server, "DATA"), Step::Reply(Reply::NO_VALID_RECIPIENTS));
        step(&mut server, "RCPT TO:<e@f>");
        server.rcpt_answered(true);
        assert_eq!(step(&mut server, "DATA"), Step::Data);
    }

    #[test]
    fn a_refused_mail_leaves_no_transaction() {
        let mut server = ready();
        assert_eq!(step(&mut server, "MAIL FROM:<a@b>"), Step::BeginMail);
        assert_eq!(step(&mut server, "RCPT TO:<c@d>"), Step::Rcpt, "pipelined");
        server.mail_answered(false);
        assert_eq!(server.awaited(), 1, "the reply to RCPT is still to come");
        server.rcpt_answered(true);
        assert_eq!(step(&mut server, "DATA"), Step::Reply(Reply::NEED_MAIL));
        assert_eq!(step(&mut server, "RCPT TO:<c@d>"), Step::Reply(Reply::NEED_MAIL));
    }

    #[test]
    fn only_rcpt_may_be_judged_before_the_answers_are_in() {
        let mut server = ready();
        assert!(!server.must_wait(&command("MAIL FROM:<a@b>")));
        step(&mut server, "MAIL FROM:<a@b>");
        assert!(!server.must_wait(&command("RCPT TO:<c@d>")));
        for line in ["DATA", "RSET", "NOOP", "QUIT", "EHLO a", "MAIL FROM:<a@b>"] {
            assert!(server.must_wait(&command(line)), "{line}");
        }
        server.mail_answered(true);
        assert!(!server.must_wait(&command("DATA")));
    }

    #[test]
    fn rset_ehlo_and_helo_end_a_transaction_and_say_so() {
        let in_transaction = true;
        let mut server = with_sender();
        assert_eq!(step(&mut server, "RSET"), Step::Reset { in_transaction });
        assert_eq!(server.state(), State::Ready);
        for (line, extended) in [("EHLO a", true), ("HELO a", false)] {
            let mut server = with_sender();
            assert_eq!(step(&mut server, line), Step::Greet { extended, in_transaction });
            assert_eq!((server.state(), server.extended()), (State::Ready, extended));
        }
        let mut server = Server::new();
        assert_eq!(step(&mut server, "RSET"), Step::Reset { in_transaction: false });
        assert_eq!(server.state(), State::Start, "RSET is no greeting");
    }

    #[test]
    fn non_ascii_recipients_need_smtputf8_on_mail() {
        let mut server = with_sender();
        let refusal = Step::Reply(Reply::NONASCII_WITHOUT_SMTPUTF8);
        assert_eq!(step(&mut server, "RCPT TO:<m\u{fc}ller@b>"), refusal);
        assert_eq!(step(&mut server, "RCPT TO:<a@b> ORCPT=utf-8;m\u{fc}ller@b"), refusal);
        assert_eq!(step(&mut server, "DATA"), Step::Reply(Reply::NO_VALID_RECIPIENTS));
        let mut server = ready();
        step(&mut server, "MAIL FROM:<a@b> SMTPUTF8");
        assert_eq!(step(&mut server, "RCPT TO:<m\u{fc}ller@b>"), Step::Rcpt);
    }

    #[test]
    fn a_refused_data_ends_the_transaction() {
        let mut server = with_sender();
        step(&mut server, "RCPT TO:<c@d>");
        server.rcpt_answered(true);
        step(&mut server, "DATA");
        server.data_answered(false);
        assert_eq!(server.state(), State::Ready);
    }

    #[test]
    fn tls_forgets_the_greeting() {
        let mut server = ready();
        assert_eq!(step(&mut server, "STARTTLS"), Step::StartTls);
        server.tls_started();
        assert_eq!(step(&mut server, "MAIL FROM:<a@b>"), Step::Reply(Reply::NEED_HELLO));
    }

    #[test]
    fn what_needs_no_state_is_answered_in_every_state() {
        for mut server in [Server::new(), ready(), with_sender()] {
            let before = server.clone();
            assert_eq!(step(&mut server, "NOOP"), Step::Reply(Reply::OK));
            assert_eq!(step(&mut server, "VRFY a"), Step::Reply(Reply::VRFY));
            assert_eq!(step(&mut server, "HELP"), Step::Reply(Reply::HELP));
            assert_eq!(step(&mut server, "QUIT"), Step::Quit);
            assert_eq!(server, before);
        }
    }

    proptest! {
        /// Goal: mail data is asked for only with an accepted MAIL and an accepted RCPT.
        /// Method: any commands and any answers, with an independent count of what was accepted.
        #[test]
        fn mail_data_needs_an_accepted_sender_and_recipient(
            moves in proptest::collection::vec((0_usize..8, any::<bool>()), 0..40),
        ) {
            let lines = ["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "RSET"];
            let mut server = Server::new();
            let (mut sender, mut recipients) = (false, 0);
            for (choice, answer) in moves {
                // RCPT and DATA more often than the rest.
                let line = lines[[0, 1, 2, 2, 2, 3, 3, 4][choice]];
                match step(&mut server, line) {
                    Step::Greet { .. } | Step::Reset { .. } => (sender, recipients) = (false, 0),
                    Step::BeginMail => {
                        prop_assert!(!sender);
                        server.mail_answered(answer);
                        (sender, recipients) = (answer, 0);
                    }
                    Step::Rcpt => {
                        prop_assert!(sender);
                        server.rcpt_answered(answer);
                        recipients += usize::from(answer);
                    }
                    Step::Data => {
                        prop_assert!(sender && recipients > 0);
                        server.data_answered(answer);
                        server.data_ended();
                        (sender, recipients) = (false, 0);
                    }
                    other => prop_assert!(matches!(other, Step::Reply(_))),
                }
                prop_assert_eq!(server.in_transaction(), sender);
                prop_assert_eq!(server.accepted(), recipients);
                prop_assert_eq!(server.awaited(), 0);
            }
        }
    }
}
