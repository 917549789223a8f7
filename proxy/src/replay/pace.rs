//! How many attempts of replay run beside one another, and how fast they start.
//!
//! A server that comes back empty must not be met by the whole backlog at once. The pace starts
//! with two connections, doubles them with each round of successes, and halves them at the first
//! push-back (connect failure, 421, time-out, 4yz to MAIL or to the end of mail data); from then on
//! it grows by one per round. After a push-back nothing starts for a moment, and for longer while
//! only push-backs come.
//!
//! Invariants
//! - Neither limit is ever exceeded: attempts under way, and starts per second beyond a burst of a
//!   tenth of a second's worth (at least one).
//! - At least one connection stays allowed, and every wait has an end: replay slows down but is
//!   never stuck.
//! - Push-backs of attempts that were already under way when the pace was halved are news of the
//!   same jam, and count once.
//!
//! Not here: a clock (the caller says what time it is), what counts as a push-back (`attempt`), when
//! one message is due again (`schedule`), pausing (an order).

use std::time::Duration;

/// Connections allowed before anything is known of the server.
const CONNECTIONS_AT_START: u32 = 2;

/// Longest pause after a push-back.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Least rate that is kept: one message in a quarter of an hour. To stop replay is an order, not a
/// rate.
const RATE_MIN: f64 = 1.0 / 900.0;

/// Highest rate that is told apart.
const RATE_MAX: f64 = 1_000_000.0;

/// What the operator allows; may change while replay runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Attempts under way at the same time; 0 counts as 1.
    pub connections_max: u32,
    /// Starts per second in the long run; what is no number, or less than one in a quarter of an
    /// hour, counts as one in a quarter of an hour.
    pub messages_per_second_max: f64,
    /// Pause after the first push-back; it doubles, up to half a minute.
    pub pause_first: Duration,
}

/// Why no attempt may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// An attempt must end first.
    Slot,
    /// Not before this moment, on the caller's clock.
    Until(Duration),
}

/// The pace of one gate's replay. All moments are on one monotonic clock of the caller's.
#[derive(Clone, Debug)]
pub struct Pace {
    limits: Limits,
    /// Attempts allowed beside one another.
    connections: u32,
    growth: Growth,
    /// Successes since the pace last changed.
    successes: u32,
    /// All connections were in use since the pace last changed: only then do successes prove
    /// that the server can take as many.
    filled: bool,
    under_way: u32,
    /// Ends still to come of attempts that were under way when the pace was halved. Which attempt
    /// ends is not told: they are taken to end in the order in which they started.
    older: u32,
    /// Push-backs in a row that counted.
    push_backs: u32,
    paused_until: Duration,
    bucket: Bucket,
}

/// How the number of connections rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// Doubles per round: nothing is known of the server's measure yet.
    Doubling,
    /// One more per round: there was a push-back.
    Stepping,
}

impl Pace {
    /// A pace that knows nothing of the server yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: CONNECTIONS_AT_START.min(ceiling(&limits)),
            growth: Growth::Doubling,
            successes: 0,
            filled: false,
            under_way: 0,
            older: 0,
            push_backs: 0,
            paused_until: Duration::ZERO,
            bucket: Bucket::new(limits.messages_per_second_max),
        }
    }

    /// What the operator allows.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes other limits from now on. Attempts under way beyond a lower limit end by themselves.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.connections = self.connections.min(ceiling(&limits));
        self.bucket.set_rate(limits.messages_per_second_max);
    }

    /// Connections allowed now.
    #[must_use]
    pub const fn connections_now(&self) -> u32 {
        self.connections
    }

    /// May another attempt start beside `in_flight` others?
    ///
    /// # Errors
    /// [`Wait`] says what must happen first.
    pub fn may_start(&self, in_flight: u32, now: Duration) -> Result<(), Wait> {
        if in_flight >= self.connections {
            return Err(Wait::Slot);
        }
        let earliest = self.paused_until.max(self.bucket.earliest());
        if now < earliest {
            return Err(Wait::Until(earliest));
        }
        Ok(())
    }

    /// An attempt starts. Exactly one of [`Pace::succeeded`], [`Pace::neutral`] and
    /// [`Pace::pushed_back`] is to follow.
    pub fn started(&mut self, now: Duration) {
        self.bucket.take(now);
        self.under_way = self.under_way.saturating_add(1);
        self.filled |= self.under_way >= self.connections;
    }

    /// An attempt ended, and the server took the message.
    pub fn succeeded(&mut self, _now: Duration) {
        self.ended();
        self.push_backs = 0;
        self.successes = self.successes.saturating_add(1);
        if self.filled && self.successes >= self.connections {
            let next = match self.growth {
                Growth::Doubling => self.connections.saturating_mul(2),
                Growth::Stepping => self.connections.saturating_add(1),
            };
            self.change(next);
        }
    }

    /// An attempt ended in a way that says nothing of how much the server can take.
    pub fn neutral(&mut self) {
        self.ended();
    }

    /// An attempt ended, and the server showed that it cannot take more now.
    pub fn pushed_back(&mut self, now: Duration) {
        let same_jam = self.older > 0;
        self.ended();
        if same_jam {
            return;
        }
        let pause =
            self.limits.pause_first.saturating_mul(1 << self.push_backs.min(5)).min(PAUSE_MAX);
        self.push_backs = self.push_backs.saturating_add(1);
        self.paused_until = self.paused_until.max(now.saturating_add(pause));
        self.older = self.under_way;
        self.growth = Growth::Stepping;
        self.change(self.connections / 2);
    }

    fn change(&mut self, connections: u32) {
        self.connections = connections.clamp(1, ceiling(&self.limits));
        self.successes = 0;
        self.filled = self.under_way >= self.connections;
    }

    fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.older = self.older.saturating_sub(1);
    }
}

/// Connections that the limits allow.
const fn ceiling(limits: &Limits) -> u32 {
    if limits.connections_max == 0 { 1 } else { limits.connections_max }
}

/// A token bucket without tokens: each start books an interval, and may be early by the burst. No
/// sums of fractions, so that the moment given to wait for is one at which a start is allowed.
#[derive(Clone, Debug)]
struct Bucket {
    /// Time per message.
    interval: Duration,
    /// How much earlier than booked a start may be.
    burst: Duration,
    /// When all that was started would have ended its interval.
    booked: Duration,
    /// When the last one started.
    last: Duration,
}

impl Bucket {
    fn new(rate: f64) -> Self {
        let (interval, burst) = spacing(rate);
        Self { interval, burst, booked: Duration::ZERO, last: Duration::ZERO }
    }

    const fn earliest(&self) -> Duration {
        self.booked.saturating_sub(self.burst)
    }

    fn take(&mut self, now: Duration) {
        self.booked = self.booked.max(now).saturating_add(self.interval);
        self.last = self.last.max(now);
    }

    /// What is booked ahead shrinks or grows with the interval: after a very low rate nobody waits
    /// for what a higher one allows.
    fn set_rate(&mut self, rate: f64) {
        let (interval, burst) = spacing(rate);
        let ahead = self.booked.saturating_sub(self.last);
        let intervals = ahead.as_secs_f64() / self.interval.as_secs_f64();
        // One interval at least, and no more than the new burst allows: what was taken early under
        // the old rate is not paid back under the new one.
        let most = burst.saturating_add(interval).as_secs_f64();
        let ahead = (intervals * interval.as_secs_f64()).min(most);
        self.booked = self.last.saturating_add(Duration::from_secs_f64(ahead));
        (self.interval, self.burst) = (interval, burst);
    }
}

/// Time per message, and how early one may be: a tenth of a second's worth, one message at least.
fn spacing(rate: f64) -> (Duration, Duration) {
    let rate = if rate.is_nan() { RATE_MIN } else { rate.clamp(RATE_MIN, RATE_MAX) };
    let burst = (rate / 10.0).max(1.0);
    let interval = Duration::from_secs_f64(1.0 / rate);
    (interval, interval.mul_f64(burst - 1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAST: f64 = 100_000.0;

    fn limits(connections_max: u32, messages_per_second_max: f64) -> Limits {
        Limits { connections_max, messages_per_second_max, pause_first: Duration::from_secs(1) }
    }

    fn pace(connections_max: u32, messages_per_second_max: f64) -> Pace {
        Pace::new(limits(connections_max, messages_per_second_max))
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Starts as many as may be beside `in_flight`; says how many there are then.
    fn fill(pace: &mut Pace, mut in_flight: u32, now: Duration) -> u32 {
        while pace.may_start(in_flight, now).is_ok() {
            pace.started(now);
            in_flight += 1;
        }
        in_flight
    }

    /// A full round in which every attempt succeeds.
    fn good_round(pace: &mut Pace, now: Duration) {
        for _ in 0..fill(pace, 0, now) {
            pace.succeeded(now);
        }
    }

    #[test]
    fn it_starts_small_and_doubles_until_the_limit() {
        let mut pace = pace(20, FAST);
        let seen: Vec<u32> = (1..=6)
            .map(|second| {
                let now = pace.connections_now();
                good_round(&mut pace, at(second));
                now
            })
            .collect();
        assert_eq!(seen, [2, 4, 8, 16, 20, 20]);
    }

    #[test]
    fn successes_on_few_connections_do_not_open_many() {
        let mut pace = pace(50, FAST);
        for second in 1..200 {
            pace.started(at(second));
            pace.succeeded(at(second));
        }
        assert_eq!(pace.connections_now(), 2, "one connection was in use all the time");
    }

    #[test]
    fn a_push_back_halves_and_then_it_grows_by_one_per_round() {
        let mut pace = pace(64, FAST);
        for second in 1..=4 {
            good_round(&mut pace, at(second));
        }
        assert_eq!(pace.connections_now(), 32);
        pace.started(at(5));
        pace.pushed_back(at(5));
        assert_eq!(pace.connections_now(), 16);
        good_round(&mut pace, at(7));
        good_round(&mut pace, at(8));
        assert_eq!(pace.connections_now(), 18);
    }

    #[test]
    fn push_backs_of_one_jam_count_once() {
        let mut pace = pace(16, FAST);
        for second in 1..=4 {
            good_round(&mut pace, at(second));
        }
        assert_eq!(fill(&mut pace, 0, at(5)), 16);
        for _ in 0..16 {
            pace.pushed_back(at(6));
        }
        assert_eq!(pace.connections_now(), 8);
        assert_eq!(pace.may_start(0, at(6)), Err(Wait::Until(at(7))));
        // The next one was started by the halved pace: it is news.
        pace.started(at(7));
        pace.pushed_back(at(7));
        assert_eq!(pace.connections_now(), 4);
    }

    #[test]
    fn the_pause_grows_while_only_push_backs_come_and_a_success_ends_that() {
        let mut pace = pace(4, FAST);
        let mut now = at(100);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pace.started(now);
            pace.pushed_back(now);
            let Err(Wait::Until(next)) = pace.may_start(0, now) else { panic!("no pause") };
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pace.connections_now(), 1);
        pace.started(now);
        pace.succeeded(now);
        pace.started(now);
        pace.pushed_back(now);
        assert_eq!(pace.may_start(0, now), Err(Wait::Until(now + at(1))));
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let mut pace = pace(8, FAST);
        for second in 1..100 {
            for _ in 0..fill(&mut pace, 0, at(second)) {
                pace.neutral();
            }
        }
        assert_eq!(pace.connections_now(), 2);
        assert_eq!(pace.may_start(0, at(100)), Ok(()));
    }

    #[test]
    fn a_rate_of_one_per_second_starts_one_per_second() {
        let mut pace = pace(10, 1.0);
        assert_eq!(fill(&mut pace, 0, at(50)), 1);
        assert_eq!(pace.may_start(1, at(50)), Err(Wait::Until(at(51))));
        assert_eq!(fill(&mut pace, 1, at(51)), 2);
    }

    #[test]
    fn limits_change_while_it_runs() {
        let mut pace = pace(8, FAST);
        for second in 1..=3 {
            good_round(&mut pace, at(second));
        }
        assert_eq!(pace.connections_now(), 8);
        pace.set_limits(limits(3, FAST));
        assert_eq!(pace.may_start(3, at(4)), Err(Wait::Slot));
        pace.set_limits(limits(8, FAST));
        good_round(&mut pace, at(5));
        assert_eq!(pace.connections_now(), 6, "it grows again from where it was");
    }

    #[test]
    fn a_rate_raised_from_almost_nothing_is_felt_at_once() {
        let mut pace = pace(8, 0.0);
        pace.started(at(10));
        assert_eq!(pace.may_start(0, at(11)), Err(Wait::Until(at(910))));
        pace.set_limits(limits(8, 10.0));
        assert_eq!(pace.may_start(0, at(11)), Ok(()));
    }

    #[test]
    fn senseless_limits_still_let_mail_out() {
        for rate in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, f64::MIN_POSITIVE, f64::INFINITY] {
            let mut pace = pace(0, rate);
            assert_eq!(pace.may_start(0, at(1)), Ok(()), "{rate}");
            pace.started(at(1));
            assert_eq!(pace.may_start(1, at(2_000)), Err(Wait::Slot), "{rate}");
            pace.succeeded(at(2));
            assert_eq!(pace.may_start(0, at(2_000)), Ok(()), "{rate}");
        }
    }

    /// What happens to a replay.
    #[derive(Clone, Debug)]
    enum Event {
        Start,
        Success,
        Neutral,
        PushBack,
        Pass(u64),
        Limit(u32, f64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Start),
            3 => Just(Event::Success),
            1 => Just(Event::Neutral),
            1 => Just(Event::PushBack),
            3 => (0_u64..3_000).prop_map(Event::Pass),
            1 => (0_u32..40, 0.0_f64..200.0).prop_map(|(c, r)| Event::Limit(c, r)),
        ]
    }

    proptest! {
        /// Never above the connections allowed, never without one, never without an end of waiting.
        #[test]
        fn any_history_stays_within_limits_and_never_stands_still(
            connections in 1_u32..40,
            rate in 0.1_f64..500.0,
            events in prop::collection::vec(event(), 0..300),
        ) {
            let mut pace = pace(connections, rate);
            let (mut in_flight, mut now) = (0_u32, at(1));
            for event in events {
                match event {
                    Event::Start => if pace.may_start(in_flight, now).is_ok() {
                        pace.started(now);
                        in_flight += 1;
                        prop_assert!(in_flight <= pace.limits().connections_max.max(1));
                    },
                    Event::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                    Event::Limit(connections_max, messages_per_second_max) => {
                        pace.set_limits(limits(connections_max, messages_per_second_max));
                    }
                    _ if in_flight == 0 => continue,
                    Event::Success => { in_flight -= 1; pace.succeeded(now); }
                    Event::Neutral => { in_flight -= 1; pace.neutral(); }
                    Event::PushBack => { in_flight -= 1; pace.pushed_back(now); }
                }
                prop_assert!(pace.connections_now() >= 1);
                prop_assert!(pace.connections_now() <= pace.limits().connections_max.max(1));
                match pace.may_start(in_flight, now) {
                    Ok(()) => {}
                    Err(Wait::Slot) => prop_assert!(in_flight > 0, "waits for nobody"),
                    Err(Wait::Until(next)) => {
                        prop_assert!(next > now);
                        prop_assert!(next - now <= at(900));
                        prop_assert_eq!(pace.may_start(in_flight, next), Ok(()));
                    }
                }
            }
        }

        /// However bad the past, a server that takes everything is soon given all that is allowed.
        #[test]
        fn it_recovers_from_any_history(
            connections in 1_u32..24,
            ends in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut pace = pace(connections, FAST);
            let mut now = at(1);
            for good in ends {
                if let Err(Wait::Until(next)) = pace.may_start(0, now) {
                    now = next;
                }
                pace.started(now);
                if good { pace.succeeded(now) } else { pace.pushed_back(now) }
            }
            now += PAUSE_MAX;
            for _ in 0..connections {
                good_round(&mut pace, now);
                now += at(1);
            }
            prop_assert_eq!(pace.connections_now(), connections);
        }

        /// Starts within any stretch of time: the burst, and the rate for its length.
        #[test]
        fn no_stretch_of_time_sees_more_than_burst_and_rate(
            rate in 0.5_f64..300.0,
            gaps in prop::collection::vec(0_u64..100, 1..60),
        ) {
            let mut pace = pace(u32::MAX, rate);
            let mut now = at(1);
            let mut starts = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                while pace.may_start(0, now).is_ok() {
                    pace.started(now);
                    pace.neutral();
                    starts.push(now);
                }
            }
            let burst = (rate / 10.0).max(1.0);
            for (place, first) in starts.iter().enumerate() {
                for (count, last) in starts[place..].iter().enumerate() {
                    let allowed = burst + rate * (*last - *first).as_secs_f64() + 0.001;
                    prop_assert!((count + 1) as f64 <= allowed, "{} in {:?}", count + 1, *last - *first);
                }
            }
        }
    }
}
