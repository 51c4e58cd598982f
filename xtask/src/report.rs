//! The one JSON object that a command writes for machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use kiln::gate;
use kiln::verdict::Verdict;
use serde::Serialize;

use crate::exit::Exit;
use crate::ui::{self, Stream};

/// The version of the object's shape: it grows when a key changes its meaning or goes, not when one comes.
const SCHEMA: u32 = 1;

/// Where the object goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JsonTo {
    /// No one asked for it.
    Nowhere,
    /// Standard output, which then carries nothing else.
    Stdout,
    /// A file, because standard output is the guest's command's.
    File(PathBuf),
}

/// Where machines ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RanOn {
    /// This host's KVM.
    Kvm,
    /// The lab.
    Lab,
}

/// Counts of assertions in guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Assertions {
    /// So many ran.
    pub(crate) run: usize,
    /// Of these, so many failed.
    pub(crate) failed: usize,
    /// So many did not run.
    pub(crate) ignored: usize,
}

/// What every command says, then what the command `T` adds of its own.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report<T> {
    schema: u32,
    command: &'static str,
    /// None for a command that judges nothing.
    pub(crate) verdict: Option<Verdict>,
    exit: u8,
    /// Where machines ran, or would.
    pub(crate) accel: Option<RanOn>,
    level: HostLevel,
    pub(crate) assertions: Assertions,
    /// Milliseconds on the machine's clock from its creation to the agent's hello.
    pub(crate) hello_ms: Option<f64>,
    directory: Option<String>,
    /// What went wrong, in one line.
    pub(crate) error: Option<String>,
    #[serde(flatten)]
    own: T,
}

/// This host's level, found out when it is written: it costs more than many a command.
#[derive(Clone, Copy, Debug)]
struct HostLevel;

impl Serialize for HostLevel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(gate::host_level().as_str())
    }
}

/// For a command that adds nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct NothingMore {}

impl<T: Serialize> Report<T> {
    /// The report of `command`, which ends with `exit`.
    pub(crate) fn new(command: &'static str, exit: Exit, own: T) -> Self {
        Self {
            schema: SCHEMA,
            command,
            verdict: None,
            exit: exit.code(),
            accel: None,
            level: HostLevel,
            assertions: Assertions::default(),
            hello_ms: None,
            directory: None,
            error: None,
            own,
        }
    }

    /// Names the run's directory.
    pub(crate) fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_string_lossy().into_owned());
        self
    }

    /// Writes the object where it was asked for.
    ///
    /// # Errors
    /// The file or standard output can't be written.
    pub(crate) fn write(&self, to: &JsonTo) -> anyhow::Result<()> {
        if *to == JsonTo::Nowhere {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(self).context("failed to make the JSON report")?;
        WRITTEN.store(true, Ordering::Relaxed);
        match to {
            JsonTo::Nowhere => Ok(()),
            JsonTo::Stdout => ui::line(Stream::Stdout, &text).context("failed to write to standard output"),
            JsonTo::File(path) => {
                fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
            }
        }
    }
}

/// Whether this process has written its object: there is only one, however a command ends after it.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// Writes the object of a command that could not do its work, unless it has written its own.
pub(crate) fn write_failure(command: &'static str, to: &JsonTo, error: String) {
    if WRITTEN.load(Ordering::Relaxed) {
        return;
    }
    let mut report = Report::new(command, Exit::UNTESTABLE, NothingMore {});
    report.verdict = Some(Verdict::Untestable);
    report.error = Some(error);
    // Whoever asked for the object learns from the status and standard error if it can't be written.
    let _ = report.write(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Own {
        kernels: Vec<&'static str>,
    }

    #[test]
    fn report_has_the_common_keys_and_the_commands_own() {
        let mut report = Report::new("kernel list", Exit::PASSED, Own { kernels: vec!["6.1"] });
        report.accel = Some(RanOn::Lab);
        let value = serde_json::to_value(report.in_directory(Path::new("/x"))).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        for key in
            "schema command verdict exit accel level assertions hello_ms directory error kernels".split(' ')
        {
            assert!(keys.contains(&key), "{key} is not in {keys:?}");
        }
        assert_eq!(value["schema"], 1);
        assert_eq!(value["accel"], "lab");
        assert_eq!(value["verdict"], serde_json::Value::Null);
        assert_eq!(value["assertions"]["run"], 0);
    }
}
