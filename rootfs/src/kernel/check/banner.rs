//! A kernel's own words about what it is (`linux_banner`, init/version-timestamp.c).

/// What a kernel says of itself when it starts, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Banner {
    /// All of it, from the release on.
    pub text: String,
    /// What `uname -r` says.
    pub release: String,
    /// Who built it, and where.
    pub builder: Option<String>,
    /// The compiler and the linker; a bzImage's header has none.
    pub compiler: Option<String>,
    /// The build's number, flags and time: what `uname -v` says.
    pub build: Option<String>,
}

/// What an ELF kernel has before its release.
pub(super) const PREFIX: &[u8] = b"Linux version ";
/// No banner is longer.
pub(super) const LONGEST: usize = 1024;

impl Banner {
    /// Takes `text` apart, which begins with the release and ends with its line or with a zero; `None` if it begins
    /// with no release.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().take(LONGEST).position(|byte| matches!(byte, 0 | b'\n'))?;
        let text = String::from_utf8_lossy(text.get(..end)?).trim().to_owned();
        let release = text.split(' ').next().unwrap_or_default().to_owned();
        if !release.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let mut rest = text.get(release.len()..).unwrap_or_default();
        let builder = group(&mut rest);
        let compiler = group(&mut rest);
        let build = Some(rest.trim().to_owned()).filter(|build| !build.is_empty());
        Some(Self { release, builder, compiler, build, text })
    }

    /// Whether it has the build's number.
    pub(super) fn is_final(&self) -> bool {
        let number = self.build.as_deref().and_then(|build| build.strip_prefix('#'));
        number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    }
}

/// Takes a text in parentheses off the front; there may be more of them in it.
fn group(rest: &mut &str) -> Option<String> {
    let text = rest.trim_start().strip_prefix('(')?;
    let mut depth = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            *rest = text.get(at + 1..).unwrap_or_default();
            return text.get(..at).map(str::to_owned);
        }
    }
    None
}
