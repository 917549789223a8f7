//! Who is about to have something for the committer: while many are, a batch waits a moment for them.
//!
//! A sync costs the same for one message as for fifty. Without a wait each takes only what came during
//! the one before: a handful, even at a hundred connections.
//!
//! Not here: how long the wait is (`commit`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From so many on, a batch waits: fewer would gain less than the wait costs them.
const MANY: usize = 16;

/// Counts them.
#[derive(Clone, Debug, Default)]
pub(super) struct Company(Arc<AtomicUsize>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub struct Comer(Company);

impl Company {
    /// Another one.
    pub(super) fn join(&self) -> Comer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Comer(self.clone())
    }

    /// Is it worth a wait, with so many jobs there already? Not when a quarter has come.
    pub(super) fn is_worth_a_wait(&self, jobs: usize) -> bool {
        let all = self.0.load(Ordering::Relaxed);
        all >= MANY && jobs < all / 4
    }
}

impl Drop for Comer {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_are_waited_for_and_only_until_a_quarter_is_there() {
        let company = Company::default();
        let mut comers: Vec<Comer> = (1..MANY).map(|_| company.join()).collect();
        assert!(!company.is_worth_a_wait(1));
        comers.push(company.join());
        assert!(company.is_worth_a_wait(1));
        assert!(company.is_worth_a_wait(MANY / 4 - 1));
        assert!(!company.is_worth_a_wait(MANY / 4));
        comers.pop();
        assert!(!company.is_worth_a_wait(1));
    }
}
