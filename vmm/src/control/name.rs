//! Machines' names.

/// The longest name.
pub const NAME_MAX: usize = 64;

/// Whether a machine, or one who holds it, may be called so: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first
/// neither a dot nor a dash, which would be an option to commands.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_can_be_a_files_name_and_read_aloud() {
        let long = "x".repeat(NAME_MAX);
        for name in ["a", "vm-1", "a.b_c", "0", "_", "a-", long.as_str()] {
            assert!(is_name(name), "{name}");
        }
        let longer = "x".repeat(NAME_MAX + 1);
        for name in ["", ".", "..", ".a", "-", "-a", "a/b", "a b", "a\n", "ä", "a\0", longer.as_str()] {
            assert!(!is_name(name), "{name}");
        }
    }
}
