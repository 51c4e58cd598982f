//! One step: a cargo command, or a script of ours, whose output is passed on and counted.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    counts_as: CountsAs,
    lacking: Option<String>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Whether its exit status was 0.
    pub(crate) ok: bool,
    /// The cases that its test runners told of.
    pub(crate) counts: Counts,
    /// How they count.
    pub(crate) counts_as: CountsAs,
}

/// How a step's cases count in the sum of all steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountsAs {
    /// As they are.
    Plain,
    /// Not at all: another step counts them.
    Uncounted,
    /// Another step skipped them.
    Skipped,
}

impl Ran {
    /// Adds what it counted to `sum`: a step that failed with no failed case counts as one.
    pub(crate) fn add_to(self, sum: &mut Counts) {
        let counted = self.counted();
        match self.counts_as {
            CountsAs::Skipped => sum.fill_in(counted),
            CountsAs::Plain | CountsAs::Uncounted => sum.add(counted),
        }
    }

    fn counted(self) -> Counts {
        let mut counts = if self.counts_as == CountsAs::Uncounted { Counts::default() } else { self.counts };
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
        Self {
            title: title.to_owned(),
            script: None,
            arguments,
            environment: Vec::new(),
            counts_as: CountsAs::Plain,
            lacking: None,
        }
    }

    /// The step that runs a script of our tree.
    pub(crate) fn script(title: &str, path: &'static str) -> Self {
        Self { script: Some(path), arguments: Vec::new(), ..Self::new(title, "") }
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
        self.counts_as = CountsAs::Uncounted;
        self
    }

    /// Its cases are those that another step skipped.
    pub(crate) fn of_skipped(mut self) -> Self {
        self.counts_as = CountsAs::Skipped;
        self
    }

    /// This machine lacks something for it, said in one line: it then fails with no more than that.
    pub(crate) fn lacking(mut self, what: Option<String>) -> Self {
        self.lacking = what;
        self
    }

    /// Runs it in `root`, its output passed on to `stream`. ^C ends all of its processes.
    ///
    /// # Errors
    /// It can't be started, or our own output is closed; a step that fails is no error.
    pub(crate) fn run(&self, root: &Path, stream: Stream) -> anyhow::Result<Ran> {
        if let Some(what) = &self.lacking {
            ui::error(what);
            return Ok(Ran { ok: false, counts: Counts::default(), counts_as: self.counts_as });
        }
        let program = match self.script {
            Some(path) => root.join(path).into_os_string(),
            None => std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        };
        let failed = || match self.script {
            Some(path) => format!("failed to run {path}"),
            None => format!("failed to run `cargo {}`", self.arguments.join(OsStr::new(" ")).display()),
        };
        // Held while the step is started: a ^C of that moment waits until there is somebody to end.
        let group = Arc::new(Mutex::new(None));
        let guard = on_interrupt({
            let group = group.clone();
            move || {
                if let Some(group) = *lock(&group) {
                    // Gone already is as good.
                    let _ = kill_process_group(group, Signal::INT);
                }
            }
        });
        let mut child = {
            let mut group = lock(&group);
            let child = Command::new(&program)
                .args(&self.arguments)
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .current_dir(root)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                // A group of its own, so that what it started can be ended with it.
                .process_group(0)
                .spawn()
                .with_context(failed)?;
            *group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            child
        };
        let mut tally = Tally::default();
        let passed_on = match child.stdout.take() {
            Some(stdout) => pass_on(BufReader::new(stdout), &mut tally, stream),
            None => Ok(()),
        };
        let status = child.wait().with_context(failed)?;
        drop(guard);
        passed_on?;
        Ok(Ran { ok: status.success(), counts: tally.counts(), counts_as: self.counts_as })
    }
}

fn lock(group: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    group.lock().unwrap_or_else(PoisonError::into_inner)
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
        let script = "#!/bin/sh\n[ -e check.sh ] && echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'\n";
        // Written by another process: one that a test beside this one is just starting may have a file of ours open
        // for writing, and then it can't be run.
        std::fs::write(tree.path().join("text"), script).unwrap();
        let install = "install -m 755 text check.sh";
        assert!(
            Command::new("sh").args(["-c", install]).current_dir(tree.path()).status().unwrap().success()
        );
        let ran = Step::script("check", "check.sh").run(tree.path(), Stream::Stderr).unwrap();
        assert_eq!(ran.counted(), Counts { passed: 1, failed: 0, skipped: 0 });
        assert!(Step::script("gone", "gone.sh").run(tree.path(), Stream::Stderr).is_err());
    }

    fn sum(ok: bool, failed: u64, counts_as: CountsAs) -> Counts {
        let mut sum = Counts { passed: 10, failed: 0, skipped: 5 };
        Ran { ok, counts: Counts { passed: 3, failed, skipped: 1 }, counts_as }.add_to(&mut sum);
        sum
    }

    #[test]
    fn failed_step_always_counts_as_failed() {
        assert_eq!(sum(false, 0, CountsAs::Plain), Counts { passed: 13, failed: 1, skipped: 6 });
        assert_eq!(sum(false, 2, CountsAs::Plain), Counts { passed: 13, failed: 2, skipped: 6 });
        assert_eq!(sum(false, 0, CountsAs::Uncounted), Counts { passed: 10, failed: 1, skipped: 5 });
        assert_eq!(sum(true, 0, CountsAs::Uncounted), Counts { passed: 10, failed: 0, skipped: 5 });
    }

    #[test]
    fn case_that_was_skipped_and_then_ran_counts_once() {
        assert_eq!(sum(false, 1, CountsAs::Skipped), Counts { passed: 13, failed: 1, skipped: 2 });
    }
}
