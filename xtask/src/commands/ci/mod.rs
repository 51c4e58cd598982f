//! `ci`: what CI runs, with a heading and a time for each step.

mod fuzz;
mod merge;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kiln::gate;
use kiln::vmm::level::Level;

use crate::cargo::{Counts, Ran, Step};
use crate::exit::Exit;
use crate::ui::{self, Align, Stream, Style, Table, paint};

/// Options of `ci`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Add the steps that take long: the suite without KVM, twenty smoke runs in a row, the suite in shards, two benchmarks, a
    /// thousand forks, a kernel bisected from source, fuzzing
    #[arg(long)]
    full: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What else there is to do for CI.
#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Merge the JUnit reports of a suite's shards into one; the exit status tells whether a case failed
    Merge(merge::Args),
}

/// How often `--full` runs `smoke`: a failure of one in ten shows up in seven runs of eight.
const SMOKE_RUNS: usize = 20;

/// A step that has been run.
struct Done {
    title: String,
    ran: Ran,
    time: Duration,
}

/// Runs every step, also after one that failed, so that one run tells all; ends with the counts line.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    if let Some(Command::Merge(args)) = args.command {
        return merge::run(&args);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = workspace(&cargo)?;
    let began = Instant::now();
    let mut all = Vec::new();
    let mut steps = steps(args.full, &root);
    if args.full {
        steps.extend(fuzz::steps(&root)?);
    }
    for step in steps {
        heading(&step.title)?;
        let started = Instant::now();
        let ran = step.run(&root, Stream::Stdout)?;
        all.push(Done { title: step.title, ran, time: started.elapsed() });
    }
    summary(&all, began.elapsed())?;
    let mut counts = Counts::default();
    for done in &all {
        done.ran.add_to(&mut counts);
    }
    // Alone on the last line, for scripts.
    ui::line(Stream::Stdout, &counts.to_string())?;
    Ok(if all.iter().all(|done| done.ran.ok) { Exit::PASSED } else { Exit::FAILED })
}

/// The sample driver's own crate, tested as its author would, on the accelerator that there is.
fn sample_driver(root: &Path) -> Step {
    let mode = if matches!(gate::host_level(), Level::Linux) { "require" } else { "lab" };
    // What is under it is compiled already, and what it fetches may be here.
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty());
    let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
    Step::new("sample driver", "test --manifest-path fixtures/sample-driver/Cargo.toml")
        .env(gate::MODE_VARIABLE, mode)
        .env("CARGO_TARGET_DIR", target)
}

/// Cases whose machines boot the kernel that the sample driver is tested on. Where this host runs no Linux guest, the lab does.
fn second_kernel() -> Step {
    let accel = if matches!(gate::host_level(), Level::Linux) { "require" } else { "lab" };
    let cases = "test --package kiln-suites --test guest --locked -- --ignored kernel";
    Step::new("second kernel", cases).env(gate::MODE_VARIABLE, accel).of_skipped()
}

fn steps(full: bool, root: &Path) -> Vec<Step> {
    let mut steps = vec![
        Step::new("format", "fmt --all --check"),
        Step::new("lint", "clippy --workspace --all-targets --locked -- -D warnings"),
        Step::new("documentation", "doc --workspace --no-deps --locked").env("RUSTDOCFLAGS", "-D warnings"),
        // The README's own command; the tidy checks are among its tests.
        Step::new("tests", "xtask test"),
        Step::new(
            "guests",
            "test --package xtask --package kiln-vmm --package kiln-suites --test guests --test requests \
             --test failures --locked -- --ignored --test-threads=2",
        )
        .of_skipped(),
        Step::new("smoke", "xtask smoke"),
        sample_driver(root),
        second_kernel(),
    ];
    if full {
        steps.push(
            Step::new("tests without KVM", "test --workspace --locked --no-fail-fast")
                .env("KILN_KVM", "off")
                .uncounted(),
        );
        for number in 1..=SMOKE_RUNS {
            steps.push(Step::new(&format!("smoke, {number} of {SMOKE_RUNS}"), "xtask smoke"));
        }
        steps.push(Step::script("shards", "tests/shards/run.sh").uncounted());
        steps.push(Step::new("boot benchmark", "xtask bench boot"));
        steps.push(Step::new("fork benchmark", "xtask bench fork"));
        // A thousand machines, one snapshot. Where this host runs no Linux guest, the lab does.
        let many = "test --package kiln-suites --test guest --locked -- --ignored forks::thousand";
        let accel = if matches!(gate::host_level(), Level::Linux) { "require" } else { "lab" };
        steps.push(Step::new("a thousand forks", many).env(gate::MODE_VARIABLE, accel).of_skipped());
        // It builds a kernel from source a few times.
        steps.push(Step::script("bisect", "tests/bisect/run.sh"));
        // On the kernel that the step before has left.
        steps.push(Step::new(
            "gdb in a kernel",
            "test --package kiln-vmm --test kernel --locked -- --ignored",
        ));
    }
    steps
}

/// The folder of the workspace around the caller's folder.
fn workspace(cargo: &OsString) -> anyhow::Result<PathBuf> {
    let output = process::Command::new(cargo)
        .args(["locate-project", "--workspace", "--message-format", "plain"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {}", cargo.display()))?;
    let manifest = String::from_utf8_lossy(&output.stdout);
    match Path::new(manifest.trim_end()).parent() {
        Some(root) if output.status.success() && root.join("xtask").is_dir() => Ok(root.to_owned()),
        _ => bail!("this folder is not in kiln's own tree; `ci` checks kiln itself"),
    }
}

fn heading(title: &str) -> anyhow::Result<()> {
    ui::line(Stream::Stdout, &paint(Stream::Stdout, Style::Strong, &format!("\n== {title}")))?;
    Ok(())
}

fn summary(all: &[Done], whole: Duration) -> anyhow::Result<()> {
    heading("summary")?;
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left, Align::Left]);
    for done in all {
        let word = if done.ran.ok { "ok" } else { "FAILED" };
        let counts =
            if done.ran.counts == Counts::default() { String::new() } else { done.ran.counts.to_string() };
        table.row([done.title.clone(), ui::duration(done.time), word.to_owned(), counts]);
    }
    table.row(["all of it".to_owned(), ui::duration(whole)]);
    ui::line(Stream::Stdout, &table.to_string())?;
    Ok(())
}
