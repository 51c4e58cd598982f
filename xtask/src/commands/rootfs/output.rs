//! An image on its way to where the user wants it: whole or not at all, holes kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// More links one after the other are a circle.
const MOST_LINKS: usize = 40;

/// Where an image goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A file, made beside its place and then moved there.
    File(PathBuf),
    /// A device or a pipe, which is written as it is.
    Device(PathBuf),
}

impl Output {
    /// What `path` is, after the links that it may be.
    ///
    /// # Errors
    /// It is nothing that an image can be written to.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let mut place = path.to_owned();
        for _ in 0..MOST_LINKS {
            let folder = match place.parent() {
                Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
                Some(folder) => folder,
                None => bail!("--output {}: a folder: name a file in it", path.display()),
            };
            let folder = fs::canonicalize(folder).with_context(|| {
                format!("--output {}: no such folder: {}", path.display(), folder.display())
            })?;
            // The image would be mixed with what is said about it.
            if folder.starts_with("/proc") && is_standard(&place) {
                bail!(
                    "--output {}: one of our own streams, which carry other things: name a file",
                    path.display()
                );
            }
            match fs::read_link(&place) {
                Ok(target) => place = folder.join(target),
                Err(_) => return Self::of(path, place),
            }
        }
        bail!("--output {}: links that lead in a circle", path.display());
    }

    fn of(path: &Path, place: PathBuf) -> Result<Self> {
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        match fs::metadata(&place) {
            Ok(metadata) if metadata.is_dir() || is_folder => {
                bail!("--output {}: a folder: name a file in it", path.display())
            }
            Ok(metadata) if !metadata.is_file() => Ok(Self::Device(place)),
            Ok(_) => Ok(Self::File(place)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_folder => {
                bail!("--output {}: no such folder: name a file", path.display())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::File(place)),
            Err(error) => Err(error).with_context(|| format!("failed to find {}", path.display())),
        }
    }

    /// Copies the image `from` there.
    ///
    /// # Errors
    /// It can't be written; what was at a file's place is then still there.
    pub(super) fn write(&self, from: &Path) -> Result<()> {
        let mut image = File::open(from).with_context(|| format!("failed to open {}", from.display()))?;
        match self {
            Self::Device(path) => {
                write_device(&mut image, path).with_context(|| format!("failed to write {}", path.display()))
            }
            Self::File(path) => write_file(&mut image, path)
                .with_context(|| format!("failed to write {}: nothing of it is kept", path.display())),
        }
    }
}

/// Whether it is one of a process's standard streams.
fn is_standard(descriptor: &Path) -> bool {
    descriptor.file_name().and_then(|name| name.to_str()).is_some_and(|name| matches!(name, "0" | "1" | "2"))
}

fn write_device(image: &mut File, path: &Path) -> io::Result<()> {
    let mut device = File::options().write(true).open(path)?;
    io::copy(image, &mut device)?;
    // A disk says only now what it could not take; a pipe has nothing to say.
    match device.sync_all() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

fn write_file(image: &mut File, path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    // The longest name that a folder takes is 255 bytes, and a number follows.
    if prefix.len() > 200 {
        prefix = OsString::from(".kiln");
    }
    let mut part = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    copy_sparse(image, part.as_file_mut())?;
    // Who may read what was there may read what comes there.
    if let Ok(there) = fs::metadata(path) {
        part.as_file().set_permissions(there.permissions())?;
    }
    part.persist(path).map(drop).map_err(|error| error.error)
}

/// Copies the image `from` to the file `to`, holes kept.
///
/// # Errors
/// There is no room for it.
pub(super) fn copy(from: &Path, mut to: NamedTempFile) -> Result<NamedTempFile> {
    let mut image = File::open(from).with_context(|| format!("failed to open {}", from.display()))?;
    copy_sparse(&mut image, to.as_file_mut())
        .with_context(|| format!("failed to copy {} to boot from it", from.display()))?;
    Ok(to)
}

/// Copies what is not a hole, and makes the copy as long.
fn copy_sparse(from: &mut File, to: &mut File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut at = 0;
    while let Some((begin, end)) = next_data(from, at, length)? {
        from.seek(SeekFrom::Start(begin))?;
        to.seek(SeekFrom::Start(begin))?;
        // From file to file the kernel copies, or shares the blocks.
        if io::copy(&mut from.by_ref().take(end - begin), to)? < end - begin {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    to.set_len(length)
}

/// The first run of data at or after `at`.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    if at >= length {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(begin) => Ok(Some((begin, seek(file, SeekFrom::Hole(begin))?.min(length)))),
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows of no holes.
        Err(Errno::INVAL) => Ok(Some((at, length))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};

    use super::*;

    #[test]
    fn output_keeps_holes_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let image = File::create_new(&from).unwrap();
        image.set_len(64 << 20).unwrap();
        image.write_all_at(b"data", 32 << 20).unwrap();
        fs::write(&to, "old").unwrap();
        symlink("to", dir.path().join("link")).unwrap();
        Output::find(&dir.path().join("link")).unwrap().write(&from).unwrap();
        let metadata = fs::metadata(&to).unwrap();
        assert!(metadata.len() == 64 << 20 && metadata.blocks() < 1024, "{metadata:?}");
        assert!(fs::read(&to).unwrap() == fs::read(&from).unwrap());
        assert!(dir.path().join("link").is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn output_that_can_not_be_written_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::write(&to, "old").unwrap();
        // A folder opens, and can't be read.
        let error = Output::find(&to).unwrap().write(dir.path()).unwrap_err();
        assert!(error.to_string().contains("nothing of it is kept"), "{error}");
        assert_eq!(fs::read(&to).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn output_to_a_device_is_written_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::write(&from, "image").unwrap();
        let null = Output::find(Path::new("/dev/null")).unwrap();
        assert_eq!(null, Output::Device("/dev/null".into()));
        null.write(&from).unwrap();
        let error = Output::find(Path::new("/dev/full")).unwrap().write(&from).unwrap_err();
        assert!(format!("{error:#}").contains("/dev/full: No space left"), "{error:#}");
    }

    #[test]
    fn output_that_is_no_place_for_an_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("circle", dir.path().join("circle")).unwrap();
        let refused = |path: &Path| format!("{:#}", Output::find(path).unwrap_err());
        assert!(refused(dir.path()).contains("a folder: name a file in it"));
        assert!(refused(Path::new("/")).contains("a folder"));
        assert!(refused(Path::new("/dev/stdout")).contains("our own streams"));
        assert!(refused(Path::new("/proc/self/fd/1")).contains("our own streams"));
        assert!(refused(&dir.path().join("none/x")).contains("no such folder"));
        assert!(refused(&dir.path().join("circle")).contains("circle"));
    }
}
