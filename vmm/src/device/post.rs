//! The POST port: where firmware, and whoever debugs without a console, says how far it came.

use crate::bus::BusDevice;
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

/// A port that keeps the last code written to it, and reads it back.
///
/// Linux also writes zeros there to pass time, so a code is a hint, never a verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct Post {
    last: Option<u8>,
}

impl Post {
    /// Makes the port with no code seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last code that the guest wrote, if it wrote any.
    #[must_use]
    pub fn last(&self) -> Option<u8> {
        self.last
    }
}

impl BusDevice for Post {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.last.unwrap_or(0xff));
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        self.last = data.first().copied().or(self.last);
    }
}

impl Persist for Post {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        to_value(self.last)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.last = from_value(state)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn post_codes_written_keeps_the_last() {
        let mut post = Post::new();
        post.write(0, &[0x11]);
        post.write(0, &[0x42]);
        assert_eq!(post.last(), Some(0x42));
    }

    #[test]
    fn post_code_written_reads_back() {
        let mut post = Post::new();
        post.write(0, &[0x42]);
        let mut data = [0];
        post.read(0, &mut data);
        assert_eq!(data, [0x42]);
    }

    #[test]
    fn post_untouched_reads_all_ones() {
        let mut post = Post::new();
        let mut data = [0];
        post.read(0, &mut data);
        assert_eq!((data, post.last()), ([0xff], None));
    }
}
