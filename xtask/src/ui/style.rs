//! Colour, where it is wanted.

use std::io::{self, IsTerminal};

/// One of the two standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Whether a person looks at it.
    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }

    /// Whether colour is wanted on it: on a terminal that has it, and where `NO_COLOR` is unset or empty.
    fn has_colour(self) -> bool {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        self.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
    }
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// It is well.
    Good,
    /// It failed.
    Bad,
    /// It wants a look.
    Warn,
    /// A heading.
    Strong,
    /// An aside.
    Dim,
}

/// `text` in `style`, if `stream` has colour.
pub(crate) fn paint(stream: Stream, style: Style, text: &str) -> String {
    if !stream.has_colour() {
        return text.to_owned();
    }
    // ECMA-48, SGR: 1 bold, 2 faint, 31 red, 32 green, 33 yellow, 0 none of them.
    let parameters = match style {
        Style::Good => "32",
        Style::Bad => "1;31",
        Style::Warn => "33",
        Style::Strong => "1",
        Style::Dim => "2",
    };
    format!("\x1b[{parameters}m{text}\x1b[0m")
}
