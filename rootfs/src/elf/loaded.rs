//! The part of a program that is loaded to run it, without what only debuggers read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::Error;

/// The size of an ELF file's header, and of one of its program headers (System V ABI, figure 4-3 and 5-1, 64 bits).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// A segment that is loaded.
const PT_LOAD: u32 = 1;
/// Where the header says where the sections' table is, how many there are, and which has their names.
const SECTIONS_AT: std::ops::Range<usize> = 0x28..0x30;
const SECTIONS: std::ops::Range<usize> = 0x3c..0x40;

/// The program in `path` without what is not loaded, if that is at least `worth` bytes: it runs as before, but has no
/// names and lines for its backtraces.
///
/// # Errors
/// It can't be read.
pub fn loaded(path: &Path, worth: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("measure", path))?.len();
    let mut head = Vec::new();
    (&mut file).take(HEADER as u64).read_to_end(&mut head).map_err(Error::io("read", path))?;
    let (Some(table), Some(count)) = (long(&head, 0x20), half(&head, 0x38)) else { return Ok(None) };
    let sized = half(&head, 0x36).map(usize::from) == Some(PROGRAM_HEADER);
    if !head.starts_with(b"\x7fELF\x02\x01") || !sized {
        return Ok(None);
    }
    let mut headers = Vec::new();
    file.seek(SeekFrom::Start(table)).map_err(Error::io("read", path))?;
    let length = u64::from(count) * PROGRAM_HEADER as u64;
    (&mut file).take(length).read_to_end(&mut headers).map_err(Error::io("read", path))?;
    let ends = headers.chunks_exact(PROGRAM_HEADER).filter_map(|header| {
        let kind = header.get(..4)?.try_into().ok().map(u32::from_le_bytes)?;
        if kind == PT_LOAD { long(header, 0x08)?.checked_add(long(header, 0x20)?) } else { Some(0) }
    });
    let end = ends.max().unwrap_or_default();
    if end <= HEADER as u64 || size.checked_sub(end).is_none_or(|rest| rest < worth) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.rewind().map_err(Error::io("read", path))?;
    file.take(end).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    for range in [SECTIONS_AT, SECTIONS] {
        bytes.get_mut(range).into_iter().for_each(|field| field.fill(0));
    }
    Ok(Some(bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn loaded_part_of_a_program_runs() {
        let own = std::env::current_exe().unwrap();
        let bytes = loaded(&own, 1).unwrap().unwrap();
        assert!((bytes.len() as u64) < std::fs::metadata(&own).unwrap().len());
        // It is made a program by another process: what this one has open for writing can't be run.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bytes"), bytes).unwrap();
        let shell = "install -m 755 bytes program && ./program --list";
        let output = Command::new("sh").args(["-c", shell]).current_dir(folder.path()).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("loaded_part_of_a_program_runs: test"));
        assert_eq!(loaded(&own, u64::MAX).unwrap(), None);
    }

    #[test]
    fn what_is_no_program_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0x7f; 4096]] {
            std::fs::write(file.path(), bytes).unwrap();
            assert_eq!(loaded(file.path(), 1).unwrap(), None);
        }
    }
}
