//! `ar` archives, as far as packages use them: a header of 60 bytes before each member (ar(5)).

use std::io::{self, Read};

use super::Fault;

const MAGIC: &[u8] = b"!<arch>\n";
/// Where a header has the member's name and its size, both as text filled up with spaces, and its end.
const HEADER: usize = 60;
const NAME: std::ops::Range<usize> = 0..16;
const SIZE: std::ops::Range<usize> = 48..58;
const END: std::ops::Range<usize> = 58..60;
const END_IS: &[u8] = b"`\n";
/// A package has three members; a few more are allowed (deb(5)).
const MOST: usize = 16;

/// The first member whose name `wanted` takes: its name and its content, which is as long as its header says or the
/// archive is cut off.
pub(super) fn member<R: Read>(
    mut archive: R,
    wanted: impl Fn(&str) -> bool,
) -> Result<(String, Whole<R>), Fault> {
    let mut magic = [0; MAGIC.len()];
    let read = archive.read_exact(&mut magic);
    if read.is_err() || magic != *MAGIC {
        return Err(Fault::package("it does not begin as one"));
    }
    for _ in 0..MOST {
        let mut header = [0; HEADER];
        archive.read_exact(&mut header).map_err(Fault::reading)?;
        if header[END] != *END_IS {
            return Err(Fault::package("a member's header is damaged"));
        }
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
        let size: u64 = text(SIZE).parse().map_err(|_| Fault::package("a member's size is no number"))?;
        // Some archivers end a name with a slash.
        let name = text(NAME).trim_end_matches('/').to_owned();
        if wanted(&name) {
            return Ok((name, Whole { from: archive, left: size }));
        }
        // Members begin at even places.
        let skipped =
            size.checked_add(size % 2).ok_or_else(|| Fault::package("a member has an absurd size"))?;
        let copied =
            io::copy(&mut archive.by_ref().take(skipped), &mut io::sink()).map_err(Fault::reading)?;
        if copied < skipped {
            return Err(Fault::package("it is cut off"));
        }
    }
    Err(Fault::package("it has no files (no member data.tar)"))
}

/// A member's content, all of which has to be there.
pub(super) struct Whole<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.by_ref().take(self.left).read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}
