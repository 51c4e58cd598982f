//! `kernel`: kernels in the cache.

use clap::Subcommand;

use crate::exit::Exit;
use crate::options::JsonOption;

/// Options of `kernel`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch the distribution's packaged kernel with its modules; needs no root
    Fetch(Fetch),
    /// List the kernels in the cache
    List,
}

/// Options of `kernel fetch`.
#[derive(clap::Args, Debug)]
struct Fetch {
    /// Kernel version, as far as it matters: 6.12; without it the distribution's default
    #[arg(long, value_name = "VERSION")]
    release: Option<String>,
}

impl Args {
    /// The command's whole name.
    pub(crate) fn name(&self) -> &'static str {
        match self.action {
            Action::Fetch(_) => "kernel fetch",
            Action::List => "kernel list",
        }
    }
}

/// Fetches or lists.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    anyhow::bail!("{} is not wired yet", args.name())
}
