//! Attributes of sysfs, procfs and their like.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::about;

/// A folder of `/sys` or `/proc`, whose files are attributes: a value each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysfs(PathBuf);

impl Sysfs {
    /// The folder at `path`, which is looked for below `/sys` if it does not begin at the root.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Self(Path::new("/sys").join(path))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder `name` in it.
    #[must_use]
    pub fn folder(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Whether there is an attribute or a folder `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// The names in the folder, in order.
    ///
    /// # Errors
    /// It is not there, or can't be listed.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.0)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let mut names = list().map_err(|error| about(&self.0, &error))?;
        names.sort();
        Ok(names)
    }

    /// What the attribute `name` holds, without the line's end.
    ///
    /// # Errors
    /// It is not there or can't be read.
    pub fn read(&self, name: &str) -> io::Result<String> {
        let path = self.0.join(name);
        let text = fs::read_to_string(&path).map_err(|error| about(&path, &error))?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// The attribute `name` as a number, or whatever else can be read from text.
    ///
    /// # Errors
    /// As [`Sysfs::read`], or it holds something else.
    pub fn value<T: FromStr>(&self, name: &str) -> io::Result<T> {
        let text = self.read(name)?;
        text.trim().parse().map_err(|_| {
            let what = format!("{}: {text:?} is not what was wanted", self.0.join(name).display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }

    /// Writes `value` to the attribute `name`, in one write.
    ///
    /// # Errors
    /// It is not there, or the kernel does not take the value.
    pub fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let path = self.0.join(name);
        let written = fs::OpenOptions::new().write(true).open(&path);
        written
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(|error| about(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_is_read_and_written_and_errors_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let attributes = Sysfs::at(folder.path());
        fs::write(folder.path().join("size"), "4096\n").unwrap();
        assert_eq!(attributes.value::<u32>("size").unwrap(), 4096);
        attributes.write("size", "8192").unwrap();
        assert_eq!(attributes.read("size").unwrap(), "8192");
        assert_eq!(attributes.names().unwrap(), ["size"]);
        let error = attributes.write("gone", "1").unwrap_err();
        assert!(error.to_string().contains("/gone: No such file"), "{error}");
        fs::write(folder.path().join("size"), "big").unwrap();
        let error = attributes.value::<u32>("size").unwrap_err();
        assert!(error.to_string().contains("size: \"big\" is not"), "{error}");
        assert_eq!(Sysfs::at("class/net").path(), Path::new("/sys/class/net"));
    }
}
