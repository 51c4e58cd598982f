//! `kiln-vmm`: the machine as a command, for those who want no more than a machine.

mod command;

use std::io::{self, Write};
use std::process::ExitCode;

/// What the machine itself could not do.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let cli = match command::parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    match std::panic::catch_unwind(|| command::run(&cli)) {
        Ok(Ok(status)) => ExitCode::from(status),
        // What it was is on standard error; a panic's own status would be read as a verdict.
        Err(_) => ExitCode::from(FAILED),
        Ok(Err(error)) => {
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
