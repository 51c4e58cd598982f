//! The probe's access log: the last accesses, oldest first.

use std::collections::VecDeque;

use super::reg::LOG_MAX;

/// At most [`LOG_MAX`] accesses; a newer one pushes out the oldest.
#[derive(Default)]
pub(super) struct Log(pub(super) VecDeque<u32>);

impl Log {
    /// Notes an access of `width` bytes at `offset`. An entry has room for a byte of offset, more than the
    /// registers span: what lies further out shows as 0xff.
    pub(super) fn push(&mut self, offset: u64, width: usize, write: bool) {
        let offset = u8::try_from(offset).unwrap_or(u8::MAX);
        let width = u8::try_from(width).unwrap_or(u8::MAX);
        if self.0.len() >= LOG_MAX {
            self.0.pop_front();
        }
        self.0.push_back(u32::from_le_bytes([offset, width, u8::from(write), 0]));
    }

    pub(super) fn take_oldest(&mut self) -> Option<u32> {
        self.0.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
