//! The words by which this program, carried into the lab or built anew, is told what to do there. They are between it
//! and itself, so no help names them.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kiln::evidence::RunDirectory;
use kiln::lab::{INNER_PLAN, line_inside};
use kiln::run::{Plan, TaskIo, execute};

use crate::bench::{
    INNER_BENCH, INNER_EXITS, INNER_FORK, INNER_FORK_CASE, INNER_FORK_RESTORE, inner_bench, inner_case,
    inner_exits, inner_fork, inner_restore,
};
use crate::exit::Exit;
use crate::ui;

/// Does what the words say, if they are such.
pub(crate) fn run(words: impl IntoIterator<Item = OsString>) -> Option<Exit> {
    let words: Vec<String> =
        words.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        [INNER_PLAN, plan, directory] => carry_out(Path::new(plan), directory),
        [INNER_BENCH, spec] => inner_bench(Path::new(spec)).map(|()| Exit::PASSED),
        [INNER_FORK, spec] => inner_fork(Path::new(spec)).map(|()| Exit::PASSED),
        [INNER_FORK_RESTORE, spec] => inner_restore(Path::new(spec)).map(|()| Exit::PASSED),
        [INNER_FORK_CASE] => Ok(inner_case()),
        [INNER_EXITS] => inner_exits().map(|()| Exit::PASSED),
        _ => return None,
    };
    Some(result.unwrap_or_else(|error| {
        ui::error(&format!("{error:#}"));
        Exit::UNTESTABLE
    }))
}

/// Carries out the plan in a file; its evidence goes out through the pipe that the environment names.
fn carry_out(plan: &Path, directory: &str) -> Result<Exit> {
    let text = std::fs::read(plan).with_context(|| format!("failed to read {}", plan.display()))?;
    let plan: Plan = serde_json::from_slice(&text).context("failed to read the plan")?;
    let directory =
        Arc::new(RunDirectory::join(Path::new("/"), directory).context("failed to find the evidence pipe")?);
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let console = plan.show_console.then(|| Box::new(io::stderr()) as Box<dyn io::Write + Send>);
    let mut io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console, line: None };
    if plan.has_terminal() {
        io.line = Some(line_inside(io::stdin()).context("failed to follow the terminal outside")?);
    } else {
        io.stdin = Some(Box::new(io::stdin()));
    }
    let report = execute(&plan, &directory, io);
    Ok(Exit::status(report.verdict.exit()))
}
