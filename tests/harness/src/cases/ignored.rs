//! The cases that did not run, kept for those who run them elsewhere, or ask why.

use std::io;
use std::path::{Path, PathBuf};

use kiln_rootfs::cache::Cache;
use serde::{Deserialize, Serialize};

use crate::evidence::{Sink, runs_root};
use crate::gate::Needs;

/// The log's name.
const LOG: &str = "ignored.jsonl";

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
    /// Who ignored it.
    pub cause: Cause,
    /// Why it was ignored.
    pub reason: String,
}

/// Who ignored a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The gate: this host, or `KILN_KVM=off`, keeps it from running.
    Gate,
    /// Its author, by `#[ignore]`.
    Author,
    /// The case itself, by `skip!`.
    Case,
}

/// Where ignored cases are noted.
#[must_use]
pub fn ignored_log(cache: &Cache) -> PathBuf {
    cache.root().join("runs").join(LOG)
}

/// Adds `cases` to the log below `cache`, on the host outside where this is the lab; in one write, for test binaries
/// may run side by side.
pub(super) fn note(cache: &Path, cases: &[Ignored]) -> io::Result<()> {
    let mut text = Vec::new();
    for case in cases {
        serde_json::to_writer(&mut text, case)?;
        text.push(b'\n');
    }
    if text.is_empty() {
        return Ok(());
    }
    Sink::of_this_process(&runs_root(cache))?.append(LOG, &text)
}
