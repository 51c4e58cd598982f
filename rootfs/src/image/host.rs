//! Files of this host on their way into an image: they may change under us, and then there is no image.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Error;

/// How much is copied at once: a multiple of every file system's block.
const PIECE: usize = 256 << 10;
/// Holes are looked for in files that have so many bytes less on the disk than their length says.
const WORTH_IT: u64 = 1 << 20;

/// The buffer that [`HostFile`] copies through.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; PIECE]
}

/// How many bytes the file at `path` has.
pub(super) fn length(path: &Path) -> Result<u64, Error> {
    fs::metadata(path).map(|metadata| metadata.len()).map_err(Error::io("measure", path))
}

/// A file that is about to be copied.
pub(super) struct HostFile<'a> {
    path: &'a Path,
    file: File,
    before: fs::Metadata,
}

impl<'a> HostFile<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let before = file.metadata().map_err(Error::io("measure", path))?;
        Ok(Self { path, file, before })
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u64 {
        self.before.len()
    }

    /// Refuses a file that has not as many bytes any more as were planned for.
    pub(super) fn expect_length(&self, planned: u64) -> Result<(), Error> {
        if self.length() == planned { Ok(()) } else { Err(self.changed()) }
    }

    /// Gives all of it to `take`, piece by piece.
    pub(super) fn copy(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.copy_run(0, self.length(), buffer, &mut |_, bytes| take(bytes))?;
        self.check()
    }

    /// As [`HostFile::copy`], each piece with its offset, a multiple of 4 KiB; holes are left out, if the file
    /// system tells of them.
    pub(super) fn copy_data(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let length = self.length();
        if self.before.blocks().saturating_mul(512).saturating_add(WORTH_IT) >= length {
            self.copy_run(0, length, buffer, &mut take)?;
            return self.check();
        }
        let mut at = 0;
        while let Some((begin, end)) = self.data(at, length)? {
            self.copy_run(begin, end, buffer, &mut take)?;
            at = end;
        }
        self.check()
    }

    /// The next run of data at or after `at`, widened to multiples of 4 KiB.
    fn data(&self, at: u64, length: u64) -> Result<Option<(u64, u64)>, Error> {
        use rustix::fs::{SeekFrom, seek};
        use rustix::io::Errno;
        if at >= length {
            return Ok(None);
        }
        let begin = match seek(&self.file, SeekFrom::Data(at)) {
            Ok(begin) => begin.max(at),
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows of no holes.
            Err(Errno::INVAL) => return Ok(Some((at, length))),
            Err(error) => return Err(Error::io("read", self.path)(error.into())),
        };
        let end = seek(&self.file, SeekFrom::Hole(begin)).map_err(io::Error::from);
        let end = end.map_err(Error::io("read", self.path))?;
        Ok(Some(((begin - begin % 4096).max(at), end.next_multiple_of(4096).min(length))))
    }

    fn copy_run(
        &mut self,
        begin: u64,
        end: u64,
        buffer: &mut [u8],
        take: &mut impl FnMut(u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Looking for holes has moved the file's position.
        self.file.seek(SeekFrom::Start(begin)).map_err(Error::io("read", self.path))?;
        let mut at = begin;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..most];
            self.file.read_exact(piece).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => self.changed(),
                _ => Error::io("read", self.path)(error),
            })?;
            take(at, piece)?;
            at += most as u64;
        }
        Ok(())
    }

    /// Refuses what has changed since it was opened, and files of the kernel's that do not say their length.
    fn check(&mut self) -> Result<(), Error> {
        let after = self.file.metadata().map_err(Error::io("measure", self.path))?;
        let time = |metadata: &fs::Metadata| (metadata.mtime(), metadata.mtime_nsec());
        if after.len() != self.length() || time(&after) != time(&self.before) {
            return Err(self.changed());
        }
        if self.length() == 0 && self.file.read(&mut [0]).map_err(Error::io("read", self.path))? > 0 {
            return Err(Error::file(
                self.path,
                "it says that it is empty and is not: copy it to a file first",
            ));
        }
        Ok(())
    }

    fn changed(&self) -> Error {
        Error::file(self.path, "it changed while it was copied: try again when nothing writes to it")
    }
}
