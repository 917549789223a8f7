//! Words and grammar of SMTP (RFC 5321): parse, print, decide.
//!
//! Nothing here does I/O, reads a clock, starts a task or keeps a global; every function is total on
//! any bytes. The package knows nothing of holding: it says what was said on the wire.
//!
//! Code map, in reading order:
//!
//! | file | what |
//! |---|---|
//! | `limits` | sizes and time-outs of RFC 5321 §4.5.3 |
//! | `address` | domains, mailboxes, reverse-paths, forward-paths |
//! | `xtext` | the encoding of RFC 3461 §4, for DSN parameters and XFORWARD |
//! | `envelope` | one reverse-path, one or more forward-paths, their parameters |
//! | `extension` | EHLO keywords as a set; what we may offer given what the next hops offer |
//! | `reply` | replies: parse, print, severity |
//! | `own_replies` | the replies we send ourselves |
//! | `command` | commands: parse one line, print one line |
//! | `xforward` | what we tell the next hop of our client |
//! | `line` | where a command line ends |
//! | `data` | where mail data ends; dot stuffing |
//! | `header` | a look at the header on the way through; nothing is rewritten |
//! | `trace` | our `Received:` field |
//! | `server` | state machine of the receiving side |
//! | `client` | state machine of the sending side |
//!
//! Invariants: only CRLF ends a line, only CRLF.CRLF ends mail data, and each is recognised by one
//! piece of code; what is parsed is printed back byte for byte (a source route excepted, RFC 5321
//! §3.6.1 and appendix C).

#![forbid(unsafe_code)]

mod address;
mod client;
mod command;
mod data;
mod envelope;
mod extension;
mod header;
pub mod limits;
mod line;
mod own_replies;
mod reply;
mod server;
mod trace;
mod xforward;
mod xtext;

pub use address::{AddressError, Domain, ForwardPath, Mailbox, ReversePath};
pub use client::{Client, Owed, Unexpected};
pub use command::{ClientName, Command, CommandError, encode_mail, encode_rcpt};
pub use data::{DataFault, DataScanner, END_OF_DATA, Scan, stuff, unstuff};
pub use envelope::{
    Envelope, EnvelopeError, MailParameters, Notify, Parameter, RcptParameters, Recipient, Ret,
    Sender,
};
pub use extension::{
    Extension, Extensions, TRACE_ALLOWANCE, XforwardAttribute, XforwardAttributes,
};
pub use header::{HeaderPeek, PROBE_FIELD, PgpMarks};
pub use line::{CommandFramer, Framed, LineFault};
pub use reply::{Code, EnhancedCode, Reply, ReplyError, ReplyLimits, Severity, parse_reply};
pub use server::{Server, State, Step};
pub use trace::{Protocol, Trace};
pub use xforward::{Xforward, XforwardSource};
pub use xtext::{xtext_decode, xtext_encode};
