//! Buffers for large messages, used again: memory from the system costs a fault for every page.
//!
//! Bounded: beyond a few, a buffer that comes back is freed. A session has at most one.

use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;

/// Octets of a large buffer.
pub const LARGE: usize = 256 * 1024;

/// Large buffers kept for the next message.
const KEPT_MAX: usize = 16;

/// Large buffers that wait for the next message.
#[derive(Debug, Default)]
pub struct Buffers {
    kept: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    /// An empty buffer with room for [`LARGE`] octets.
    #[must_use]
    pub fn take(&self) -> BytesMut {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| BytesMut::with_capacity(LARGE))
    }

    /// Takes a buffer back; one that is not large is freed.
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        // What was consumed at its front is room again, if nobody else looks at it.
        if buffer.try_reclaim(LARGE) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX {
                kept.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn a_large_buffer_that_was_consumed_serves_again_whole() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        let place = buffer.as_ptr();
        buffer.extend_from_slice(&[1; LARGE / 2]);
        buffer.advance(LARGE / 2);
        buffers.give(buffer);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (place, 0, LARGE));
    }

    #[test]
    fn small_buffers_are_not_kept() {
        let buffers = Buffers::default();
        buffers.give(BytesMut::with_capacity(100));
        assert!(buffers.take().capacity() >= LARGE);
    }
}
