//! The entries of a package's `tar`, with the names that are too long for their headers.

use std::io::Read;

use tar::{Entry, EntryType, PaxExtensions};

use super::Fault;

/// No path is longer (`PATH_MAX`); the extension that holds it is not much longer.
const LONGEST: u64 = 64 << 10;
/// A package has fewer entries; each costs an inode.
const MOST: usize = 1 << 20;

/// What an entry makes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File {
        executable: bool,
    },
    /// To this target.
    Symlink(Vec<u8>),
    /// Another name of what is at this path.
    Link(Vec<u8>),
}

/// What was said of the entry to come.
#[derive(Default)]
pub(super) struct Entries {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    count: usize,
}

impl Entries {
    /// The path and kind of an entry; `None` if it only says something of the next, or is a device, which nobody but
    /// root can make.
    pub(super) fn next<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
    ) -> Result<Option<(Vec<u8>, Kind)>, Fault> {
        self.count += 1;
        if self.count > MOST {
            return Err(Fault::package("it has more files than any package has"));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => self.extended(entry)?,
            // It says what holds for all entries: times and comments.
            EntryType::XGlobalHeader => {}
            kind => {
                let path = self.path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = self.link.take().or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
                let link = || link.ok_or_else(|| Fault::package("a link in it leads nowhere"));
                let executable = entry.header().mode().map_err(Fault::reading)? & 0o111 != 0;
                return Ok(match kind {
                    // Before there was a type for folders they were files whose name ends so.
                    EntryType::Regular if path.ends_with(b"/") => Some((path, Kind::Folder)),
                    EntryType::Regular | EntryType::Continuous => Some((path, Kind::File { executable })),
                    EntryType::Directory => Some((path, Kind::Folder)),
                    EntryType::Symlink => Some((path, Kind::Symlink(link()?))),
                    EntryType::Link => Some((path, Kind::Link(link()?))),
                    EntryType::Char | EntryType::Block | EntryType::Fifo => None,
                    _ => return Err(Fault::package("it has an entry of an unknown type")),
                });
            }
        }
        Ok(None)
    }

    /// To be called when there are no more: nothing may have been said of one that did not come.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.path.is_some() || self.link.is_some() {
            return Err(Fault::package("it is cut off"));
        }
        Ok(())
    }

    /// Reads what an extended header says of names (pax, POSIX.1-2001).
    fn extended<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Fault> {
        let bytes = bounded(entry)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(Fault::reading)?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_owned()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_owned()),
                // For files of more than 8 GiB.
                b"size" => return Err(Fault::package("a file in it is larger than any package's")),
                _ => {}
            }
        }
        Ok(())
    }
}

fn text<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, Fault> {
    let mut text = bounded(entry)?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    Ok(text)
}

fn bounded<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, Fault> {
    let size = entry.header().entry_size().map_err(Fault::reading)?;
    if size > LONGEST {
        return Err(Fault::package("a name in it is longer than any path"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(Fault::reading)?;
    if u64::try_from(bytes.len()) != Ok(size) {
        return Err(Fault::package("it is cut off"));
    }
    Ok(bytes)
}
