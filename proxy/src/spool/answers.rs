//! Answers of the committer: told batch by batch, with one wake-up for each runtime that waits.
//!
//! Waking a task of another thread's runtime costs a system call. A batch answers a hundred sessions
//! of the same worker, so their answers travel there together and are told where waking is cheap.
//!
//! Not here: what is answered (`commit`).

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{HoldError, MarkError, SpoolId};

/// Who waits for an answer; dropped without one, it hears that there will be none.
pub(super) struct Waiter<T> {
    sender: oneshot::Sender<T>,
    /// The runtime in which it waits, if any.
    home: Option<Handle>,
}

impl<T> Waiter<T> {
    /// A waiter in this runtime, and what it waits on.
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, home: Handle::try_current().ok() }, receiver)
    }
}

/// What a message's end is answered.
pub(super) type Held = Result<SpoolId, HoldError>;
/// What a mark is answered.
pub(super) type Marked = Result<(), MarkError>;
/// What an acknowledgement of damage is answered: how much there was.
pub(super) type Acknowledged = Result<usize, MarkError>;

/// An answer with whoever waits for it.
enum Told {
    Held(oneshot::Sender<Held>, Held),
    Marked(oneshot::Sender<Marked>, Marked),
    Acknowledged(oneshot::Sender<Acknowledged>, Acknowledged),
}

impl Told {
    /// Who asked may be gone: what was promised or marked stands all the same.
    fn tell(self) {
        match self {
            Self::Held(sender, answer) => drop(sender.send(answer)),
            Self::Marked(sender, answer) => drop(sender.send(answer)),
            Self::Acknowledged(sender, answer) => drop(sender.send(answer)),
        }
    }
}

/// Answers that are not told yet, by the runtime that waits for them.
#[derive(Default)]
pub(super) struct Answers(Vec<(Option<Handle>, Vec<Told>)>);

impl Answers {
    /// Answers the end of a message.
    pub(super) fn held(&mut self, waiter: Waiter<Held>, answer: Held) {
        self.put(waiter.home, Told::Held(waiter.sender, answer));
    }

    /// Answers a mark.
    pub(super) fn marked(&mut self, waiter: Waiter<Marked>, answer: Marked) {
        self.put(waiter.home, Told::Marked(waiter.sender, answer));
    }

    /// Answers an acknowledgement.
    pub(super) fn acknowledged(&mut self, waiter: Waiter<Acknowledged>, answer: Acknowledged) {
        self.put(waiter.home, Told::Acknowledged(waiter.sender, answer));
    }

    fn put(&mut self, home: Option<Handle>, told: Told) {
        let id = home.as_ref().map(Handle::id);
        match self.0.iter_mut().find(|(known, _)| known.as_ref().map(Handle::id) == id) {
            Some((_, all)) => all.push(told),
            None => self.0.push((home, vec![told])),
        }
    }

    /// Tells what was answered so far. A runtime that has ended drops its answers: nobody waits there.
    pub(super) fn tell(&mut self) {
        for (home, all) in self.0.drain(..) {
            match home {
                Some(home) if all.len() > 1 => {
                    home.spawn(async move { all.into_iter().for_each(Told::tell) });
                }
                _ => all.into_iter().for_each(Told::tell),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_waiter_hears_its_own_answer_wherever_it_waits() {
        let mut answers = Answers::default();
        let (outside, mut heard_outside) =
            std::thread::spawn(Waiter::<Marked>::new).join().expect("it does not panic");
        let mut heard = Vec::new();
        for _ in 0..3 {
            let (waiter, receiver) = Waiter::new();
            answers.marked(waiter, Ok(()));
            heard.push(receiver);
        }
        let (waiter, acknowledged) = Waiter::new();
        answers.acknowledged(waiter, Ok(7));
        answers.marked(outside, Err(MarkError::Failed));
        assert!(heard_outside.try_recv().is_err(), "not told yet");
        answers.tell();
        assert!(matches!(heard_outside.try_recv(), Ok(Err(MarkError::Failed))));
        for receiver in heard {
            assert!(matches!(receiver.await, Ok(Ok(()))));
        }
        assert!(matches!(acknowledged.await, Ok(Ok(7))));
    }
}
