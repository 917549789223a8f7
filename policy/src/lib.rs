//! What a mail policy does to a message, and where two policies differ.
//!
//! Values and functions only: no I/O, no clock. The server's words are used where they are known;
//! what is not known of it is a named option ([`assume`]) or stays opaque, and then no verdict is
//! given for the mail that it can touch.
//!
//! Code map, in reading order:
//!
//! | module | what |
//! |---|---|
//! | [`origin`] | where in an import something stands |
//! | [`set`] | a policy set: chains, dictionaries, globals |
//! | [`chain`] | chains and rules |
//! | [`dictionary`] | dictionaries |
//! | [`condition`] | what a rule asks |
//! | [`action`] | what a rule does; outcomes, ordered by protection |
//! | [`sample`] | the facts of one message for one recipient |
//! | [`mime`] | the parts of a message, decoded |
//! | [`armour`] | OpenPGP as it is found in mail |
//! | [`protection`] | how a message is protected, seen from outside |
//! | [`message`] | the facts of a message: read from one, and made into one |
//! | [`assume`] | what is not documented, as named options |
//! | [`pattern`] | regular expressions |
//! | [`predicate`] | a condition's question, in a form that two policies share |
//! | [`language`] | which answers a text can give to many questions |
//! | [`program`] | a policy set made ready: what is asked in which order |
//! | [`decide`] | what becomes of one message, and by which rules |
//! | [`space`] | all combinations of answers that messages can give, as a decision diagram |
//! | [`diagram`] | what becomes of all messages at once |
//! | [`parity`] | where two policies differ, with a message that shows it |
//! | [`severity`] | how much a difference or a fault matters |
//! | [`structure`] | how two policies look different, one by one |
//! | [`mirror`] | does an MTA send to the server whatever a policy would protect |
//! | [`reach`] | which mail comes to each rule |
//! | [`findings`] | what is wrong with one policy |
//! | [`selection`] | which messages to send, so that every rule is seen to act |
//! | [`tree`] | an export as it is: the canonical tree of any XML |
//! | [`import`] | policies from files: typed by hand, or exported by a server |
//! | [`observed`] | what a server was seen to do, counted from its logs |

#![forbid(unsafe_code)]

pub mod action;
pub mod armour;
pub mod assume;
pub mod chain;
pub mod condition;
pub mod decide;
pub mod diagram;
pub mod dictionary;
pub mod findings;
pub mod import;
pub mod language;
pub mod message;
pub mod mime;
pub mod mirror;
pub mod observed;
pub mod origin;
pub mod parity;
pub mod pattern;
mod places;
pub mod predicate;
pub mod program;
pub mod protection;
pub mod reach;
pub mod sample;
pub mod selection;
pub mod set;
pub mod severity;
pub mod space;
pub mod structure;
pub mod tree;
