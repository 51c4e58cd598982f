//! The commands of kiln: `cargo xtask CMD` in its own tree, `kiln CMD` anywhere.
//!
//! Responsible for the command line, for what a person or a script reads of a command, and for its exit
//! status. What a command does is the libraries' work: the modules here stay thin.

mod bench;
mod cargo;
mod cli;
mod commands;
mod crash;
mod exit;
mod guest;
mod inner;
mod interrupt;
mod options;
mod report;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    crash::install();
    crash::guard(|| match inner::run(std::env::args_os()) {
        Some(exit) => exit,
        None => match cli::parse(std::env::args_os()) {
            Ok(cli) => commands::dispatch(cli.command),
            Err(exit) => exit,
        },
    })
    .into()
}
