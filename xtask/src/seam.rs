//! What the commands take from libraries that are being written beside them, in the shape that those give it.
//!
//! To go: each item becomes a `use` of the library's own.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// What this host's KVM can do: `kiln::vmm::level::Level`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing.
    None {
        /// Why.
        reason: String,
    },
    /// Bare-metal payloads.
    Payload {
        /// Why no more.
        reason: String,
    },
    /// Everything.
    Linux,
}

impl Level {
    /// The word that reports use.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::None { .. } => "none",
            Self::Payload { .. } => "payload",
            Self::Linux => "linux",
        }
    }
}

/// `kiln::gate::KVM_NODE`.
pub(crate) const KVM_NODE: &str = "/dev/kvm";

/// `kiln::gate::host_level()`.
pub(crate) fn host_level() -> &'static Level {
    use std::sync::OnceLock;
    static LEVEL: OnceLock<Level> = OnceLock::new();
    LEVEL.get_or_init(|| match std::fs::OpenOptions::new().read(true).write(true).open(KVM_NODE) {
        Err(error) => Level::None { reason: format!("{KVM_NODE}: {error}") },
        Ok(_) => Level::Payload { reason: "not probed yet".to_owned() },
    })
}

/// `kiln::verdict::Verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Passed.
    Passed,
    /// Can't be tested here.
    Untestable,
}

/// Where all that is downloaded or built goes.
pub(crate) fn cache_root() -> PathBuf {
    if let Some(chosen) = std::env::var_os("KILN_CACHE").filter(|v| !v.is_empty()) {
        return std::path::absolute(&chosen).unwrap_or_else(|_| chosen.into());
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty()) {
        Some(target) => PathBuf::from(target),
        None => {
            let here = std::env::current_dir().unwrap_or_default();
            here.ancestors()
                .find(|folder| folder.join("Cargo.lock").is_file())
                .unwrap_or(&here)
                .join("target")
        }
    };
    std::path::absolute(target.join("kiln")).unwrap_or_else(|_| target.join("kiln"))
}

/// The releases of the kernels in the cache.
pub(crate) fn cached_kernels(cache: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(cache.join("kernels")) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `kiln::rootfs::progress::Progress`: who is told how far long work has come.
pub(crate) trait Progress {
    /// Work on `what` begins; `total_bytes` if it is known.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The work that was begun is done.
    fn end(&self);
    /// A line that stays.
    fn note(&self, line: &str);
}
