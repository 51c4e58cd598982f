//! What a build folder was configured from: if nothing of it has changed, kconfig has nothing new to say.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place::Place;
use crate::Error;
use crate::cache::sha256_of_file;

const FORMAT: &str = "kiln-build-1";
const FILE: &str = "state";

/// What a configuration was made from, and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The hash of what was asked for.
    pub(super) input: String,
    /// The hash of the `.config` that came of it.
    pub(super) output: String,
    /// The base that was given or taken.
    pub(super) base: String,
    /// Each Kconfig file, with what tells whether it has changed.
    kconfig: Vec<(String, PathBuf)>,
}

impl State {
    /// The state of a folder that has just been configured.
    pub(super) fn new(
        place: &Place,
        input: String,
        base: String,
        kconfig: &[PathBuf],
    ) -> Result<Self, Error> {
        let output = sha256_of_file(&place.made(".config"))?;
        let kconfig = kconfig.iter().map(|file| (stamp(&place.source.join(file)), file.clone())).collect();
        Ok(Self { input, output, base, kconfig })
    }

    /// What was left by the build before, if it is whole.
    pub(super) fn load(place: &Place) -> Option<Self> {
        let text = fs::read_to_string(place.own(FILE).ok()?).ok()?;
        let mut lines = text.lines();
        let mut next = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned);
        let (_, input) = (next(FORMAT)?, next("input")?);
        let (output, base) = (next("output")?, next("base")?);
        let mut kconfig = Vec::new();
        for line in lines {
            let (stamp, path) = line.split_once(' ')?;
            kconfig.push((stamp.to_owned(), PathBuf::from(path)));
        }
        Some(Self { input, output, base, kconfig })
    }

    /// Keeps it for the next build.
    pub(super) fn save(&self, place: &Place) -> Result<(), Error> {
        let Self { input, output, base, kconfig } = self;
        let mut text =
            format!("{FORMAT} of this folder's configuration\ninput {input}\noutput {output}\nbase {base}\n");
        for (stamp, path) in kconfig {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{stamp} {}", path.display());
        }
        let path = place.own(FILE)?;
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Forgets what is no longer so.
    pub(super) fn forget(place: &Place) -> Result<(), Error> {
        let path = place.own(FILE)?;
        crate::cache::remove(&path).map_err(Error::io("remove", &path))
    }

    /// Whether the folder's `.config` is still the one that came of it.
    pub(super) fn is_own(&self, place: &Place) -> bool {
        sha256_of_file(&place.made(".config")).is_ok_and(|hash| hash == self.output)
    }

    /// Whether the kernel's options are still the same.
    pub(super) fn has_same_kconfig(&self, place: &Place) -> bool {
        !self.kconfig.is_empty()
            && self.kconfig.iter().all(|(before, file)| stamp(&place.source.join(file)) == *before)
    }
}

/// What changes when a file does: its size, and when it was written.
fn stamp(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(metadata) => format!("{}:{}.{}", metadata.size(), metadata.mtime(), metadata.mtime_nsec()),
        Err(_) => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_kept_and_notices_what_changes() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { source: folder.path().join("s"), output: folder.path().join("o") };
        fs::create_dir_all(&place.source).unwrap();
        fs::create_dir_all(&place.output).unwrap();
        fs::write(place.source.join("Kconfig"), "").unwrap();
        fs::write(place.made(".config"), "CONFIG_A=y\n").unwrap();
        assert_eq!(State::load(&place), None);
        let state = State::new(&place, "1".to_owned(), "tiny".to_owned(), &["Kconfig".into()]).unwrap();
        state.save(&place).unwrap();
        assert_eq!(State::load(&place), Some(state.clone()));
        assert!(state.is_own(&place) && state.has_same_kconfig(&place));
        fs::write(place.source.join("Kconfig"), "config A\n").unwrap();
        fs::write(place.made(".config"), "").unwrap();
        assert!(!state.is_own(&place) && !state.has_same_kconfig(&place));
        State::forget(&place).unwrap();
        assert_eq!(State::load(&place), None);
    }
}
