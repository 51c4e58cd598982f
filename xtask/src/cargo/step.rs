//! One step: a cargo command, or a script of ours, whose output is passed on and counted.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Counts, Tally};
use crate::interrupt::on_interrupt;
use crate::ui::{self, Stream};

/// A cargo command, or a script.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) title: String,
    /// The script's path in our tree; cargo if there is none.
    script: Option<&'static str>,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    counted: bool,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether its exit status was 0.
    pub(crate) ok: bool,
    /// The cases that its test runners told of.
    pub(crate) counts: Counts,
    /// Whether they count in the sum.
    pub(crate) counted: bool,
}

impl Ran {
    /// What it adds to the sum: a step that failed with no failed case counts as one.
    pub(crate) fn counted(self) -> Counts {
        let mut counts = if self.counted { self.counts } else { Counts::default() };
        if !self.ok && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }
}

impl Step {
    /// The step that runs cargo with `arguments`, parted by spaces.
    pub(crate) fn new(title: &str, arguments: &str) -> Self {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        Self { title: title.to_owned(), script: None, arguments, environment: Vec::new(), counted: true }
    }

    /// The step that runs a script of our tree.
    pub(crate) fn script(title: &str, path: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            script: Some(path),
            arguments: Vec::new(),
            environment: Vec::new(),
            counted: true,
        }
    }

    /// With one argument more, which may hold anything.
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable set.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Its cases are counted by another step.
    pub(crate) fn uncounted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// Runs it in `root`, its output passed on to `stream`. ^C ends all of its processes.
    ///
    /// # Errors
    /// It can't be started, or our own output is closed; a step that fails is no error.
    pub(crate) fn run(&self, root: &Path, stream: Stream) -> anyhow::Result<Ran> {
        let program = match self.script {
            Some(path) => root.join(path).into_os_string(),
            None => std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        };
        let failed = || match self.script {
            Some(path) => format!("failed to run {path}"),
            None => format!("failed to run `cargo {}`", self.arguments.join(OsStr::new(" ")).display()),
        };
        let mut child = Command::new(&program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A group of its own, so that what cargo started can be ended with it.
            .process_group(0)
            .spawn()
            .with_context(failed)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let guard = on_interrupt(move || {
            if let Some(group) = group {
                // Gone already is as good.
                let _ = kill_process_group(group, Signal::INT);
            }
        });
        let mut tally = Tally::default();
        let passed_on = match child.stdout.take() {
            Some(stdout) => pass_on(BufReader::new(stdout), &mut tally, stream),
            None => Ok(()),
        };
        let status = child.wait().with_context(failed)?;
        drop(guard);
        passed_on?;
        Ok(Ran { ok: status.success(), counts: tally.counts(), counted: self.counted })
    }
}

/// Passes lines on as they come, and adds up what they count.
fn pass_on(mut output: impl BufRead, tally: &mut Tally, stream: Stream) -> std::io::Result<()> {
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        tally.line(&text);
        ui::line(stream, text.trim_end_matches('\n'))?;
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_is_run_in_the_tree_and_counted() {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("check.sh");
        let script = "#!/bin/sh\n[ -e check.sh ] && echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'\n";
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let ran = Step::script("check", "check.sh").run(tree.path(), Stream::Stdout).unwrap();
        assert_eq!(ran.counted(), Counts { passed: 1, failed: 0, skipped: 0 });
        assert!(Step::script("gone", "gone.sh").run(tree.path(), Stream::Stdout).is_err());
    }

    fn ran(ok: bool, failed: u64, counted: bool) -> Counts {
        Ran { ok, counts: Counts { passed: 3, failed, skipped: 1 }, counted }.counted()
    }

    #[test]
    fn failed_step_always_counts_as_failed() {
        assert_eq!(ran(false, 0, true), Counts { passed: 3, failed: 1, skipped: 1 });
        assert_eq!(ran(false, 2, true), Counts { passed: 3, failed: 2, skipped: 1 });
        assert_eq!(ran(false, 0, false), Counts { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(ran(true, 0, false), Counts::default());
    }
}
