//! `shell`: a command in a guest, on a terminal.

use anyhow::{Result, bail};
use kiln::rootfs::cache::Cache;
use kiln::run::{CommandPlan, Task};

use crate::exit::Exit;
use crate::guest::{self, SITTING, Show};
use crate::options::{ImageOptions, MachineOptions};
use crate::ui;

/// Options of `shell`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Ctrl-a x leaves: the guest is hung up and powered off, and the exit status is 0; Ctrl-a twice is one for the guest. \
While the guest boots, ^C ends it. There is no time limit unless one is given. Both standard input and standard output \
have to be a terminal: for pipes there is `run`.")]
pub(crate) struct Args {
    /// The command to run in the guest, and its arguments, in place of a shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    image: ImageOptions,

    /// Leave out the busybox that is otherwise in the image
    #[arg(long, help_heading = "Image options", conflicts_with = "busybox", requires = "command")]
    no_busybox: bool,
}

/// The shell of the image, as one that a person logs in to.
const SHELL: [&str; 2] = ["/bin/sh", "-l"];

/// Runs it; its exit status becomes ours.
pub(crate) fn run(args: Args) -> Result<Exit> {
    if !ui::can_converse() {
        bail!(
            "shell needs a terminal on standard input and standard output; `run --busybox -- sh` takes what comes through a pipe"
        );
    }
    let cache = Cache::open(None)?;
    let mut recipe = guest::recipe(&args.machine, Some(&args.image));
    recipe.busybox = !args.no_busybox;
    if args.machine.timeout.timeout.is_none() {
        recipe.timeout = SITTING;
    }
    let argv = if args.command.is_empty() { SHELL.map(str::to_owned).to_vec() } else { args.command };
    let program = argv.first().map_or("", String::as_str);
    let case = program.rsplit('/').next().unwrap_or(program).to_owned();
    let terminal = std::env::var("TERM").ok().filter(|name| !name.is_empty());
    let task = Task::Command(CommandPlan {
        argv,
        env: terminal.map(|name| ("TERM".to_owned(), name)).into_iter().collect(),
        cwd: None,
        terminal: Some(ui::window_size()),
    });
    let done =
        guest::boot(&cache, &recipe, task, args.machine.accel.accel, ("shell", &case), Show::Terminal)?;
    let exit = guest::exit_of_command(&done)?;
    if args.machine.trace {
        guest::show_trace(&done.directory)?;
    }
    Ok(exit)
}
