//! The two clocks: one that all processes of a machine share, and the CPU time of this thread.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC now.
///
/// # Errors
/// When it shows a time before its beginning.
pub(crate) fn monotonic_ns() -> Result<u64> {
    reading(ClockId::Monotonic)
}

/// The CPU time of this thread so far.
///
/// # Errors
/// When it shows a time before its beginning.
pub(crate) fn thread_cpu_ns() -> Result<u64> {
    reading(ClockId::ThreadCPUTime)
}

fn reading(clock: ClockId) -> Result<u64> {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).context("a clock before its beginning")?;
    Ok(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec)?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_monotonic_clock_goes_on() {
        let before = monotonic_ns().unwrap();
        let began = Instant::now();
        while began.elapsed().as_millis() < 2 {
            std::hint::spin_loop();
        }
        assert!(monotonic_ns().unwrap() - before >= 2_000_000);
    }

    #[test]
    fn work_takes_cpu_time() {
        let before = thread_cpu_ns().unwrap();
        let began = Instant::now();
        while began.elapsed().as_millis() < 20 {
            std::hint::spin_loop();
        }
        assert!(thread_cpu_ns().unwrap() > before);
    }
}
