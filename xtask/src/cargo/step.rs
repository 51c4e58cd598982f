//! One step: a cargo command whose output is passed on and counted.

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

/// A cargo command.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) title: String,
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
            arguments,
            environment: Vec::new(),
            counts_as: CountsAs::Plain,
            lacking: None,
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
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let failed = || format!("failed to run `cargo {}`", self.arguments.join(OsStr::new(" ")).display());
        let mut child = Command::new(&cargo)
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
        Ok(Ran { ok: status.success(), counts: tally.counts(), counts_as: self.counts_as })
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
