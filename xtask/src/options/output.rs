//! What a command says, and to whom.

use clap::Args;

use crate::report::JsonTo;

/// For scripts.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output options")]
pub(crate) struct JsonOption {
    /// Write one JSON object to standard output, and all else to standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl JsonOption {
    /// Where the object goes.
    pub(crate) fn to(self) -> JsonTo {
        if self.json { JsonTo::Stdout } else { JsonTo::Nowhere }
    }
}
