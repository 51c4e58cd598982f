//! The commands of kiln: `cargo xtask CMD` in its own tree, `kiln CMD` anywhere.
//!
//! Responsible for the command line, for what a person or a script reads of a command, and for its exit
//! status. What a command does is the libraries' work: the modules here stay thin.

#![expect(dead_code, unused_imports, reason = "until every command is wired to the libraries")]

mod cli;
mod commands;
mod crash;
mod exit;
mod interrupt;
mod options;
mod report;
mod seam;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    crash::install();
    crash::guard(|| match cli::parse(std::env::args_os()) {
        Ok(cli) => commands::dispatch(cli.command),
        Err(exit) => exit,
    })
    .into()
}
