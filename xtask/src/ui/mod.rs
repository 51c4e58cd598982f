//! What people read: lines, colour, tables, units, bars, and guest text made harmless.
//!
//! Standard output is for results, standard error for progress and errors. Nothing here knows a command.

mod progress;
mod sanitize;
mod style;
mod table;
mod units;

use std::io::{self, Write};

use crate::report::JsonTo;

pub(crate) use progress::Bars;
pub(crate) use sanitize::sanitize;
pub(crate) use style::{Stream, Style, paint};
pub(crate) use table::{Align, Table};
pub(crate) use units::{bytes, duration};

/// Where a command's lines for people go: to standard error when standard output is one JSON object.
pub(crate) fn stream(json: &JsonTo) -> Stream {
    if *json == JsonTo::Stdout { Stream::Stderr } else { Stream::Stdout }
}

/// Writes `text` and a line's end.
///
/// # Errors
/// The stream is closed: `println!` would panic.
pub(crate) fn line(stream: Stream, text: &str) -> io::Result<()> {
    match stream {
        Stream::Stdout => writeln!(io::stdout().lock(), "{text}"),
        Stream::Stderr => writeln!(io::stderr().lock(), "{text}"),
    }
}

/// Writes the line of an error.
pub(crate) fn error(text: &str) {
    let text = format!("{} {}", paint(Stream::Stderr, Style::Bad, "error:"), sanitize(text.as_bytes()));
    // With standard error closed there is no one to tell.
    let _ = line(Stream::Stderr, &text);
}
