//! A module per command: its options, and how the libraries do it.

mod bench;
mod ci;
mod clean;
mod doctor;
mod kernel;
mod rootfs;
mod run;
mod shell;
mod smoke;
mod test;

use clap::Subcommand;

use crate::exit::Exit;
use crate::report::{JsonTo, write_failure};
use crate::{interrupt, ui};

/// A command with its options.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what this machine can do, what would be skipped, and how to mend it
    Doctor(doctor::Args),
    /// Fetch, build, list and check kernels
    Kernel(kernel::Args),
    /// Make a guest image, and boot it
    Rootfs(Box<rootfs::Args>),
    /// Run a command in a guest; its exit status becomes ours
    Run(Box<run::Args>),
    /// Sit at a shell in a guest, or at another command, on a terminal of its own
    Shell(Box<shell::Args>),
    /// Boot a kernel, run the built-in guest assertions, give the verdict
    Smoke(Box<smoke::Args>),
    /// Run the test suite: here if KVM runs Linux, else in the lab
    Test(test::Args),
    /// Run the benchmarks, beside the peers found on PATH
    Bench(bench::Args),
    /// Run what CI runs
    Ci(ci::Args),
    /// Empty the cache, by age, by size or whole
    Clean(clean::Args),
}

impl Command {
    /// Its name, and where its JSON object goes.
    fn describe(&self) -> (&'static str, JsonTo) {
        match self {
            Self::Doctor(args) => ("doctor", args.json.to()),
            Self::Kernel(args) => (args.name(), args.json.to()),
            Self::Rootfs(args) => ("rootfs", args.json.to()),
            Self::Run(args) => ("run", args.json.clone().map_or(JsonTo::Nowhere, JsonTo::File)),
            Self::Shell(_) => ("shell", JsonTo::Nowhere),
            Self::Smoke(args) => ("smoke", args.json.to()),
            Self::Test(args) => ("test", args.json.to()),
            Self::Bench(args) => ("bench", args.json.to()),
            Self::Ci(_) => ("ci", JsonTo::Nowhere),
            Self::Clean(_) => ("clean", JsonTo::Nowhere),
        }
    }
}

/// Carries `command` out. An error means that it could not do its work: it is shown, and nothing was learnt
/// of any kernel.
pub(crate) fn dispatch(command: Command) -> Exit {
    let (name, json) = command.describe();
    let result = interrupt::install().map_err(anyhow::Error::from).and_then(|()| match command {
        Command::Doctor(args) => doctor::run(args),
        Command::Kernel(args) => kernel::run(args),
        Command::Rootfs(args) => rootfs::run(*args),
        Command::Run(args) => run::run(*args),
        Command::Shell(args) => shell::run(*args),
        Command::Smoke(args) => smoke::run(*args),
        Command::Test(args) => test::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Ci(args) => ci::run(args),
        Command::Clean(args) => clean::run(args),
    });
    // What a signal did to the work is not told as its result: the process dies by the signal.
    interrupt::give_way();
    result.unwrap_or_else(|error| {
        if !ui::is_reader_gone(&error) {
            let text = one_line(&format!("{error:#}"));
            ui::error(&text);
            write_failure(name, &json, text);
        }
        Exit::UNTESTABLE
    })
}

/// An error's chain as one line, whatever the messages in it hold.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
