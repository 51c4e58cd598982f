//! Guest text on its way to a terminal or a CI log: shown, not obeyed.
//!
//! Two readers would obey it: a terminal (escape sequences, overwriting by carriage returns, text that runs
//! backwards), and a CI system that takes certain lines of a job's output for commands.

use std::fmt::Write;

/// Makes whole lines of guest text harmless; what was hidden in them becomes visible.
///
/// Control characters, invalid UTF-8 and invisible or direction-changing characters become escapes as a
/// Rust string literal has them; a carriage return before a line feed is dropped. A line that CI would take
/// for a command (`::name::` at its start, `##[name]` and `##vso[` anywhere) gets a backslash in its marker.
/// `bytes` must begin at a line's start: a marker cut in two by the caller would not be seen.
#[must_use]
pub fn sanitize(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\n' | '\t' => text.push(character),
                '\r' if characters.peek() == Some(&'\n') => {}
                c if c.is_control() || is_invisible(c) => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    defuse(&text)
}

/// Characters that show nothing, or change how others show: format characters (bidirectional controls, joiners,
/// the byte order mark, tags) and the separators that some readers take for a line's end.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Breaks the markers of workflow commands.
fn defuse(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let command = line.trim_start();
        let (indent, rest) = line.split_at(line.len() - command.len());
        safe.push_str(indent);
        if rest.starts_with("::") {
            safe.push('\\');
        }
        push_without_markers(&mut safe, rest);
    }
    safe
}

/// Appends `line`, with a backslash in each `##word[`.
fn push_without_markers(safe: &mut String, mut line: &str) {
    while let Some(hashes) = line.find("##") {
        let (before, rest) = line.split_at(hashes + 2);
        safe.push_str(before);
        line = rest;
        if rest.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '#').starts_with('[') {
            safe.push('\\');
        }
    }
    safe.push_str(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_left_as_it_is() {
        let text = "[    0.000000] Linux\tversion 6.1 ### é 漢\nstd::fs::read: ok\n";
        assert_eq!(sanitize(text.as_bytes()), text);
    }

    #[test]
    fn escape_sequences_are_shown() {
        assert_eq!(sanitize(b"\x1b[2J\x07\x7f\0"), r"\u{1b}[2J\u{7}\u{7f}\u{0}");
        assert_eq!(sanitize("\u{9b}31m".as_bytes()), r"\u{9b}31m");
    }

    #[test]
    fn carriage_return_is_shown_unless_it_ends_a_line() {
        assert_eq!(sanitize(b"passed\r\nfailed\rpassed\r"), "passed\nfailed\\rpassed\\r");
    }

    #[test]
    fn invalid_utf8_and_invisible_characters_are_shown() {
        assert_eq!(sanitize(b"a\xff\xc3"), r"a\xff\xc3");
        assert_eq!(sanitize("\u{202e}evil\u{200b}".as_bytes()), r"\u{202e}evil\u{200b}");
    }

    #[test]
    fn workflow_commands_are_defused_wherever_a_runner_looks() {
        assert_eq!(sanitize(b"::error::x\n  ::stop-commands::y\n"), "\\::error::x\n  \\::stop-commands::y\n");
        assert_eq!(sanitize("\u{a0}::error::x".as_bytes()), "\u{a0}\\::error::x");
        assert_eq!(sanitize(b"a ##[error]b ##vso[task]c"), "a ##\\[error]b ##\\vso[task]c");
        assert_eq!(sanitize(b"###[error]"), "##\\#[error]");
    }

    #[test]
    fn defused_command_cannot_be_made_by_what_is_dropped() {
        assert_eq!(sanitize(b":\r\n:error::"), ":\n:error::");
        assert_eq!(sanitize(b"\x00::error::"), r"\u{0}::error::");
    }
}
