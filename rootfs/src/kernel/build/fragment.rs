//! Lists of options: kiln's own, each under a name, and the files of users.
//!
//! A line `# over: NAME` says what a list is merged over; `# over: nothing` that all which is not in it is off. A
//! line that begins with `# optional` says that the option on the next line may be one that the kernel does not
//! have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// kiln's own lists, each merged over one that stands before it.
const NAMED: &[(&str, &str)] = &[
    ("tiny", include_str!("../../../../fixtures/kernel/tiny.config")),
    ("smoke", include_str!("../../../../fixtures/kernel/smoke.config")),
    ("debug", include_str!("../../../../fixtures/kernel/debug.config")),
    ("kasan", include_str!("../../../../fixtures/kernel/kasan.config")),
    ("kunit", include_str!("../../../../fixtures/kernel/kunit.config")),
    ("coverage", include_str!("../../../../fixtures/kernel/coverage.config")),
];
/// What the first of them is over.
const NOTHING: &str = "nothing";
/// No list of options is larger; a distribution's has some 300 KiB.
const LARGEST: u64 = 8 << 20;

/// The names of kiln's own lists.
#[must_use]
pub fn names() -> Vec<&'static str> {
    NAMED.iter().map(|(name, _)| *name).collect()
}

/// A list of options.
#[derive(Clone, Debug)]
pub(super) struct Fragment {
    /// Its name, or its path as the user wrote it.
    pub(super) label: String,
    /// What it is merged over, if it says so.
    pub(super) over: Option<String>,
    /// Whether it is a whole configuration, as kconfig writes it, of which a kernel may not have all.
    pub(super) whole: bool,
    pub(super) settings: Vec<Setting>,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Without `CONFIG_`.
    pub(super) name: String,
    /// As a `.config` has it; `n` for what is not to be set.
    pub(super) value: String,
    /// Where it stands.
    pub(super) line: usize,
    /// Whether a kernel may not have it.
    pub(super) optional: bool,
}

/// The lists that `what`, a name or a file, stands for: what it is over comes first.
pub(super) fn chain(what: &str) -> Result<Vec<Fragment>, Error> {
    let mut lists = vec![load(what)?];
    while let Some(over) = lists.last().and_then(|list| list.over.clone()).filter(|over| over != NOTHING) {
        if !NAMED.iter().any(|(name, _)| *name == over) {
            let label = lists.last().map(|list| list.label.clone()).unwrap_or_default();
            let why =
                format!("it is to be over {over:?}, which is none of {}, {NOTHING}", names().join(", "));
            return Err(Error::file(Path::new(&label), why));
        }
        // kiln's own end: each is over one before it.
        lists.push(load(&over)?);
    }
    lists.reverse();
    Ok(lists)
}

fn load(what: &str) -> Result<Fragment, Error> {
    if let Some((name, text)) = NAMED.iter().find(|(name, _)| *name == what) {
        return read(name, text);
    }
    let path = PathBuf::from(what);
    let metadata = fs::metadata(&path).map_err(|error| {
        let looks_like_a_name = !what.contains(['/', '.']);
        match error.kind() {
            std::io::ErrorKind::NotFound if looks_like_a_name => {
                let why = format!("no such file, and none of the names {}", names().join(", "));
                Error::file(&path, why)
            }
            _ => Error::io("read the options of", &path)(error),
        }
    })?;
    if !metadata.is_file() {
        return Err(Error::file(&path, "a list of kernel options is a file"));
    }
    if metadata.len() > LARGEST {
        return Err(Error::file(&path, "too large for a list of kernel options"));
    }
    let bytes = fs::read(&path).map_err(Error::io("read the options of", &path))?;
    let text =
        String::from_utf8(bytes).map_err(|_| Error::file(&path, "a list of kernel options is text"))?;
    read(what, &text)
}

/// Reads a list of options.
pub(super) fn read(label: &str, text: &str) -> Result<Fragment, Error> {
    let mut fragment = Fragment { label: label.to_owned(), over: None, whole: false, settings: Vec::new() };
    let mut optional = false;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some((name, value)) = unset(line).map(|name| (name, "n")).or_else(|| set(line)) {
            let wrong = |why: &str| Error::file(Path::new(label), format!("line {number}: {why}"));
            if !is_name(name) {
                return Err(wrong(&format!("{name:?} is no option's name")));
            }
            if !is_value(value) {
                return Err(wrong(&format!(
                    "CONFIG_{name} can't be {value:?}: write y, m, n, a number, or text in double quotes"
                )));
            }
            let (name, value) = (name.to_owned(), value.to_owned());
            fragment.settings.push(Setting { name, value, line: number, optional });
            optional = false;
        } else if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            optional = is_optional(comment);
            fragment.whole |= comment.starts_with("Linux/") && comment.ends_with(" Kernel Configuration");
            if let Some(over) = comment.strip_prefix("over:") {
                fragment.over = Some(over.trim().to_owned());
            }
        } else if !line.is_empty() {
            let why = format!(
                "line {number}: {line:?} is neither CONFIG_NAME=VALUE nor `# CONFIG_NAME is not set`"
            );
            return Err(Error::file(Path::new(label), why));
        }
    }
    Ok(fragment)
}

fn is_optional(comment: &str) -> bool {
    comment.strip_prefix("optional").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn unset(line: &str) -> Option<&str> {
    line.strip_prefix("# CONFIG_")?.strip_suffix(" is not set")
}

fn set(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("CONFIG_")?.split_once('=')
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_value(value: &str) -> bool {
    let quoted = || value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let digits = value.strip_prefix('-').unwrap_or(value);
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => !hex.is_empty() && hex.chars().all(|c| c.is_ascii_hexdigit()),
        None => !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()),
    };
    matches!(value, "y" | "m" | "n") || number || quoted().is_some_and(is_closed)
}

/// Whether no quote within a text ends it early.
fn is_closed(inner: &str) -> bool {
    let mut escaped = false;
    for c in inner.chars() {
        match c {
            '"' if !escaped => return false,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    !escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lists_are_well_formed_and_end_at_nothing() {
        for name in names() {
            let lists = chain(name).unwrap();
            assert_eq!(lists.first().and_then(|list| list.over.as_deref()), Some(NOTHING), "{name}");
            assert_eq!(lists.last().unwrap().label, name);
        }
        let kasan: Vec<_> = chain("kasan").unwrap().into_iter().map(|list| list.label).collect();
        assert_eq!(kasan, ["tiny", "smoke", "debug", "kasan"]);
    }

    #[test]
    fn every_option_of_our_own_has_its_reason_above_it() {
        for (name, text) in NAMED {
            let mut reason = false;
            for (number, line) in (1..).zip(text.lines()) {
                let setting = set(line).is_some() || unset(line).is_some();
                assert!(!setting || reason, "{name}.config:{number}: {line} has no reason");
                // A blank line ends what a comment is about.
                reason = setting || (line.starts_with("# ") && !line.starts_with("# over:"));
            }
        }
    }

    #[test]
    fn own_lists_ask_for_nothing_twice() {
        for name in names() {
            let mut seen = std::collections::BTreeSet::new();
            for list in chain(name).unwrap() {
                for setting in list.settings {
                    assert!(seen.insert(setting.name.clone()), "{name}: CONFIG_{}", setting.name);
                }
            }
        }
    }

    #[test]
    fn settings_of_every_kind_are_read() {
        let text = "# over: tiny\nCONFIG_A=y\r\n  # CONFIG_B is not set\n# optional: since 6.9\nCONFIG_C=0x1F\n\
                    CONFIG_D=\"a \\\"b\\\"\"\n#CONFIG_E=y\nCONFIG_F=-3\n";
        let fragment = read("x", text).unwrap();
        let found: Vec<_> = fragment
            .settings
            .iter()
            .map(|s| (s.name.as_str(), s.value.as_str(), s.line, s.optional))
            .collect();
        assert_eq!(
            found,
            [
                ("A", "y", 2, false),
                ("B", "n", 3, false),
                ("C", "0x1F", 5, true),
                ("D", "\"a \\\"b\\\"\"", 6, false),
                ("F", "-3", 8, false),
            ]
        );
        assert_eq!(fragment.over.as_deref(), Some("tiny"));
    }

    #[test]
    fn whole_configuration_is_known_by_its_head() {
        let whole = |text: &str| read("x", text).unwrap().whole;
        assert!(whole("#\n# Linux/x86 6.12.1 Kernel Configuration\n#\nCONFIG_A=y\n"));
        assert!(!whole("# over: tiny\nCONFIG_A=y\n") && !whole("# for Linux\nCONFIG_A=y\n"));
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_line() {
        for line in [
            "FOO=y",
            "CONFIG_A",
            "CONFIG_A=yes",
            "CONFIG_A = y",
            "CONFIG_=y",
            "CONFIG_A=\"b",
            "CONFIG_A=\"\"\"",
            "x",
        ] {
            let error = read("f.config", &format!("CONFIG_OK=y\n\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("f.config: line 3: "), "{line}: {error}");
        }
    }

    #[test]
    fn file_that_is_none_is_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("binary"), [0xff, 0xfe]).unwrap();
        fs::write(path("over"), "# over: huge\n").unwrap();
        for (what, words) in [
            ("hugee".to_owned(), "none of the names tiny, smoke"),
            (path("missing.config"), "failed to read the options of"),
            (path(""), "is a file"),
            (path("binary"), "is text"),
            (path("over"), "\"huge\", which is none of"),
        ] {
            let error = chain(&what).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
