//! Stamps: from the text of a log line to a moment.
//!
//! A stamp seldom says all: classic syslog leaves out the year and the zone, others the zone. What
//! is missing comes from a [`Frame`], which the owner of the log states, and is never guessed from
//! the computer that reads.
//!
//! Invariants
//! - Pure: a [`Clock`] remembers only the last hour that it converted; the same frame and text give
//!   the same moment, whatever was read before.
//! - A wall-clock time that daylight saving repeats or skips is [`Stamp::Unsure`], never exact.
//! - A date that does not exist (30 February, 25 o'clock) gives no stamp.
//!
//! Not here: what stands behind the stamp (`syslog` and the dialects).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use serde::Deserialize;

use super::Stamp;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// Nanoseconds of a second.
const NANOS: i128 = 1_000_000_000;

/// How far zones reach from UTC (UTC-12 to UTC+14): the doubt of a stamp whose zone nobody knows.
const WEST_MAX: i64 = 12 * HOUR;

/// See [`WEST_MAX`].
const EAST_MAX: i64 = 14 * HOUR;

/// What the stamps of one log leave out.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The zone of stamps without offset. [`TimeZone::unknown`] makes them all unsure.
    pub zone: TimeZone,
    /// A moment near which the lines were written (now, or the time of the file): a stamp without
    /// year is put into the year that brings it nearest.
    pub around: Timestamp,
}

/// The forms of a stamp that have a name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `2026-11-24T10:00:00.123456+01:00`; the offset may be missing.
    Rfc3339,
    /// `Nov 24 10:00:00`.
    Syslog,
    /// `2015-07-29 12:31:33`, with fraction and ` +0100` where the log has them.
    Exim,
    /// `2014/04/23 17:56:57 +01:00`, an exported log of the encryption server.
    Sems,
    /// `Thu Dec 6, 2012 at 10:52:50 AM +01:00` at the end of a line, copied from its console.
    SemsConsole,
    /// `2022-09-19T15:02:29.450Z`; UTC, whatever the frame says.
    Exchange,
}

/// Turns stamps into moments, quickly: it remembers the offset of the hour it saw last.
#[derive(Clone, Debug)]
pub struct Clock {
    frame: Frame,
    /// `frame.around` as seconds of the wall clock.
    around: i64,
    /// The wall-clock hour that was converted last, and its offset.
    hour: Option<(i64, Turn)>,
    /// Month, day and hour of the last stamp without year, and the wall clock at its beginning.
    yearless: Option<((u32, u32, i64), Option<i64>)>,
}

/// How the wall clock of one hour relates to UTC.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// This many seconds ahead, during the whole hour.
    Fixed(i64),
    /// The offset changes in this hour: each time is looked up.
    Changes,
    /// The zone is not known.
    Unknown,
}

/// A time of day as read: seconds since midnight where it exists, nanoseconds, octets used.
#[derive(Clone, Copy)]
struct Daytime {
    seconds: Option<i64>,
    nanos: u32,
    used: usize,
}

/// What a stamp says of its zone.
enum Zone {
    /// Nothing.
    Missing,
    /// Seconds ahead of UTC.
    Offset(i64),
    /// An offset that does not exist.
    Impossible,
}

/// A stamp as read, if it exists, and the text behind (or, for the console, before) it.
pub type Read<'a> = (Option<Stamp>, &'a str);

impl Clock {
    /// A clock for one log.
    #[must_use]
    pub fn new(frame: Frame) -> Self {
        let around = wall_of(&frame.zone, frame.around);
        Self { frame, around, hour: None, yearless: None }
    }

    /// Says near which moment the next lines were written. Worth calling for every few thousand
    /// lines or once a day of the log, not for every line.
    pub fn set_around(&mut self, around: Timestamp) {
        self.frame.around = around;
        self.around = wall_of(&self.frame.zone, around);
        self.yearless = None;
    }

    /// The frame in force.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Reads a stamp of this form. `None`: the text has another form; a stamp of `None`: the form
    /// is right but the date does not exist.
    pub fn read<'a>(&mut self, form: Form, text: &'a str) -> Option<Read<'a>> {
        match form {
            Form::Rfc3339 | Form::Exim => self.iso(text),
            Form::Syslog => self.syslog(text),
            Form::Sems => self.sems(text),
            Form::SemsConsole => self.sems_console(text),
            Form::Exchange => self.exchange(text),
        }
    }

    /// RFC 3339, and Exim's form of it with a blank before time and offset.
    pub fn iso<'a>(&mut self, text: &'a str) -> Option<Read<'a>> {
        self.dated(text, b'-')
    }

    /// The exported form of the encryption server.
    pub fn sems<'a>(&mut self, text: &'a str) -> Option<Read<'a>> {
        self.dated(text, b'/')
    }

    /// Exchange: UTC, also where the `Z` is missing.
    pub fn exchange<'a>(&mut self, text: &'a str) -> Option<Read<'a>> {
        let (wall, nanos, zone, used) = dated(text.as_bytes(), b'-')?;
        let stamp = match (wall, zone) {
            (Some(wall), Zone::Missing) => Some(exact(wall, nanos)),
            (Some(wall), Zone::Offset(offset)) => Some(exact(wall - offset, nanos)),
            _ => None,
        };
        Some((stamp, text.get(used..)?))
    }

    /// Classic syslog (RFC 3164): neither year nor zone; the day padded with a blank, or not at
    /// all.
    pub fn syslog<'a>(&mut self, text: &'a str) -> Option<Read<'a>> {
        let bytes = text.as_bytes();
        let month = month_of(bytes.get(..3)?)?;
        let (day, before) = day_of(bytes.get(3..)?)?;
        let time = daytime(bytes.get(3 + before..)?)?;
        let used = 3 + before + time.used;
        let stamp = time
            .seconds
            .and_then(|seconds| self.in_nearest_year(month, day, seconds))
            .map(|wall| self.placed(wall, time.nanos));
        Some((stamp, text.get(used..)?))
    }

    /// The stamp at the end of a line copied from the console of the encryption server, and the
    /// text before it. Where the copy lost AM or PM the stamp is unsure.
    pub fn sems_console<'a>(&mut self, line: &'a str) -> Option<Read<'a>> {
        let line = line.trim_end();
        let at = line.rfind(" at ")?;
        let (date, time) = (line.get(..at)?, line.get(at + 4..)?);
        let (before, year) = last_word(date)?;
        let (before, day) = last_word(before)?;
        let (before, month) = last_word(before)?;
        let (before, weekday) = last_word(before)?;
        let year = number(year.as_bytes()).filter(|_| year.len() == 4)?;
        let day = number(day.strip_suffix(',')?.as_bytes()).filter(|_| day.len() <= 3)?;
        let month = month_of(month.as_bytes())?;
        let weekday = weekday_of(weekday)?;
        let time = daytime(time.as_bytes()).map(|read| (read, time.get(read.used..)))?;
        let (time, rest) = (time.0, time.1?.trim_start());
        let (half, rest) = half_of_day(rest);
        let zone = match rest {
            "" => Zone::Missing,
            rest => {
                let (zone, used) = zone_of(rest.as_bytes());
                (used == rest.len()).then_some(zone)?
            }
        };
        let days = days_of(year, month, day).filter(|days| weekday_on(*days) == weekday);
        let stamp = match (days, time.seconds) {
            (Some(days), Some(seconds)) => self.console(days, seconds, half, &zone),
            _ => None,
        };
        Some((stamp, before.trim_end()))
    }

    /// Reads a stamp by a strptime-like format; the whole text is the stamp.
    #[must_use]
    pub fn formatted(&mut self, format: &str, text: &str) -> Option<Stamp> {
        let broken = BrokenDownTime::parse(format, text).ok()?;
        // It tells an offset, or counts seconds.
        if let Ok(moment) = broken.to_timestamp() {
            return Some(Stamp::Exact(moment.as_nanosecond()));
        }
        let time = broken.to_time().ok()?;
        let seconds = i64::from(time.hour()) * HOUR
            + i64::from(time.minute()) * 60
            + i64::from(time.second());
        let nanos = u32::try_from(time.subsec_nanosecond()).ok()?;
        let wall = match broken.to_date() {
            Ok(date) => {
                let year = u32::try_from(date.year()).ok()?;
                let (month, day) = (u32::try_from(date.month()).ok()?, date.day());
                days_of(year, month, u32::try_from(day).ok()?)? * DAY + seconds
            }
            Err(_) if broken.year().is_none() => {
                let month = u32::try_from(broken.month()?).ok()?;
                self.in_nearest_year(month, u32::try_from(broken.day()?).ok()?, seconds)?
            }
            Err(_) => return None,
        };
        Some(match broken.offset() {
            // Without a year; the offset counts all the same.
            Some(offset) => exact(wall - i64::from(offset.seconds()), nanos),
            None => self.placed(wall, nanos),
        })
    }

    fn dated<'a>(&mut self, text: &'a str, separator: u8) -> Option<Read<'a>> {
        let (wall, nanos, zone, used) = dated(text.as_bytes(), separator)?;
        let stamp = match (wall, zone) {
            (Some(wall), Zone::Offset(offset)) => Some(exact(wall - offset, nanos)),
            (Some(wall), Zone::Missing) => Some(self.placed(wall, nanos)),
            _ => None,
        };
        Some((stamp, text.get(used..)?))
    }

    fn console(&mut self, days: i64, seconds: i64, half: Half, zone: &Zone) -> Option<Stamp> {
        let twelve = seconds.rem_euclid(12 * HOUR);
        let (first, last) = match half {
            _ if matches!(zone, Zone::Impossible) => return None,
            Half::Morning | Half::Afternoon if !(HOUR..13 * HOUR).contains(&seconds) => {
                return None;
            }
            Half::Morning => (twelve, twelve),
            Half::Afternoon => (twelve + 12 * HOUR, twelve + 12 * HOUR),
            // An hour that only a clock of 24 hours shows.
            Half::Missing if !(HOUR..13 * HOUR).contains(&seconds) => (seconds, seconds),
            Half::Missing => (twelve, twelve + 12 * HOUR),
        };
        let mut place = |seconds: i64| match zone {
            Zone::Offset(offset) => exact(days * DAY + seconds - offset, 0),
            _ => self.placed(days * DAY + seconds, 0),
        };
        let (first, last) = (place(first), place(last));
        Some(if first == last {
            first
        } else {
            Stamp::Unsure { earliest: first.earliest(), latest: last.latest() }
        })
    }

    /// The wall clock of a stamp without year: in the year that brings it nearest to the frame's
    /// moment.
    fn in_nearest_year(&mut self, month: u32, day: u32, seconds: i64) -> Option<i64> {
        let key = (month, day, seconds / HOUR);
        let start = match self.yearless {
            Some((known, start)) if known == key => start,
            _ => {
                let start = nearest(self.around, month, day, seconds / HOUR * HOUR);
                self.yearless = Some((key, start));
                start
            }
        };
        start.map(|start| start + seconds % HOUR)
    }

    /// The moment of a wall-clock time in the frame's zone.
    fn placed(&mut self, wall: i64, nanos: u32) -> Stamp {
        let hour = wall.div_euclid(HOUR);
        let turn = match self.hour {
            Some((known, turn)) if known == hour => turn,
            _ => {
                let turn = turn_of(&self.frame.zone, hour);
                self.hour = Some((hour, turn));
                turn
            }
        };
        match turn {
            Turn::Fixed(offset) => exact(wall - offset, nanos),
            Turn::Changes => looked_up(&self.frame.zone, wall, nanos),
            Turn::Unknown => unsure(wall - EAST_MAX, wall + WEST_MAX, nanos),
        }
    }
}

/// Which half of the day a console stamp means.
#[derive(Clone, Copy)]
enum Half {
    Morning,
    Afternoon,
    Missing,
}

fn half_of_day(text: &str) -> (Half, &str) {
    let (half, rest) = if let Some(rest) = text.strip_prefix("AM") {
        (Half::Morning, rest)
    } else if let Some(rest) = text.strip_prefix("PM") {
        (Half::Afternoon, rest)
    } else {
        (Half::Missing, text)
    };
    (half, rest.trim_start())
}

fn exact(seconds: i64, nanos: u32) -> Stamp {
    Stamp::Exact(i128::from(seconds) * NANOS + i128::from(nanos))
}

fn unsure(earliest: i64, latest: i64, nanos: u32) -> Stamp {
    let nanos = i128::from(nanos);
    Stamp::Unsure {
        earliest: i128::from(earliest) * NANOS + nanos,
        latest: i128::from(latest) * NANOS + nanos,
    }
}

/// The wall clock, in seconds since 1970, that a moment shows in this zone.
fn wall_of(zone: &TimeZone, moment: Timestamp) -> i64 {
    moment.as_second() + i64::from(zone.to_offset(moment).seconds())
}

fn turn_of(zone: &TimeZone, hour: i64) -> Turn {
    if zone.is_unknown() {
        return Turn::Unknown;
    }
    let at = |wall| match offset_at(zone, wall) {
        Some(AmbiguousOffset::Unambiguous { offset }) => Some(offset),
        _ => None,
    };
    match (at(hour * HOUR), at(hour * HOUR + HOUR - 1)) {
        (Some(first), Some(last)) if first == last => Turn::Fixed(i64::from(first.seconds())),
        _ => Turn::Changes,
    }
}

fn looked_up(zone: &TimeZone, wall: i64, nanos: u32) -> Stamp {
    let less = |offset: Offset| wall - i64::from(offset.seconds());
    match offset_at(zone, wall) {
        Some(AmbiguousOffset::Unambiguous { offset }) => exact(less(offset), nanos),
        Some(AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after }) => {
            let (one, other) = (less(before), less(after));
            unsure(one.min(other), one.max(other), nanos)
        }
        None => unsure(wall - EAST_MAX, wall + WEST_MAX, nanos),
    }
}

fn offset_at(zone: &TimeZone, wall: i64) -> Option<AmbiguousOffset> {
    let wall: DateTime = TimeZone::UTC.to_datetime(Timestamp::from_second(wall).ok()?);
    Some(zone.to_ambiguous_timestamp(wall).offset())
}

/// The wall clock of this day and time in the year that brings it nearest to `around`.
fn nearest(around: i64, month: u32, day: u32, seconds: i64) -> Option<i64> {
    let year = i64::from(year_of(around.div_euclid(DAY)));
    let near = |reach: i64| {
        (year - reach..=year + reach)
            .filter_map(|year| days_of(u32::try_from(year).ok()?, month, day))
            .map(|days| days * DAY + seconds)
            .min_by_key(|wall| (wall - around).abs())
    };
    // 29 February may be eight years away (1896, 1904).
    near(1).or_else(|| near(8))
}

/// A date with separators, a time, perhaps an offset: wall clock where it exists, nanoseconds,
/// zone, octets used.
fn dated(bytes: &[u8], separator: u8) -> Option<(Option<i64>, u32, Zone, usize)> {
    let (date, between) = (bytes.get(..10)?, *bytes.get(10)?);
    let &[y1, y2, y3, y4, s1, m1, m2, s2, d1, d2] = date else { return None };
    if s1 != separator || s2 != separator || !matches!(between, b'T' | b't' | b' ') {
        return None;
    }
    let year = number(&[y1, y2, y3, y4])?;
    let days = days_of(year, number(&[m1, m2])?, number(&[d1, d2])?);
    let time = daytime(bytes.get(11..)?)?;
    let (zone, more) = zone_of(bytes.get(11 + time.used..)?);
    let wall = days.and_then(|days| Some(days * DAY + time.seconds?));
    Some((wall, time.nanos, zone, 11 + time.used + more))
}

/// `HH:MM:SS`, with a fraction behind `.` or `,`.
fn daytime(bytes: &[u8]) -> Option<Daytime> {
    let &[h1, h2, b':', m1, m2, b':', s1, s2] = bytes.get(..8)? else { return None };
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[m1, m2])?, number(&[s1, s2])?);
    // 60 is a leap second; it falls together with the second after it.
    let exists = hour < 24 && minute < 60 && second <= 60;
    let seconds = i64::from(hour) * HOUR + i64::from(minute) * 60 + i64::from(second);
    let (nanos, more) = fraction(bytes.get(8..).unwrap_or_default());
    Some(Daytime { seconds: exists.then_some(seconds), nanos, used: 8 + more })
}

/// A fraction of a second: nanoseconds (further digits are dropped) and octets used.
fn fraction(bytes: &[u8]) -> (u32, usize) {
    let [b'.' | b',', digits @ ..] = bytes else { return (0, 0) };
    let count = digits.iter().take_while(|octet| octet.is_ascii_digit()).count();
    if count == 0 {
        return (0, 0);
    }
    let nanos = (0..9).fold(0, |nanos, place| {
        let digit = digits.get(place).filter(|_| place < count).map_or(0, |octet| octet - b'0');
        nanos * 10 + u32::from(digit)
    });
    (nanos, 1 + count)
}

/// `Z`, `+01:00` or `+0100`, perhaps after a blank; and the octets used.
fn zone_of(bytes: &[u8]) -> (Zone, usize) {
    let ends = |rest: &[u8]| rest.first().is_none_or(|octet| !octet.is_ascii_alphanumeric());
    let (blank, bytes) = match bytes {
        [b' ', rest @ ..] => (1, rest),
        bytes => (0, bytes),
    };
    let (sign, h1, h2, m1, m2, used) = match *bytes {
        [b'Z' | b'z', ref rest @ ..] if blank == 0 && ends(rest) => return (Zone::Offset(0), 1),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2, ref rest @ ..] if ends(rest) => {
            (sign, h1, h2, m1, m2, 6)
        }
        [sign @ (b'+' | b'-'), h1, h2, m1, m2, ref rest @ ..] if ends(rest) => {
            (sign, h1, h2, m1, m2, 5)
        }
        _ => return (Zone::Missing, 0),
    };
    match (number(&[h1, h2]), number(&[m1, m2])) {
        (Some(hours), Some(minutes)) if hours < 24 && minutes < 60 => {
            let seconds = i64::from(hours) * HOUR + i64::from(minutes) * 60;
            (Zone::Offset(if sign == b'-' { -seconds } else { seconds }), blank + used)
        }
        (Some(_), Some(_)) => (Zone::Impossible, blank + used),
        _ => (Zone::Missing, 0),
    }
}

/// The day behind the month, with the blanks on both sides: ` 24 `, `  6 ` or ` 6 `.
fn day_of(bytes: &[u8]) -> Option<(u32, usize)> {
    match *bytes {
        [b' ', b' ', d, b' ', ..] => Some((number(&[d])?, 4)),
        [b' ', d, b' ', ..] => Some((number(&[d])?, 3)),
        [b' ', d1, d2, b' ', ..] => Some((number(&[d1, d2])?, 4)),
        _ => None,
    }
}

/// Decimal digits only.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |number, octet| {
        octet.is_ascii_digit().then(|| number * 10 + u32::from(octet - b'0'))
    })
}

fn month_of(name: &[u8]) -> Option<u32> {
    Some(match name {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    })
}

/// Days since Sunday.
fn weekday_of(name: &str) -> Option<i64> {
    let names = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    names.iter().position(|known| *known == name).and_then(|place| i64::try_from(place).ok())
}

/// 1 January 1970 was a Thursday.
fn weekday_on(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

/// The last word and what stands before it.
fn last_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_end();
    match text.rfind(' ') {
        Some(at) => Some((text.get(..at)?, text.get(at + 1..)?)),
        None if text.is_empty() => None,
        None => Some(("", text)),
    }
}

/// Days since 1970 of a day that exists, from 1970 to 9998 (so that no offset leads out of what
/// the zone database covers).
fn days_of(year: u32, month: u32, day: u32) -> Option<i64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=length).contains(&day) || !(1970..=9998).contains(&year) {
        return None;
    }
    // Years that begin in March put the leap day last; 719468 days lie before 1970.
    let (year, month, day) = (i64::from(year), i64::from(month), i64::from(day));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468)
}

/// The year of a day.
fn year_of(days: i64) -> u32 {
    let moment = Timestamp::from_second(days.saturating_mul(DAY)).unwrap_or_default();
    u32::try_from(TimeZone::UTC.to_datetime(moment).year()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shown::stamp;
    use super::*;

    fn clock(zone: &str, around: &str) -> Clock {
        Clock::new(Frame { zone: TimeZone::get(zone).unwrap(), around: around.parse().unwrap() })
    }

    fn berlin() -> Clock {
        clock("Europe/Berlin", "2026-11-24T12:00:00Z")
    }

    fn read(clock: &mut Clock, form: Form, text: &str) -> String {
        clock.read(form, text).map_or("other form".to_owned(), |(at, _)| stamp(at))
    }

    #[test]
    fn every_form_is_read() {
        for (form, text, moment) in [
            (Form::Rfc3339, "2026-11-24T10:00:00.123456+01:00", "2026-11-24T09:00:00.123456Z"),
            (Form::Rfc3339, "2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z"),
            (Form::Rfc3339, "2026-11-24T10:00:00-0330 x", "2026-11-24T13:30:00Z"),
            (Form::Rfc3339, "2026-07-24T10:00:00 host", "2026-07-24T08:00:00Z"),
            (Form::Rfc3339, "2026-11-24T10:00:00.1234567899Z", "2026-11-24T10:00:00.123456789Z"),
            (Form::Syslog, "Nov 24 10:00:00 x", "2026-11-24T09:00:00Z"),
            (Form::Syslog, "Dec  6 10:00:00 x", "2026-12-06T09:00:00Z"),
            (Form::Syslog, "Dec 6 10:00:00 x", "2026-12-06T09:00:00Z"),
            (Form::Exim, "2015-07-29 12:31:33 1ZK", "2015-07-29T10:31:33Z"),
            (Form::Exim, "2015-07-29 12:31:33.250 +0100 1ZK", "2015-07-29T11:31:33.25Z"),
            (Form::Sems, "2014/04/23 17:56:57 +01:00  NOTICE", "2014-04-23T16:56:57Z"),
            (Form::SemsConsole, "a Thu Dec 6, 2012 at 10:52:50 AM +01:00", "2012-12-06T09:52:50Z"),
            (Form::SemsConsole, "Thu Dec 6, 2012 at 12:52:50 AM +01:00", "2012-12-05T23:52:50Z"),
            (Form::SemsConsole, "Thu Dec 6, 2012 at 12:52:50 PM +01:00", "2012-12-06T11:52:50Z"),
            (Form::SemsConsole, "Thu Dec 6, 2012 at 1:52:50 PM", "other form"),
            (Form::SemsConsole, "Thu Dec 6, 2012 at 14:52:50", "2012-12-06T13:52:50Z"),
            (Form::Exchange, "2022-09-19T15:02:29.450Z", "2022-09-19T15:02:29.45Z"),
            (Form::Exchange, "2022-09-19T15:02:29", "2022-09-19T15:02:29Z"),
            (Form::Rfc3339, "2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ] {
            assert_eq!(read(&mut berlin(), form, text), moment, "{text}");
        }
    }

    #[test]
    fn impossible_dates_give_no_stamp() {
        for (form, text) in [
            (Form::Rfc3339, "2026-02-30T10:00:00Z"),
            (Form::Rfc3339, "2026-13-01T10:00:00Z"),
            (Form::Rfc3339, "2026-11-24T24:00:00Z"),
            (Form::Rfc3339, "2026-11-24T10:60:00Z"),
            (Form::Rfc3339, "2026-11-24T10:00:00+25:00"),
            (Form::Rfc3339, "0000-11-24T10:00:00Z"),
            (Form::Rfc3339, "1900-02-29T10:00:00Z"),
            (Form::Syslog, "Feb 30 10:00:00"),
            (Form::Syslog, "Nov 24 25:00:00"),
            (Form::SemsConsole, "Fri Dec 6, 2012 at 10:52:50 AM +01:00"),
            (Form::SemsConsole, "Thu Dec 6, 2012 at 13:52:50 AM +01:00"),
        ] {
            assert_eq!(read(&mut berlin(), form, text), "?", "{text}");
        }
    }

    #[test]
    fn a_year_is_found_across_new_year_and_leap_days() {
        for (around, text, moment) in [
            ("2027-01-01T00:30:00Z", "Dec 31 23:59:00", "2026-12-31T22:59:00Z"),
            ("2026-12-31T22:30:00Z", "Jan  1 00:00:30", "2026-12-31T23:00:30Z"),
            ("2026-12-31T12:00:00Z", "Jul  3 12:00:00", "2026-07-03T10:00:00Z"),
            ("2024-03-01T00:00:00Z", "Feb 29 10:00:00", "2024-02-29T09:00:00Z"),
            ("2025-01-01T00:00:00Z", "Feb 29 10:00:00", "2024-02-29T09:00:00Z"),
            ("2027-01-01T00:00:00Z", "Feb 29 10:00:00", "2028-02-29T09:00:00Z"),
            ("2026-01-01T00:00:00Z", "Feb 29 10:00:00", "2024-02-29T09:00:00Z"),
        ] {
            let mut clock = clock("Europe/Berlin", around);
            assert_eq!(read(&mut clock, Form::Syslog, text), moment, "{text} around {around}");
        }
    }

    #[test]
    fn repeated_and_skipped_times_are_unsure() {
        for (zone, text, moments) in [
            ("Europe/Berlin", "2026-10-25T01:59:59", "2026-10-24T23:59:59Z"),
            ("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00Z..2026-10-25T01:30:00Z"),
            ("Europe/Berlin", "2026-10-25T03:00:00", "2026-10-25T02:00:00Z"),
            ("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T00:30:00Z..2026-03-29T01:30:00Z"),
            ("Europe/Berlin", "2026-03-29T03:00:00", "2026-03-29T01:00:00Z"),
            // Half an hour only.
            ("Australia/Lord_Howe", "2026-04-05T01:15:00", "2026-04-04T14:15:00Z"),
            (
                "Australia/Lord_Howe",
                "2026-04-05T01:45:00",
                "2026-04-04T14:45:00Z..2026-04-04T15:15:00Z",
            ),
        ] {
            let mut clock = clock(zone, "2026-11-24T12:00:00Z");
            // Twice: the second time from memory.
            for _ in 0..2 {
                assert_eq!(read(&mut clock, Form::Rfc3339, text), moments, "{text} in {zone}");
            }
        }
    }

    #[test]
    fn an_unknown_zone_makes_every_stamp_unsure_but_those_with_offset() {
        let around = "2026-11-24T12:00:00Z".parse().unwrap();
        let mut clock = Clock::new(Frame { zone: TimeZone::unknown(), around });
        assert_eq!(
            read(&mut clock, Form::Syslog, "Nov 24 12:00:00"),
            "2026-11-23T22:00:00Z..2026-11-25T00:00:00Z"
        );
        let text = "2026-11-24T10:00:00+01:00";
        assert_eq!(read(&mut clock, Form::Rfc3339, text), "2026-11-24T09:00:00Z");
    }

    #[test]
    fn the_rest_of_the_line_is_given_back() {
        let mut clock = berlin();
        assert_eq!(clock.syslog("Dec 6 10:00:00 mx x").unwrap().1, " mx x");
        assert_eq!(clock.iso("2015-07-29 12:31:33 +0100 1ZK").unwrap().1, " 1ZK");
        assert_eq!(clock.iso("2015-07-29 12:31:33 -x").unwrap().1, " -x");
        let line = "text Thu Dec 6, 2012 at 10:52:50 AM +01:00";
        assert_eq!(clock.sems_console(line).unwrap().1, "text");
    }

    proptest! {
        /// Goal: what is remembered of the last hour changes nothing.
        /// Method: the same stamps to a clock that has read others, and to a new one; and by jiff.
        #[test]
        fn memory_changes_no_moment(seconds in proptest::collection::vec(0_i64..4_000_000_000, 1..20)) {
            let mut old = berlin();
            for second in seconds {
                let moment = Timestamp::from_second(second).unwrap();
                let zoned = moment.to_zoned(TimeZone::get("Europe/Berlin").unwrap());
                let text = zoned.strftime("%Y-%m-%d %H:%M:%S").to_string();
                let known = old.iso(&text).unwrap().0.unwrap();
                prop_assert_eq!(known, berlin().iso(&text).unwrap().0.unwrap());
                let exact = moment.as_nanosecond();
                prop_assert!(known.earliest() <= exact && exact <= known.latest());
                let with_offset = zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
                prop_assert_eq!(old.iso(&with_offset).unwrap().0, Some(Stamp::Exact(exact)));
                let yearless = zoned.strftime("%b %e %H:%M:%S").to_string();
                let near = clock("Europe/Berlin", &moment.to_string()).syslog(&yearless);
                let near = near.unwrap().0.unwrap();
                prop_assert!(near.earliest() <= exact && exact <= near.latest());
            }
        }
    }
}
