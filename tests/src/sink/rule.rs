//! What a scripted next hop can be told to do, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where in a session a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the greeting.
    Banner,
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
    /// The first octets of mail data, even when the final dot came along with them: a message cut
    /// here is not recorded.
    FirstOctets,
    /// In the middle of mail data, when at least one octet of it has come: nothing more is read
    /// while the action lasts, and a reply there comes out of turn.
    Middle,
    /// The final dot.
    End,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

/// What is done instead of accepting.
#[derive(Debug, Clone)]
pub enum Action {
    /// These lines as one reply, without CRLF: `451 4.3.0 later`.
    Reply(Vec<String>),
    /// A reply, then the connection is closed.
    ReplyAndClose(String),
    /// Octets as they are.
    Raw(Vec<u8>),
    /// The usual reply, octet by octet, each in its own segment.
    Split,
    /// The usual reply, after a while.
    Delay(Duration),
    /// The usual reply, once [`Sink::let_go`](super::Sink::let_go) is called.
    Hold,
    /// No reply, ever; the connection stays open.
    Silence,
    /// The connection is closed without a reply.
    Close,
    /// The connection is reset without a reply.
    Reset,
}

/// What a rule may look at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The command line (empty for the greeting and in mail data).
    pub line: &'a str,
    /// The MAIL line of the transaction, if there is one.
    pub mail_line: &'a str,
    /// The RCPT lines accepted so far.
    pub rcpt_lines: &'a [String],
    /// Mail data, at the final dot.
    pub data: &'a [u8],
}

/// At a stage, perhaps only for some transactions or only so many times: an action.
#[derive(Clone)]
pub struct Rule {
    pub(super) stage: Stage,
    pub(super) action: Action,
    pub(super) taking: bool,
    pub(super) times: usize,
    pub(super) when: Arc<dyn Fn(Seen<'_>) -> bool + Send + Sync>,
}

impl Rule {
    /// Always, at this stage.
    #[must_use]
    pub fn at(stage: Stage, action: Action) -> Self {
        Self { stage, action, taking: false, times: usize::MAX, when: Arc::new(|_| true) }
    }

    /// A one-line reply at this stage: `Rule::reply(Stage::Mail, "451 4.3.0 later")`.
    #[must_use]
    pub fn reply(stage: Stage, reply: &str) -> Self {
        Self::at(stage, Action::Reply(vec![reply.to_owned()]))
    }

    /// Only the first `count` times.
    #[must_use]
    pub const fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// Only where the command line, or the envelope of the transaction, contains this text.
    #[must_use]
    pub fn about(self, text: &str) -> Self {
        let text = text.to_owned();
        self.when(move |seen| {
            seen.line.contains(&text)
                || seen.mail_line.contains(&text)
                || seen.rcpt_lines.iter().any(|line| line.contains(&text))
        })
    }

    /// Only where this holds.
    #[must_use]
    pub fn when(mut self, holds: impl Fn(Seen<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.when = Arc::new(holds);
        self
    }

    /// At the final dot: the message is taken although the reply is lost or delayed.
    #[must_use]
    pub const fn taking(mut self) -> Self {
        self.taking = true;
        self
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule {{ at {:?}: {:?} }}", self.stage, self.action)
    }
}
