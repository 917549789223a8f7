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
    /// Gives an empty buffer room for [`LARGE`] octets: its own, if it is large already, else another
    /// takes its place.
    pub fn enlarge(&self, buffer: &mut BytesMut) {
        // What was consumed at its front is room again, if nobody else looks at it.
        if !buffer.try_reclaim(LARGE) {
            *buffer = self.take();
        }
    }

    fn take(&self) -> BytesMut {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| BytesMut::with_capacity(LARGE))
    }

    /// Takes a buffer back; one that is not large is freed.
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
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
    fn a_large_buffer_that_was_consumed_is_enlarged_to_itself_and_a_small_one_to_another() {
        let buffers = Buffers::default();
        let mut buffer = BytesMut::with_capacity(100);
        buffers.enlarge(&mut buffer);
        assert_eq!((buffer.len(), buffer.capacity()), (0, LARGE));
        let place = buffer.as_ptr();
        for octets in [LARGE, LARGE / 3, 1] {
            buffer.extend_from_slice(&vec![1; octets]);
            buffer.advance(octets);
            buffers.enlarge(&mut buffer);
            assert_eq!((buffer.as_ptr(), buffer.capacity()), (place, LARGE));
        }
    }

    #[test]
    fn small_buffers_are_not_kept() {
        let buffers = Buffers::default();
        buffers.give(BytesMut::with_capacity(100));
        assert!(buffers.take().capacity() >= LARGE);
    }
}
