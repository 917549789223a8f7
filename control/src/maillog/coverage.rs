//! What of a log is known: how much was read and understood, what is missing, and when it last lived.
//!
//! Invariants
//! - A line that was not understood is counted and shown in samples, never passed over.
//! - Liveness is by our clock: when octets came, not what they say of the time.
//!
//! Not here: what follows from it for a verdict (`drain::verdict`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Line;
use crate::moment::Moment;

/// Samples of lines that were not understood.
const SAMPLES_MAX: usize = 8;

/// Characters of a sample.
const SAMPLE_LENGTH: usize = 300;

/// Holes that are kept by name.
const HOLES_MAX: usize = 200;

/// Milliseconds of an hour: how finely lines are counted over time.
const HOUR_MS: i64 = 3_600_000;

/// Lines that were not understood whose place among stamps is kept.
const STRANGE_MAX: usize = 1000;

/// How far ahead of ours the clock of a log may be, in milliseconds.
const CUT_MS: i64 = 3_600_000;

/// Hours that are counted apart: forty days.
const HOURS_MAX: usize = 960;

/// Lines that are missing, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// When we heard of it, by our clock.
    pub heard: Moment,
    /// When it was, as the log says.
    pub at: Option<Moment>,
    /// How many, where it is said.
    pub lines: Option<u64>,
    /// Why.
    pub why: String,
}

/// Lines of one hour, by our clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hour {
    from: Moment,
    lines: u64,
    unparsed: u64,
}

/// How many lines, and how many of them were not understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// All.
    pub read: u64,
    /// Not understood.
    pub unparsed: u64,
}

/// See the head of this file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Since it is read.
    pub total: Lines,
    /// Lines whose stamp is unsure: they prove nothing of a time.
    pub unsure: u64,
    hours: VecDeque<Hour>,
    samples: VecDeque<String>,
    missing: VecDeque<Missing>,
    /// How many more there were, and when the last of them was heard of.
    missing_more: Option<(u64, Moment)>,
    /// What is read was handed in.
    #[serde(skip)]
    handing_in: bool,
    /// The stamp of the last line that had one.
    last_stamp: Option<Moment>,
    /// The stamps before and behind lines that were not understood, where there are any, and the latest of those that are not
    /// kept any more.
    strange: VecDeque<(Option<Moment>, Option<Moment>)>,
    /// See there.
    strange_more: Option<Moment>,
    /// Earliest and latest stamp.
    pub span: Option<(Moment, Moment)>,
    /// When the last line came as it was written, by our clock.
    pub alive: Option<Moment>,
}

impl Coverage {
    /// Takes what a line says. `raw` is the line itself.
    pub fn line(&mut self, line: &Line<'_>, raw: &[u8], now: Moment) {
        let stamp = match line {
            Line::Event(event) => event.at,
            Line::Quiet(at) => *at,
            Line::Hole(hole) => {
                let at = hole.at.map(|at| Moment::of_nanos(at.earliest()));
                self.missing(Missing { heard: now, at, lines: hole.lines, why: hole.text.into() });
                hole.at
            }
            Line::Unparsed => {
                self.unparsed(raw, now);
                None
            }
        };
        let Some(stamp) = stamp else { return };
        let earliest = Moment::of_nanos(stamp.earliest());
        let latest = Moment::of_nanos(stamp.latest());
        self.unsure += u64::from(stamp.earliest() != stamp.latest());
        self.last_stamp = Some(latest);
        self.stranger_before(latest);
        let (from, to) = self.span.unwrap_or((earliest, latest));
        self.span = Some((from.min(earliest), to.max(latest)));
    }

    /// Counts a line that was read, whatever it says; `live`: as it was written. A file that is handed in was alive when it
    /// was exported, and nobody says when that was.
    pub fn read(&mut self, now: Moment, live: bool) {
        self.total.read += 1;
        if live {
            self.alive = Some(now);
        }
        self.hour(now).lines += 1;
    }

    fn hour(&mut self, now: Moment) -> &mut Hour {
        let from = Moment(now.0 - now.0.rem_euclid(HOUR_MS));
        if self.hours.back().is_none_or(|hour| hour.from < from) {
            if self.hours.len() >= HOURS_MAX {
                self.hours.pop_front();
            }
            self.hours.push_back(Hour { from, lines: 0, unparsed: 0 });
        }
        let last = self.hours.len() - 1;
        &mut self.hours[last]
    }

    fn unparsed(&mut self, raw: &[u8], now: Moment) {
        self.total.unparsed += 1;
        if self.strange.len() >= STRANGE_MAX
            && let Some((_, before)) = self.strange.pop_front()
        {
            self.strange_more = self.strange_more.max(before.or(Some(now)));
        }
        self.strange.push_back((self.last_stamp, None));
        self.hour(now).unparsed += 1;
        let text = String::from_utf8_lossy(raw.trim_ascii_end());
        let sample: String = text.chars().take(SAMPLE_LENGTH).collect();
        // The first few and the last few: what is new shows, and what began it stays.
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.remove(SAMPLES_MAX / 2);
        }
        self.samples.push_back(sample);
    }

    /// What was not understood since the last stamp was written before this.
    fn stranger_before(&mut self, stamp: Moment) {
        for (_, before) in self.strange.iter_mut().rev().take_while(|(_, before)| before.is_none())
        {
            *before = Some(stamp);
        }
    }

    /// What follows does not stand behind what was read last, which was written before `now`: a file that is handed in begins,
    /// or ends.
    pub fn cut(&mut self, now: Moment, handing_in: bool) {
        self.handing_in = handing_in;
        self.stranger_before(now.plus(CUT_MS));
        self.last_stamp = None;
    }

    /// Lines may be missing.
    pub fn missing(&mut self, missing: Missing) {
        // A file that is handed in again tells the same once more.
        let same = |known: &Missing| {
            (known.at, known.lines, &known.why) == (missing.at, missing.lines, &missing.why)
        };
        if self.handing_in && self.missing.iter().any(same) {
            return;
        }
        if self.missing.len() >= HOLES_MAX
            && let Some(oldest) = self.missing.pop_front()
        {
            let (count, until) = self.missing_more.unwrap_or_default();
            self.missing_more = Some((count + 1, until.max(oldest.heard)));
        }
        self.missing.push_back(missing);
    }

    /// Lines read since `from`, to the hour.
    #[must_use]
    pub fn since(&self, from: Moment) -> Lines {
        let hours = self.hours.iter().filter(|hour| hour.from.plus(HOUR_MS) > from);
        hours.fold(Lines::default(), |sum, hour| Lines {
            read: sum.read + hour.lines,
            unparsed: sum.unparsed + hour.unparsed,
        })
    }

    /// What is missing and was heard of since `from`.
    pub fn missing_since(&self, from: Moment) -> impl Iterator<Item = &Missing> {
        self.missing.iter().filter(move |missing| missing.heard >= from)
    }

    /// How many are not kept by name any more, if some of these were heard of since `from`.
    #[must_use]
    pub fn missing_more(&self, from: Moment) -> u64 {
        self.missing_more.filter(|(_, until)| *until >= from).map_or(0, |(count, _)| count)
    }

    /// Was every line understood that was stamped between these, by the log's clock?
    #[must_use]
    pub fn is_understood(&self, from: Moment, to: Moment) -> bool {
        let within = |(after, before): &(Option<Moment>, Option<Moment>)| {
            after.is_none_or(|after| after <= to) && before.is_none_or(|before| before >= from)
        };
        self.strange_more.is_none_or(|until| until < from) && !self.strange.iter().any(within)
    }

    /// At most so many samples, those that were read last.
    #[must_use]
    pub fn last_samples(&self, most: usize) -> Vec<String> {
        let skip = self.samples.len().saturating_sub(most.min(SAMPLES_MAX / 2));
        self.samples.iter().skip(skip).cloned().collect()
    }

    /// Samples of lines that were not understood: the first and the last.
    pub fn samples(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Clock, Dialect, Frame, Reader};
    use super::*;
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    fn read(coverage: &mut Coverage, text: &str, now: i64) {
        let around: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let mut clock = Clock::new(Frame { zone: TimeZone::UTC, around });
        let mut reader = Reader::new(Dialect::Postfix);
        for line in text.lines() {
            coverage.read(Moment(now), true);
            reader.read(line.as_bytes(), &mut clock, &mut |said| {
                coverage.line(&said, line.as_bytes(), Moment(now));
            });
        }
    }

    #[test]
    fn lines_that_are_not_understood_are_counted_and_shown() {
        let mut coverage = Coverage::default();
        let quiet = "Nov 24 10:00:00 mx postfix/qmgr[1]: 4B00FF: removed\n";
        read(&mut coverage, &(quiet.repeat(3) + "what is this\n"), 5);
        assert_eq!(coverage.total, Lines { read: 4, unparsed: 1 });
        assert_eq!(coverage.samples().collect::<Vec<_>>(), ["what is this"]);
        for number in 0..50 {
            read(&mut coverage, &format!("strange {number}"), 6);
        }
        let samples: Vec<_> = coverage.samples().collect();
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert_eq!((samples[0], samples[SAMPLES_MAX - 1]), ("what is this", "strange 49"));
    }

    #[test]
    fn a_hole_is_told_once_by_a_file_handed_in_twice_and_each_time_by_a_log_that_is_followed() {
        let hole = || Missing { heard: Moment(5), at: None, lines: Some(3), why: "lost".into() };
        let mut coverage = Coverage::default();
        for (handing_in, holes) in [(true, 1), (false, 3)] {
            coverage.cut(Moment(4), handing_in);
            coverage.missing(hole());
            coverage.missing(hole());
            assert_eq!(coverage.missing_since(Moment(0)).count(), holes);
        }
    }

    #[test]
    fn counts_go_back_only_as_far_as_is_asked() {
        let mut coverage = Coverage::default();
        read(&mut coverage, "strange", 10);
        read(&mut coverage, "Nov 24 10:00:00 mx postfix/qmgr[1]: 4B00FF: removed", 3 * HOUR_MS);
        assert_eq!(coverage.since(Moment(2 * HOUR_MS)), Lines { read: 1, unparsed: 0 });
        assert_eq!(coverage.since(Moment(0)), Lines { read: 2, unparsed: 1 });
        assert_eq!(coverage.alive, Some(Moment(3 * HOUR_MS)));
        let ten = Moment::parse("2026-11-24T10:00:00Z").unwrap();
        assert_eq!(coverage.span, Some((ten, ten)));
    }

    #[test]
    fn a_notice_of_dropped_lines_is_something_missing() {
        let mut coverage = Coverage::default();
        let notice =
            "Nov 24 10:00:00 mx systemd-journald[1]: Suppressed 7 messages from mail.slice";
        read(&mut coverage, notice, 10);
        let missing: Vec<_> = coverage.missing_since(Moment(10)).collect();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].lines, Some(7));
        assert!(coverage.missing_since(Moment(11)).next().is_none());
    }
}
