//! The command line as a whole: from words to a command, and usage errors to one line each.

use std::ffi::OsString;

use clap::Parser;
use clap::error::{Error, ErrorKind};

use crate::commands::Command;
use crate::exit::Exit;
use crate::report::{JsonTo, write_failure};
use crate::ui::{self, Stream};

/// Fires a kernel and sees whether it cracks: a VMM made for tests, guest images, and assertions in guests
#[derive(Debug, Parser)]
#[command(name = "kiln", version, after_help = STATUSES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STATUSES: &str = "\
Exit status: 0 passed; 1 the guest or the kernel failed; 124 it hung, or ran out of time; 125 it could not be \
tested (usage errors and our own failures among them). `run` and `shell` pass the guest command's own status on.";

/// What the words ask for; else help was asked for, or an error was shown, and this is the status to end with.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(&words).map_err(|error| show(&error, &words))
}

/// The command that the words name, and where they want its JSON object, as far as can be told of words that make no
/// command.
fn meant(words: &[OsString]) -> Option<(&'static str, JsonTo)> {
    let words: Vec<&str> =
        words.iter().skip(1).filter_map(|word| word.to_str()).take_while(|w| *w != "--").collect();
    let named = |word: &&str| COMMANDS.iter().find(|command| *command == word).copied();
    let to = words.iter().find_map(|word| match word.strip_prefix("--json")? {
        "" => Some(JsonTo::Stdout),
        file => file.strip_prefix('=').map(|path| JsonTo::File(path.into())),
    })?;
    let command = words.iter().find_map(named)?;
    // The standard output of `run` is the guest's command's.
    (command != "run" || to != JsonTo::Stdout).then_some((command, to))
}

/// The commands that have a JSON object.
const COMMANDS: &[&str] = &["doctor", "kernel", "rootfs", "run", "smoke", "test", "bench"];

fn show(error: &Error, words: &[OsString]) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has seen enough, as `head` does, is no error.
            let _ = error.print();
            Exit::PASSED
        }
        // No command at all: the list of them says most.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = ui::line(Stream::Stderr, error.render().to_string().trim_end());
            Exit::UNTESTABLE
        }
        _ => {
            let text = one_line(&error.render().to_string());
            ui::error(&text);
            if let Some((command, to)) = meant(words) {
                write_failure(command, &to, text);
            }
            Exit::UNTESTABLE
        }
    }
}

/// clap's message without the usage that follows it, in one line.
fn one_line(rendered: &str) -> String {
    let mut line = String::new();
    for part in rendered.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        }
        line.push_str(part.strip_prefix("error: ").unwrap_or(part));
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_error_fits_one_line_with_its_tip() {
        let rendered = "error: invalid value 'x' for '--accel <WHERE>'\n  [possible values: auto, kvm]\n\n  \
                        tip: a similar value exists\n\nUsage: kiln run\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(rendered),
            "invalid value 'x' for '--accel <WHERE>' [possible values: auto, kvm]; tip: a similar value exists"
        );
    }
}
