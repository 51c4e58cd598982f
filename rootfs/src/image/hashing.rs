//! The hash of what passes through on its way to a file, holes and all.

use std::io::{self, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use crate::cache::hex;

/// Hashes runs of bytes, each with where it is: what is left out costs nothing.
pub(super) struct Hashing<W> {
    inner: W,
    runs: Sha256,
    run: Sha256,
    begin: u64,
    at: u64,
}

impl<W> Hashing<W> {
    /// `inner` is empty.
    pub(super) fn new(inner: W) -> Self {
        Self { inner, runs: Sha256::new(), run: Sha256::new(), begin: 0, at: 0 }
    }

    /// The hash of all runs, in hexadecimal.
    pub(super) fn finish(mut self) -> String {
        self.end_run();
        hex(&self.runs.finalize())
    }

    fn end_run(&mut self) {
        for number in [self.begin, self.at] {
            self.runs.update(number.to_le_bytes());
        }
        self.runs.update(self.run.finalize_reset());
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.run.update(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for Hashing<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = self.inner.seek(to)?;
        if at != self.at {
            self.end_run();
            (self.begin, self.at) = (at, at);
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn hash(runs: &[(u64, &[u8])]) -> String {
        let mut hashing = Hashing::new(Cursor::new(Vec::new()));
        for (at, bytes) in runs {
            hashing.seek(SeekFrom::Start(*at)).unwrap();
            hashing.write_all(bytes).unwrap();
        }
        hashing.finish()
    }

    #[test]
    fn hash_tells_the_same_bytes_at_other_places_apart() {
        assert_eq!(hash(&[(0, b"ab"), (2, b"c")]), hash(&[(0, b"abc")]));
        assert_ne!(hash(&[(0, b"ab"), (4, b"c")]), hash(&[(0, b"ab"), (5, b"c")]));
        assert_ne!(hash(&[(0, b"abc")]), hash(&[(0, b"ab"), (4, b"c")]));
    }
}
