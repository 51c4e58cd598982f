//! The cases that a host could not run, kept for those who run them elsewhere.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_rootfs::cache::Cache;
use serde::{Deserialize, Serialize};

use crate::gate::Needs;

/// A case that was ignored: one line of [`ignored_log`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ignored {
    /// Its test target.
    pub suite: String,
    /// Its name.
    pub case: String,
    /// The test binary.
    pub binary: PathBuf,
    /// The level of KVM that it needs.
    pub needs: Needs,
    /// Why it was ignored.
    pub reason: String,
}

/// Where ignored cases are noted.
#[must_use]
pub fn ignored_log(cache: &Cache) -> PathBuf {
    cache.root().join("ignored.jsonl")
}

/// Adds `cases` to the log, in one write: test binaries may run side by side.
pub(super) fn note(log: &Path, cases: &[Ignored]) -> io::Result<()> {
    let mut text = Vec::new();
    for case in cases {
        serde_json::to_writer(&mut text, case)?;
        text.push(b'\n');
    }
    if text.is_empty() {
        return Ok(());
    }
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).open(log)?.write_all(&text)
}
