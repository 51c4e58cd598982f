//! What a kernel says of itself.

use std::io::{self, Read, Seek, SeekFrom};

/// Where a bzImage has `HdrS`, and where the pointer to its version's text (Documentation/arch/x86/boot.rst).
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION_POINTER: usize = 0x20e;
/// The pointer counts from here.
const SETUP: u64 = 0x200;
/// What an ELF kernel has before its release, in its read-only data.
const BANNER: &[u8] = b"Linux version ";
/// No release is longer (`__NEW_UTS_LEN`).
pub(super) const LONGEST: usize = 64;

/// The release of a bzImage or an ELF kernel; `None` if it does not tell.
pub(crate) fn release(file: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut start = Vec::new();
    file.by_ref().take(0x210).read_to_end(&mut start)?;
    if start.starts_with(b"\x7fELF") {
        return in_elf(file);
    }
    if start.get(MAGIC.0..MAGIC.0 + MAGIC.1.len()) != Some(MAGIC.1) {
        return Ok(None);
    }
    let Some(pointer) = start.get(VERSION_POINTER..VERSION_POINTER + 2) else { return Ok(None) };
    let pointer = u64::from(u16::from_le_bytes([pointer[0], pointer[1]]));
    if pointer == 0 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(SETUP + pointer))?;
    let mut text = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    Ok(word(&text))
}

/// Reads in pieces: an ELF kernel with its symbols is large.
fn in_elf(file: &mut impl Read) -> io::Result<Option<String>> {
    let mut window = Vec::new();
    loop {
        let read = file.by_ref().take(1 << 20).read_to_end(&mut window)?;
        let found = window.windows(BANNER.len()).enumerate().filter(|(_, bytes)| *bytes == BANNER);
        for (at, _) in found {
            let text = &window[at + BANNER.len()..];
            // A format string has the words too.
            if let Some(release) =
                word(text).filter(|release| release.starts_with(|c: char| c.is_ascii_digit()))
            {
                return Ok(Some(release));
            }
        }
        if read == 0 {
            return Ok(None);
        }
        window.drain(..window.len().saturating_sub(BANNER.len() + LONGEST + 1));
    }
}

/// The first word, if it ends within `text` and can be a folder's name.
fn word(text: &[u8]) -> Option<String> {
    let end = text.iter().take(LONGEST + 1).position(|byte| matches!(byte, 0 | b' ' | b'\n'))?;
    let word = std::str::from_utf8(&text[..end]).ok()?;
    let fit = |c: char| c.is_ascii_alphanumeric() || "+-._~".contains(c);
    (!word.is_empty() && word.chars().all(fit) && !word.starts_with('.')).then(|| word.to_owned())
}
