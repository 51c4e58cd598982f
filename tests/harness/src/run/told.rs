//! Progress as a test binary tells of it: in lines on standard error, for it may take a minute.

use std::io::{self, Write};

use kiln_rootfs::progress::Progress;

/// Tells on standard error what has begun, and each note.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told;

impl Progress for Told {
    fn begin(&self, what: &str, _total_bytes: Option<u64>) {
        self.note(&format!("kiln: {what}"));
    }

    fn advance(&self, _bytes: u64) {}

    fn step(&self, _at: &str) {}

    fn end(&self) {}

    fn note(&self, line: &str) {
        // In one piece: others write there too. Where nobody listens, nothing is said.
        let _closed = io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}
