//! The host's distribution: which it is, and its packages without root.

mod apt;
mod config;
pub(crate) mod deb;
mod download;

use std::fs;
use std::io;
use std::process::{Command, Output};

pub use apt::Apt;

use crate::Error;

/// The distribution's name and version, such as `debian-12`, as `os-release` has them.
#[must_use]
pub fn name() -> String {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    name_in(&text)
}

fn name_in(text: &str) -> String {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    let id = value("ID").unwrap_or_else(|| "linux".to_owned());
    match value("VERSION_ID").or_else(|| value("VERSION_CODENAME")) {
        Some(version) => format!("{id}-{version}"),
        None => id,
    }
}

/// Runs a program for its output; it must succeed.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| Error::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(&format!("{program} {what}"), &output.status.to_string(), &output.stderr))
}

/// How a program failed, with the last lines of what it said as one line.
pub(crate) fn failed(program: &str, status: &str, said: &[u8]) -> Error {
    const LINES: usize = 4;
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    let said = if last.is_empty() { "it said nothing".to_owned() } else { last };
    Error::Program { program: program.to_owned(), status: status.to_owned(), said }
}

/// Whether a program failed to start because there is none.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_named_with_their_version() {
        assert_eq!(name_in("PRETTY_NAME=\"X\"\nVERSION_ID=\"12\"\nID=debian\n"), "debian-12");
        assert_eq!(name_in("ID=debian\nVERSION_CODENAME=sid\n"), "debian-sid");
        assert_eq!(name_in("ID=arch\n"), "arch");
        assert_eq!(name_in(""), "linux");
    }

    #[test]
    fn failures_are_one_line() {
        let error = failed("apt-get update", "exit status: 100", b"a\n\nE: b\n");
        assert_eq!(error.to_string(), "apt-get update failed (exit status: 100): a | E: b");
        let error = run(&mut Command::new("/nonexistent/program"), "x").unwrap_err();
        assert!(is_absent(&error));
    }
}
