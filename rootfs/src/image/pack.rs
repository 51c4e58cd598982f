//! Compressed archives. Nothing in them says when or where they were made.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};

use flate2::GzBuilder;
use ruzstd::encoding::{CompressionLevel, compress};

use super::format::Compression;
use super::writer::failed;
use crate::Error;

/// gzip's level. On the minimal image 6, which others take, needs twice the time of 4 and saves 1.5 % more; 1 needs a
/// third of it, and leaves 15 % more.
const GZIP_LEVEL: u32 = 4;
/// The operating system's byte of a gzip header: unknown (RFC 1952 §2.3.1).
const GZIP_UNKNOWN_SYSTEM: u8 = 255;

/// What the same archive may be compressed to in another way by a later version of this: a part of a key.
pub(super) fn settings(compression: Compression) -> String {
    match compression {
        Compression::None => String::new(),
        Compression::Gzip => format!("level {GZIP_LEVEL}"),
        Compression::Zstd => "fastest".to_owned(),
    }
}

/// Compresses all of `archive` into `output`.
pub(super) fn pack(
    compression: Compression,
    archive: &mut File,
    output: &mut impl Write,
) -> Result<(), Error> {
    archive.rewind().map_err(failed)?;
    let mut output = BufWriter::with_capacity(1 << 20, output);
    match compression {
        Compression::None => io::copy(archive, &mut output).map(drop),
        Compression::Gzip => gzip(archive, &mut output),
        Compression::Zstd => zstd(archive, &mut output),
    }
    .and_then(|()| output.flush())
    .map_err(failed)
}

fn gzip(archive: &mut File, output: &mut impl Write) -> io::Result<()> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    let builder = GzBuilder::new().mtime(0).operating_system(GZIP_UNKNOWN_SYSTEM);
    let mut encoder = builder.write(output, level);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match archive.read(&mut buffer)? {
            0 => break,
            count => encoder.write_all(&buffer[..count])?,
        }
    }
    encoder.finish().map(drop)
}

/// The encoder panics where a stream fails, so it is never told: after an error there is nothing left to read, and
/// what is written goes nowhere.
fn zstd(archive: &mut File, output: &mut impl Write) -> io::Result<()> {
    let error = RefCell::new(None);
    let source = Guarded { inner: archive, error: &error };
    let drain = Guarded { inner: output, error: &error };
    compress(source, drain, CompressionLevel::Fastest);
    match error.into_inner() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A stream that keeps its errors to itself.
struct Guarded<'a, S> {
    inner: S,
    error: &'a RefCell<Option<io::Error>>,
}

impl<S: Read> Read for Guarded<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.error.borrow().is_none() {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => *self.error.borrow_mut() = Some(error),
                read => return read,
            }
        }
        Ok(0)
    }
}

impl<S: Write> Write for Guarded<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.error.borrow().is_none()
            && let Err(error) = self.inner.write_all(bytes)
        {
            *self.error.borrow_mut() = Some(error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
