//! Text for others to read.

use std::fmt::Write;

/// Cuts `text` to at most `most` bytes, and never within a character.
pub(crate) fn cut(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text.truncate(end);
}

/// `text` as a JSON string.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        let mut text = "aéé".to_owned();
        cut(&mut text, 4);
        assert_eq!(text, "aé");
        cut(&mut text, 100);
        assert_eq!(text, "aé");
    }

    #[test]
    fn json_strings_keep_what_json_reserves() {
        assert_eq!(json("a\"b\\c\n\u{1}é"), r#""a\"b\\c\n\u0001é""#);
    }
}
