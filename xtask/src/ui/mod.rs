//! What people read: lines, colour, tables, units, bars, and guest text made harmless.
//!
//! Standard output is for results, standard error for progress and errors. Nothing here knows a command.

mod progress;
mod sitting;
mod style;
mod table;
mod terminal;
mod units;

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};

use crate::report::JsonTo;

pub(crate) use kiln::console::sanitize;
pub(crate) use progress::Bars;
pub(crate) use sitting::{Sitting, window_size};
pub(crate) use style::{Stream, Style, paint};
pub(crate) use table::{Align, Table};
pub(crate) use terminal::{Conversation, Keys, is_possible as can_converse};
pub(crate) use units::{bytes, duration};

/// Where a command's lines for people go: to standard error when standard output is one JSON object.
pub(crate) fn stream(json: &JsonTo) -> Stream {
    if *json == JsonTo::Stdout { Stream::Stderr } else { Stream::Stdout }
}

/// Writes `text` and a line's end.
///
/// # Errors
/// The stream can't be written, where `println!` would panic; see [`is_reader_gone`].
pub(crate) fn line(stream: Stream, text: &str) -> io::Result<()> {
    let written = match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush())
        }
        Stream::Stderr => writeln!(io::stderr().lock(), "{text}"),
    };
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    })
}

/// Our own output is a pipe that no one reads any more. Any other broken pipe, to a guest's agent say, is an
/// error as others are.
#[derive(Debug)]
struct ReaderGone;

impl Error for ReaderGone {}

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no one reads the output")
    }
}

/// Whether `error` is that whoever read our output has seen enough, as `head` does: it wants no message.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    let gone = |cause: &io::Error| cause.get_ref().is_some_and(|inner| inner.is::<ReaderGone>());
    error.chain().filter_map(|cause| cause.downcast_ref()).any(gone)
}

/// Writes the line of an error.
pub(crate) fn error(text: &str) {
    let text = format!("{} {}", paint(Stream::Stderr, Style::Bad, "error:"), sanitize(text.as_bytes()));
    // With standard error closed there is no one to tell.
    let _ = line(Stream::Stderr, &text);
}
