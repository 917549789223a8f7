//! Sizes and time-outs of RFC 5321 §4.5.3 as constants.
//!
//! The sizes are what we accept at least as the standard asks; the time-outs are the client's of
//! §4.5.3.2 and serve as defaults of configuration. Nothing here enforces anything.

use std::time::Duration;

/// Longest command line we take, with its CRLF: eight times the 512 octets of §4.5.3.1.4, because
/// extensions lengthen MAIL and RCPT.
pub const COMMAND_LINE: usize = 4096;

/// Shortest maximum a server must take as a command line, with its CRLF (§4.5.3.1.4).
pub const COMMAND_LINE_MIN: usize = 512;

/// Longest domain (§4.5.3.1.2), in octets.
pub const DOMAIN: usize = 255;

/// Longest line of text in mail data we write ourselves, without its CRLF (§4.5.3.1.6). Lines of
/// others may be of any length: they are passed on in pieces.
pub const TEXT_LINE: usize = 998;

/// Recipients a server must take in one transaction at least (§4.5.3.1.8).
pub const RECIPIENTS_MIN: usize = 100;

/// `Received:` fields from which on mail is taken for looping (§6.3: at least 100).
pub const RECEIVED_MAX: usize = 100;

/// Wait for the 220 greeting (§4.5.3.2.1).
pub const GREETING: Duration = Duration::from_secs(5 * 60);

/// Wait for the reply to EHLO, HELO, STARTTLS or XFORWARD (not named by the standard; as for MAIL).
pub const HELLO: Duration = Duration::from_secs(5 * 60);

/// Wait for the reply to MAIL (§4.5.3.2.2).
pub const MAIL: Duration = Duration::from_secs(5 * 60);

/// Wait for the reply to RCPT (§4.5.3.2.3).
pub const RCPT: Duration = Duration::from_secs(5 * 60);

/// Wait for the 354 to DATA (§4.5.3.2.4).
pub const DATA_INIT: Duration = Duration::from_secs(2 * 60);

/// Wait for one block of mail data to be taken (§4.5.3.2.5).
pub const DATA_BLOCK: Duration = Duration::from_secs(3 * 60);

/// Wait of a client for the reply to the end of mail data (§4.5.3.2.6).
pub const DATA_DONE: Duration = Duration::from_secs(10 * 60);

/// Our wait for the next hop's reply to the end of mail data: less than [`DATA_DONE`], so that our
/// own client is still there to hear that the outcome is unknown.
pub const FINAL_REPLY: Duration = Duration::from_secs(570);

/// Wait of a server for the next command (§4.5.3.2.7).
pub const COMMAND: Duration = Duration::from_secs(5 * 60);
