//! One entry of `journalctl -o json` as a line of the classic form.
//!
//! A value there is a text; an array of octets where it is not UTF-8 or not printable; `null`
//! where it is too large; an array of values where the field stands more than once.
//!
//! Invariants
//! - What a process called itself cannot look like another part of the line.
//!
//! Not here: running journalctl (`journald`), what a line says.

use jiff::Timestamp;
use serde::Deserialize;

use crate::maillog::feeds::told::one_line;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its place in the journal.
    pub(crate) cursor: String,
    /// What it says.
    pub(crate) said: Said,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// This line.
    Line(Vec<u8>),
    /// Nothing: it has no message.
    Nothing,
    /// A message that journalctl holds back as too large.
    TooLarge,
}

/// The octets are no entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// No JSON of this form.
    #[error("no entry: {0}")]
    Json(#[from] serde_json::Error),
    /// No time, or an impossible one.
    #[error("no time in it")]
    Time,
}

/// The fields that are read; there are many more.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    realtime: Value,
    #[serde(rename = "_HOSTNAME", default)]
    host: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Value,
    #[serde(rename = "_COMM", default)]
    command: Value,
    #[serde(rename = "SYSLOG_PID", default)]
    syslog_pid: Value,
    #[serde(rename = "_PID", default)]
    pid: Value,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Value {
    #[default]
    #[serde(skip)]
    Absent,
    TooLarge,
    Text(String),
    Octets(Vec<u8>),
    Several(Vec<Self>),
}

impl Value {
    /// The octets; those of several values as lines.
    fn octets(&self) -> Option<Vec<u8>> {
        match self {
            Self::Absent | Self::TooLarge => None,
            Self::Text(text) => Some(text.as_bytes().to_vec()),
            Self::Octets(octets) => Some(octets.clone()),
            Self::Several(values) => {
                let values: Option<Vec<_>> = values.iter().map(Self::octets).collect();
                Some(values?.join(&b'\n'))
            }
        }
    }

    /// The octets of a word: none that would end it.
    fn word(&self) -> Option<Vec<u8>> {
        let octets = self.octets().filter(|octets| !octets.is_empty())?;
        let plain = |octet: u8| match octet {
            b' ' | b'[' | b']' | b':' => b'_',
            _ if octet.is_ascii_control() => b'_',
            _ => octet,
        };
        Some(octets.into_iter().map(plain).collect())
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Entry {
    /// Reads one line of journalctl.
    pub(crate) fn read(json: &[u8]) -> Result<Self, EntryError> {
        let fields: Fields = serde_json::from_slice(json)?;
        let said = match &fields.message {
            Value::Absent => Said::Nothing,
            message => match message.octets() {
                None => Said::TooLarge,
                Some(text) => Said::Line(fields.line(&text).ok_or(EntryError::Time)?),
            },
        };
        Ok(Self { cursor: fields.cursor, said })
    }
}

impl Fields {
    /// `2026-11-24T10:00:00.123456+00:00 host program[pid]: text`
    fn line(&self, text: &[u8]) -> Option<Vec<u8>> {
        let microseconds = i64::try_from(self.realtime.number()?).ok()?;
        let at = Timestamp::from_microsecond(microseconds).ok()?;
        let mut line = at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00 ").to_string().into_bytes();
        line.extend(self.host.word().unwrap_or_else(|| b"-".to_vec()));
        line.push(b' ');
        let program = self.identifier.word().or_else(|| self.command.word());
        line.extend(program.unwrap_or_else(|| b"-".to_vec()));
        if let Some(pid) = self.syslog_pid.number().or_else(|| self.pid.number()) {
            line.extend(format!("[{pid}]").into_bytes());
        }
        line.extend(b": ");
        line.extend(one_line(text));
        Some(line)
    }
}

/// Do two cursors name the same entry?
///
/// Cursors of one entry differ where journald copied it to another file, as it does after a start
/// from `/run` to `/var`: then file and number are others (`s`, `i`), but boot, both clocks and the
/// hash of the content stay (`b`, `m`, `t`, `x`).
pub(crate) fn same_entry(one: &str, other: &str) -> bool {
    one == other
        || content(one).is_some_and(|content_of_one| Some(content_of_one) == content(other))
}

/// When the entry of a cursor was written, in microseconds since 1970.
pub(crate) fn written_us(cursor: &str) -> Option<u64> {
    u64::from_str_radix(part(cursor, "t=")?, 16).ok()
}

fn content(cursor: &str) -> Option<[&str; 4]> {
    Some([part(cursor, "b=")?, part(cursor, "m=")?, part(cursor, "t=")?, part(cursor, "x=")?])
}

fn part<'a>(cursor: &'a str, name: &str) -> Option<&'a str> {
    cursor.split(';').find_map(|part| part.strip_prefix(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<Said, EntryError> {
        let json = format!(
            r#"{{"__CURSOR":"c","__REALTIME_TIMESTAMP":"1795514400123456","_X":[["a"],1],{fields}}}"#
        );
        let entry = Entry::read(json.as_bytes())?;
        assert_eq!(entry.cursor, "c");
        Ok(entry.said)
    }

    fn line(fields: &str) -> String {
        match read(fields).unwrap() {
            Said::Line(line) => String::from_utf8_lossy(&line).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_is_a_line_of_the_classic_form() {
        for (fields, expected) in [
            (
                r#""_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"postfix/smtpd","SYSLOG_PID":"7","_PID":"8","_COMM":"smtpd","MESSAGE":"a: b""#,
                "mx postfix/smtpd[7]: a: b",
            ),
            (r#""_HOSTNAME":"mx","_COMM":"smtpd","_PID":"8","MESSAGE":"a""#, "mx smtpd[8]: a"),
            (r#""_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"x","_PID":"8]","MESSAGE":"a""#, "mx x: a"),
            (r#""MESSAGE":"a""#, "- -: a"),
            (r#""SYSLOG_IDENTIFIER":"","MESSAGE":"""#, "- -: "),
            (r#""MESSAGE":"a\nb\r\n""#, "- -: a#012b"),
            (r#""MESSAGE":[97,10,98,255]"#, "- -: a#012b\u{fffd}"),
            (r#""MESSAGE":["a",[98,255]]"#, "- -: a#012b\u{fffd}"),
            (r#""MESSAGE":[]"#, "- -: "),
            (
                r#""_HOSTNAME":"m x","SYSLOG_IDENTIFIER":"a b[1]: c\n","MESSAGE":"d""#,
                "m_x a_b_1___c_: d",
            ),
        ] {
            let expected = format!("2026-11-24T10:00:00.123456+00:00 {expected}");
            assert_eq!(line(fields), expected, "{fields}");
        }
    }

    #[test]
    fn a_message_that_is_held_back_is_not_nothing() {
        assert_eq!(read(r#""MESSAGE":null"#).unwrap(), Said::TooLarge);
        assert_eq!(read(r#""MESSAGE":["a",null]"#).unwrap(), Said::TooLarge);
        assert_eq!(read(r#""OTHER":"a""#).unwrap(), Said::Nothing);
    }

    #[test]
    fn what_is_no_entry_is_an_error() {
        for json in [
            "",
            "-- Reboot --",
            "{}",
            r#"{"__CURSOR":"c"}"#,
            r#"{"__CURSOR":"c","__REALTIME_TIMESTAMP":"x","MESSAGE":"a"}"#,
            r#"{"__CURSOR":"c","__REALTIME_TIMESTAMP":"18446744073709551615","MESSAGE":"a"}"#,
            r#"{"__CURSOR":"c","__REALTIME_TIMESTAMP":"1","MESSAGE":{"a":1}}"#,
        ] {
            assert!(Entry::read(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_copied_entry_is_the_same_and_another_is_not() {
        let one = "s=ea;i=151;b=3a;m=68;t=6610c7b314a13;x=f1";
        assert!(same_entry(one, one));
        assert!(same_entry(one, "s=ff;i=1;b=3a;m=68;t=6610c7b314a13;x=f1"));
        assert!(!same_entry(one, "s=ea;i=152;b=3a;m=69;t=6610c7b314a13;x=f1"));
        assert!(!same_entry("one", "two"), "words of another form are compared as they are");
        assert_eq!(written_us(one), Some(0x6_610c_7b31_4a13));
        assert_eq!(written_us("one"), None);
    }
}
