//! The same answer as table, plain text or JSON.
//!
//! Invariants
//! - In JSON nothing but JSON goes to standard output: one document, or one document a line for a
//!   list. The JSON is the contract; text for people may change.
//! - Text from the network (addresses, replies, Message-IDs) reaches a terminal without control
//!   characters.
//!
//! Not here: what an answer means (`cli`), the wire types (`proxy::api`).

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, presets};
use serde::Serialize;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one document, or one a line for lists.
    Json,
}

/// Where answers go: standard output and standard error, or buffers.
pub struct Out {
    format: Format,
    terminal: bool,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
}

impl Out {
    /// The process's own streams.
    #[must_use]
    pub fn standard(format: Format) -> Self {
        Self {
            format,
            terminal: io::stdout().is_terminal(),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    }

    /// Other streams, never treated as a terminal.
    #[must_use]
    pub fn to(
        format: Format,
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
    ) -> Self {
        Self { format, terminal: false, stdout: Box::new(stdout), stderr: Box::new(stderr) }
    }

    /// The chosen format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// A line for people; nothing in JSON.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.stdout, "{text}"),
            Format::Json => Ok(()),
        }
    }

    /// A line for people on standard error, in either format.
    pub fn warn(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stderr, "{text}")
    }

    /// One answer: a JSON document, or the text that `text` makes of it.
    pub fn document<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.stdout, "{}", text(value).trim_end_matches('\n')),
            Format::Json => self.json_line(value),
        }
    }

    /// A list: one JSON document a line, or the table that `table` makes of it.
    pub fn list<T: Serialize>(
        &mut self,
        items: &[T],
        table: impl FnOnce(&[T]) -> Table,
    ) -> io::Result<()> {
        match self.format {
            Format::Text => {
                let text = table(items).to_text(self.terminal);
                write!(self.stdout, "{text}")
            }
            Format::Json => items.iter().try_for_each(|item| self.json_line(item)),
        }
    }

    /// One document on a line of its own, whatever the format.
    pub fn json_line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.stdout.write_all(b"\n")
    }

    /// Octets as they are (mail data).
    pub fn raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stdout.write_all(octets)
    }

    /// Everything written so far is on its way.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()?;
        self.stderr.flush()
    }
}

/// Rows of text under a head.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is aligned to the right.
    #[must_use]
    pub fn new(columns: &[&'static str]) -> Self {
        Self {
            head: columns.iter().map(|name| name.strip_prefix('>').unwrap_or(name)).collect(),
            numeric: columns.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; control characters in it are replaced.
    pub fn row<I, S>(&mut self, cells: I)
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        self.rows.push(cells.into_iter().map(|cell| clean(cell.as_ref())).collect());
    }

    /// Is there no row?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Ruled on a terminal, aligned by spaces elsewhere; every line ends with a line feed.
    #[must_use]
    pub fn to_text(&self, terminal: bool) -> String {
        if terminal { self.ruled() } else { self.aligned() }
    }

    fn ruled(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(self.head.iter().copied());
        for row in &self.rows {
            table.add_row(row.iter().map(String::as_str));
        }
        for (index, numeric) in self.numeric.iter().enumerate() {
            if *numeric && let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt() + "\n"
    }

    fn aligned(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(self.head.get(column).map_or(0, |name| name.chars().count()))
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for ((cell, width), numeric) in cells.zip(&widths).zip(&self.numeric) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if *numeric {
                    text.push_str(&pad);
                }
                text.push_str(cell);
                if !*numeric {
                    text.push_str(&pad);
                }
                text.push_str("  ");
            }
            text.trim_end().to_owned() + "\n"
        };
        let mut text = line(&mut self.head.iter().map(|name| &**name));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// Text without control characters: what came over the network must not drive a terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    let bidi = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| match c {
            '\t' | '\n' | '\r' => ' ',
            c if c.is_control() || bidi(c) => '?',
            c => c,
        })
        .collect()
}

/// A count with separators: `1,204`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `1,204 messages`.
#[must_use]
pub fn messages(number: u64) -> String {
    counted(number, "message", "messages")
}

/// A count with its noun: `1 try`, `3 tries`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Octets in binary units: `83.2 MiB`.
#[must_use]
pub fn octets(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    #[allow(clippy::cast_precision_loss)]
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in its two largest units: `3h 12m`.
#[must_use]
pub fn seconds(number: f64) -> String {
    if !number.is_finite() || number < 0.0 {
        return "?".to_owned();
    }
    if number < 10.0 {
        return format!("{number:.1}s");
    }
    let Ok(whole) = Duration::try_from_secs_f64(number.round()) else {
        return "for ever".to_owned();
    };
    let (s, m, h) = (whole.as_secs(), whole.as_secs() / 60, whole.as_secs() / 3600);
    match (h / 24, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {}s", s % 60),
        (0, _, _) => format!("{h}h {}m", m % 60),
        (days, _, _) => format!("{days}d {}h", h % 24),
    }
}

/// A time that is still to come, as [`seconds`]; far away it is no number that anybody believes.
#[must_use]
pub fn ahead(number: f64) -> String {
    const FAR: f64 = 30.0 * 86_400.0;
    if number > FAR { "more than a month".to_owned() } else { seconds(number) }
}

/// A time that has gone by, in its largest unit: `35 s`, `3 h`.
#[must_use]
pub fn gone_by(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", count(seconds / 86_400)),
    }
}

/// The serialised name of a value that serialises as a word, such as a mode.
#[must_use]
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sample() -> Table {
        let mut table = Table::new(&["GATE", ">HELD"]);
        table.row(["outbound", "1,204"]);
        table.row(["in", "3"]);
        table
    }

    #[test]
    fn plain_tables_are_aligned_and_carry_no_trailing_spaces() {
        assert_eq!(sample().to_text(false), "GATE       HELD\noutbound  1,204\nin            3\n");
    }

    #[test]
    fn tables_on_a_terminal_hold_every_cell() {
        let text = sample().to_text(true);
        for cell in ["GATE", "HELD", "outbound", "1,204", "in", "3"] {
            assert!(text.contains(cell), "{cell} is missing in {text}");
        }
    }

    #[test]
    fn hostile_text_loses_its_control_characters() {
        let mut table = Table::new(&["FROM"]);
        table.row(["a\u{1b}[2Jb\r\nc\u{202e}d\u{9b}"]);
        assert_eq!(table.to_text(false), "FROM\na?[2Jb  c?d?\n");
    }

    #[test]
    fn json_mode_keeps_human_text_off_standard_output() {
        let (stdout, stderr) = (Buffer::default(), Buffer::default());
        let mut out = Out::to(Format::Json, stdout.clone(), stderr.clone());
        out.say("hello").unwrap();
        out.warn("careful").unwrap();
        out.list(&[1, 2], |_| panic!("no table in JSON")).unwrap();
        out.document(&serde_json::json!({"a": 1}), |_| panic!("no text in JSON")).unwrap();
        assert_eq!(stdout.text(), "1\n2\n{\"a\":1}\n");
        assert_eq!(stderr.text(), "careful\n");
    }

    #[test]
    fn an_empty_list_is_no_line_in_json_and_a_head_in_text() {
        for (format, expected) in [(Format::Json, ""), (Format::Text, "A\n")] {
            let stdout = Buffer::default();
            let mut out = Out::to(format, stdout.clone(), io::sink());
            out.list::<u32>(&[], |_| Table::new(&["A"])).unwrap();
            assert_eq!(stdout.text(), expected);
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204_000), "1,204,000");
        assert_eq!(octets(1023), "1023 B");
        assert_eq!(octets(1024), "1.0 KiB");
        assert_eq!(octets(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(octets(u64::MAX), "16384.0 PiB");
        assert_eq!(seconds(0.25), "0.2s");
        assert_eq!(seconds(59.6), "1m 0s");
        assert_eq!(seconds(11_520.0), "3h 12m");
        assert_eq!(seconds(90_000.0), "1d 1h");
        assert_eq!(seconds(f64::NAN), "?");
        assert_eq!(seconds(1e30), "for ever");
        assert_eq!(messages(1), "1 message");
        assert_eq!(messages(1_204), "1,204 messages");
        assert_eq!(counted(1, "try", "tries"), "1 try");
        assert_eq!(counted(0, "try", "tries"), "0 tries");
    }

    #[test]
    fn times_far_ahead_are_no_numbers() {
        assert_eq!(ahead(11_520.0), "3h 12m");
        assert_eq!(ahead(30.0 * 86_400.0), "30d 0h");
        assert_eq!(ahead(73_094.0 * 86_400.0), "more than a month");
        assert_eq!(ahead(f64::INFINITY), "more than a month");
    }

    #[test]
    fn times_gone_by_have_one_unit() {
        let texts = [35, 119, 120, 7_200, 172_800].map(gone_by);
        assert_eq!(texts, ["35 s", "119 s", "2 min", "2 h", "2 days"]);
    }

    #[test]
    fn words_are_the_names_on_the_wire() {
        assert_eq!(word(&proxy::api::Effect::PauseReplay), "pause replay");
        assert_eq!(word(&proxy::api::Mode::Hold), "hold");
    }
}
