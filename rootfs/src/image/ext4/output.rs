//! A file with holes where there would be zeros.

use std::io::{BufWriter, Seek, SeekFrom, Write};

use super::spec::{BLOCK, BLOCK_BYTES};
use crate::Error;
use crate::image::writer::failed;

const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Takes blocks in ascending order, and leaves out those that are zeros.
pub(super) struct Output<W: Write + Seek> {
    inner: BufWriter<W>,
    /// The block that is written next if none is left out.
    at: u64,
}

impl<W: Write + Seek> Output<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner: BufWriter::with_capacity(1 << 20, inner), at: 0 }
    }

    /// Puts `bytes` at `block`, followed by zeros up to the end of their last block.
    pub(super) fn put(&mut self, block: u64, bytes: &[u8]) -> Result<(), Error> {
        for (number, one) in (block..).zip(bytes.chunks(BLOCK)) {
            if *one != ZEROS[..one.len()] {
                self.write(number, one)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, number: u64, one: &[u8]) -> Result<(), Error> {
        if number != self.at {
            // The layout has made sure that the image's size is a number.
            self.inner.seek(SeekFrom::Start(number * BLOCK_BYTES)).map_err(failed)?;
        }
        self.at = number + 1;
        let padding = &ZEROS[one.len()..];
        self.inner.write_all(one).and_then(|()| self.inner.write_all(padding)).map_err(failed)
    }

    /// Ends the image after `blocks`: the last is written even if it is zeros, so that the file is as long.
    pub(super) fn finish(mut self, blocks: u64) -> Result<(), Error> {
        if self.at < blocks {
            self.write(blocks - 1, &ZEROS)?;
        }
        self.inner.flush().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn output_skips_zeros_pads_and_is_as_long_as_it_says() {
        let mut bytes = Cursor::new(Vec::new());
        let mut output = Output::new(&mut bytes);
        output.put(1, &[&[7; BLOCK][..], &ZEROS, &[8; 3]].concat()).unwrap();
        output.finish(6).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!(bytes.len(), 6 * BLOCK);
        let wanted = [&ZEROS[..], &[7; BLOCK], &ZEROS, &[8; 3], &[0; 3 * BLOCK - 3]].concat();
        assert!(bytes == wanted);
    }
}
