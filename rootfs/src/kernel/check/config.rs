//! A kernel's configuration: the lines of its `.config`.

use std::collections::BTreeMap;
use std::io::Read;

use super::Banner;

/// What stands before and after the configuration that a kernel carries (kernel/configs.c).
const BEGIN: &[u8] = b"IKCFG_ST";
/// More than any configuration; one of all options is a third of a MiB.
const LARGEST: u64 = 16 << 20;

/// A kernel's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The kernel's version that the file names in its head, such as 6.1.158.
    pub version: Option<String>,
    /// The architecture that it names there: `x86`.
    pub arch: Option<String>,
    values: BTreeMap<String, String>,
}

impl Config {
    /// Reads the lines of a `.config`; `None` if no option is set in it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut config = Self::default();
        for line in text.lines() {
            if let Some((option, value)) = line.strip_prefix("CONFIG_").and_then(|line| line.split_once('='))
            {
                config.values.insert(option.to_owned(), value.trim().to_owned());
            } else if config.version.is_none() {
                (config.arch, config.version) = head(line).unzip();
            }
        }
        (!config.values.is_empty()).then_some(config)
    }

    /// What `option` (without `CONFIG_`) is set to; `None` if it is not set or not known to that kernel.
    #[must_use]
    pub fn value(&self, option: &str) -> Option<&str> {
        self.values.get(option).map(String::as_str).filter(|value| *value != "n")
    }

    /// Whether this can be the configuration of a kernel of `release`, by as much as both tell of their version:
    /// distributions keep the last number of their releases as it was.
    #[must_use]
    pub fn fits(&self, release: &str) -> bool {
        let series = |version: &str| {
            let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        };
        let own = self.version.as_deref().and_then(series);
        own.is_none() || own == series(release)
    }

    /// Why this is not the configuration of the kernel that says `banner` of itself, as far as both tell: the rest of
    /// a sentence.
    #[must_use]
    pub fn is_not_of(&self, banner: &Banner) -> Option<String> {
        let Some(arch) = &self.arch else {
            return Some("has not the head of a kernel's own configuration".to_owned());
        };
        if !arch.starts_with("x86") {
            return Some(format!("is for {arch}"));
        }
        if !self.fits(&banner.release) {
            return Some(format!("is of Linux {}", self.version.as_deref().unwrap_or_default()));
        }
        // Before 5.8 the banner had the compiler's words of another kind (`gcc version 8.3.0 …`).
        let said = banner.compiler.as_deref().filter(|said| !said.starts_with("gcc version "))?;
        let own = self.value("CC_VERSION_TEXT")?.trim_matches('"');
        (!said.contains(own)).then(|| format!("is for another compiler ({own})"))
    }

    /// The configuration among the bytes of a kernel that carries it (`CONFIG_IKCONFIG`).
    pub(crate) fn carried(bytes: &[u8]) -> Option<Self> {
        let begin = super::vmlinux::find(bytes, BEGIN)?.checked_add(BEGIN.len())?;
        let mut text = Vec::new();
        // The end of the gzip stream tells itself; the mark behind it is for those who can't read one.
        let packed = flate2::read::GzDecoder::new(bytes.get(begin..)?);
        packed.take(LARGEST).read_to_end(&mut text).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }
}

/// The architecture and the version in a head such as `# Linux/x86 6.1.158 Kernel Configuration`.
fn head(line: &str) -> Option<(String, String)> {
    let words = line.strip_prefix("# Linux/")?.strip_suffix(" Kernel Configuration")?;
    let (arch, version) = words.split_once(' ')?;
    Some((arch.to_owned(), version.trim().to_owned()))
}
