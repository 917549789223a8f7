//! Conditions with a deadline: the only way a story waits.
//!
//! A condition is polled in short steps until it holds or its deadline has passed; then the story
//! fails and says what it waited for. Not here: sleeping for a fixed time in the hope of something.

use std::time::{Duration, Instant};

/// Long enough for a real mail server on a busy machine, short enough for a person.
pub const LONG: Duration = Duration::from_secs(30);

/// Pause between two looks at a condition.
const STEP: Duration = Duration::from_millis(5);

/// Polls `probe` until it gives a value.
///
/// # Panics
/// When `limit` has passed: with `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let Some(value) = within(limit, &mut probe) else {
        panic!("not within {limit:?}: {what}");
    };
    value
}

/// Polls `probe` until it gives a value; `None` when `limit` has passed.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if start.elapsed() >= limit {
            return None;
        }
        let_pass(STEP);
    }
}

/// Polls a condition until it holds.
///
/// # Panics
/// When `limit` has passed: with `what` was waited for.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    until(what, limit, || holds().then_some(()));
}

/// Lets time pass: for a scripted delay, or where the span itself is the claim (an outage that
/// outlasts its limit). Never in the hope that something has happened meanwhile.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub fn let_pass(span: Duration) {
    std::thread::sleep(span);
}

/// Looks at a condition for all of `span` and says whether it held at every look.
///
/// For "this does not happen": the span is part of the claim, not a hope.
pub fn stays(span: Duration, mut holds: impl FnMut() -> bool) -> bool {
    within(span, || (!holds()).then_some(())).is_none()
}
