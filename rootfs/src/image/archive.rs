//! Reading archives back: newc, as it is or compressed by gzip or Zstandard. Any bytes may come; none of them
//! make this panic, run for ever or take memory without bound.
//!
//! The format is that of `Documentation/driver-api/early-userspace/buffer-format.rst`.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;
use sha2::{Digest, Sha256};

use super::listing::Listed;
use crate::Error;

/// `070701`: the format's magic.
const MAGIC: &[u8; 6] = b"070701";
/// The header: the magic, and 13 numbers of 8 hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// The longest name, with its NUL, and the longest target of a link: Linux's `PATH_MAX`.
const PATH_MAX: u32 = 4096;
/// What an archive unpacks to at most, in bytes.
const UNPACKED_MAX: u64 = 8 << 30;
/// How many entries there are at most.
const ENTRIES_MAX: usize = 1 << 20;
/// How many bytes all names and targets have at most.
const TEXT_MAX: usize = 64 << 20;
/// The file type's bits of a mode, and some of their values (inode(7)).
const TYPE: u32 = 0o170_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub listed: Listed,
    /// Its inode's number.
    pub inode: u32,
    /// The names that it has.
    pub links: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// The entries of the archive in `bytes`, which may be compressed.
///
/// # Errors
/// It is none, or it is cut off or damaged, or larger than any initial RAM disk.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    read(bytes)
}

/// The entries of the archive that `input` gives, which may be compressed.
///
/// # Errors
/// As [`entries`], and `input`'s own.
pub fn read(mut input: impl Read) -> Result<Vec<Entry>, Error> {
    let mut start = Vec::new();
    input.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|error| wrong(0, error))?;
    let whole = Cursor::new(start.clone()).chain(input);
    match *start {
        [0x1f, 0x8b, ..] => Reader::new(flate2::read::MultiGzDecoder::new(whole)).all(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = StreamingDecoder::new(whole).map_err(|error| wrong(0, error))?;
            let mut reader = Reader::new(decoder);
            let entries = reader.all()?;
            let frame = &reader.input.get_ref().get_ref().decoder;
            match (frame.get_checksum_from_data(), frame.get_calculated_checksum()) {
                (Some(said), Some(is)) if said != is => Err(wrong(reader.at, "its checksum is another")),
                _ => Ok(entries),
            }
        }
        _ if start == MAGIC => Reader::new(whole).all(),
        _ => Err(wrong(0, "no cpio archive in newc format, and not one packed by gzip or zstd")),
    }
}

/// The bytes of memory that the archive in `file` takes when it is unpacked, its files in whole pages.
///
/// # Errors
/// As [`entries`], and the file can't be read.
pub fn unpacked_size(file: &Path) -> Result<u64, Error> {
    /// A page of x86-64.
    const PAGE: u64 = 4096;
    let input = File::open(file).map_err(Error::io("open", file))?;
    let entries = read(BufReader::new(input))?;
    let pages = entries.iter().map(|entry| entry.listed.size.next_multiple_of(PAGE));
    Ok(pages.fold(0, u64::saturating_add))
}

fn wrong(at: u64, why: impl ToString) -> Error {
    Error::Archive { at, why: why.to_string() }
}

struct Reader<R> {
    input: BufReader<io::Take<R>>,
    at: u64,
    text: usize,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    fn new(input: R) -> Self {
        let input = BufReader::with_capacity(64 << 10, input.take(UNPACKED_MAX));
        Self { input, at: 0, text: 0, buffer: vec![0; 64 << 10] }
    }

    fn all(&mut self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        loop {
            match self.entry()? {
                Some(_) if entries.len() == ENTRIES_MAX => {
                    return Err(wrong(self.at, "more than a million entries"));
                }
                Some(entry) => entries.push(entry),
                // Another archive may follow the zeros that fill up the first.
                None if self.is_over()? => return Ok(entries),
                None => {}
            }
        }
    }

    /// The next entry; none is the archive's end.
    fn entry(&mut self) -> Result<Option<Entry>, Error> {
        let begin = self.at;
        let mut header = [0; HEADER];
        self.exact(&mut header)?;
        if header[..6] != *MAGIC {
            return Err(wrong(begin, "no entry begins here"));
        }
        let mut numbers = [0; 13];
        for (number, digits) in numbers.iter_mut().zip(header[6..].chunks(8)) {
            *number = hexadecimal(digits).ok_or_else(|| wrong(begin, "a number of a header is none"))?;
        }
        let [inode, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, _] = numbers;
        if name_size == 0 || name_size > PATH_MAX {
            return Err(wrong(begin, "an entry's name is empty or longer than a path can be"));
        }
        let mut path = self.string(name_size)?;
        if path.pop() != Some('\0') || path.is_empty() || path.contains('\0') {
            return Err(wrong(begin, "an entry's name does not end where it should"));
        }
        self.align()?;
        if path == TRAILER {
            self.skip(size.into())?;
            return self.align().map(|()| None);
        }
        let is_link = mode & TYPE == LINK;
        if is_link && (size == 0 || size >= PATH_MAX) {
            return Err(wrong(begin, "a link's target is empty or longer than a path can be"));
        }
        let (target, sha256) = if is_link {
            let target = self.string(size)?;
            let hash = Sha256::digest(target.as_bytes());
            (Some(target), hash.into())
        } else {
            (None, self.hash(size.into())?)
        };
        self.align()?;
        let device = matches!(mode & TYPE, CHARACTER | BLOCK).then_some((major, minor));
        let listed = Listed { path, mode, uid, gid, size: size.into(), device, target };
        Ok(Some(Entry { listed, inode, links, mtime, sha256 }))
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(bytes).map_err(|error| self.failed(&error))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof if self.input.get_ref().limit() == 0 => {
                wrong(self.at, "it is larger than any initial RAM disk")
            }
            io::ErrorKind::UnexpectedEof => wrong(self.at, "it is cut off"),
            _ => wrong(self.at, error),
        }
    }

    fn string(&mut self, size: u32) -> Result<String, Error> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.text = self.text.saturating_add(size);
        if self.text > TEXT_MAX {
            return Err(wrong(self.at, "its names are longer than those of any image"));
        }
        let at = self.at;
        let mut bytes = vec![0; size];
        self.exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| wrong(at, "a name that is not UTF-8"))
    }

    fn hash(&mut self, size: u64) -> Result<[u8; 32], Error> {
        let mut hash = Sha256::new();
        self.pieces(size, |piece| hash.update(piece))?;
        Ok(hash.finalize().into())
    }

    fn skip(&mut self, size: u64) -> Result<(), Error> {
        self.pieces(size, |_| ())
    }

    fn pieces(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.exact(&mut buffer[..most])?;
            take(&buffer[..most]);
            left -= most as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Headers and contents begin at multiples of 4.
    fn align(&mut self) -> Result<(), Error> {
        self.skip(self.at.next_multiple_of(4) - self.at)
    }

    /// Whether nothing but zeros follows.
    fn is_over(&mut self) -> Result<bool, Error> {
        loop {
            let at = self.at;
            let bytes = self.input.fill_buf().map_err(|error| wrong(at, error))?;
            if bytes.is_empty() {
                return Ok(true);
            }
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let is_all = zeros == bytes.len();
            self.input.consume(zeros);
            self.at += zeros as u64;
            if !is_all {
                return Ok(false);
            }
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some((number << 4) | digit)
    })
}
