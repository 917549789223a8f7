//! Where the tasks of a listener tell what they hear, and how they stop.
//!
//! A stop has two moments: `asked`, from which on only what has already come is read, and `over`,
//! from which on nothing is read even where a sender never pauses.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::maillog::feeds::counts::{Counts, Reason};
use crate::maillog::feeds::told::{Clock, Told};

/// After the stop a socket on which nothing comes for so long has been read. The runtime looks at
/// sockets before it looks at timers, so that whatever the kernel has is seen first.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// After the stop: how long a sender that never pauses is read.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What every task of a listener has.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) to: mpsc::Sender<Told>,
    pub(crate) clock: Clock,
    pub(crate) counts: Arc<Counts>,
    pub(crate) asked: CancellationToken,
    pub(crate) over: CancellationToken,
}

impl Way {
    /// Ends where there is nothing more to read; made anew for each read.
    pub(crate) async fn drained(&self) {
        self.asked.cancelled().await;
        sleep(DRAIN_QUIET).await;
    }

    /// Ends at once where nothing may be read any more.
    pub(crate) async fn closed(&self) {
        tokio::select! {
            () = self.to.closed() => {}
            () = self.over.cancelled() => {}
        }
    }

    /// Says `over` a while after `asked`.
    pub(crate) fn bound_drain(&self) -> impl Future<Output = ()> + Send + 'static {
        let (asked, over) = (self.asked.clone(), self.over.clone());
        async move {
            asked.cancelled().await;
            sleep(DRAIN_MAX).await;
            over.cancel();
        }
    }

    pub(crate) fn count(&self, reason: Reason, count: u64, peer: Option<IpAddr>) {
        self.counts.add(reason, count, peer, self.clock.now_ns());
    }
}
