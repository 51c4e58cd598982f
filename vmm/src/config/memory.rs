//! What guest RAM is made of on the host.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What guest RAM is made of on the host; the guest can't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryBacking {
    /// Which huge pages it lies on.
    pub huge_pages: HugePages,
    /// Whether it is a file in memory (`memfd`), that other processes can map as well. Transparent huge pages are then the
    /// host's to allow (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`), which most hosts don't.
    pub shared: bool,
    /// Whether all of it is there before the guest starts: it then never waits for a page, nor ends for want of one.
    pub prefault: bool,
}

/// The huge pages of guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// The host may use them where it has some.
    #[default]
    Transparent,
    /// All of it lies on pages of 2 MiB that the host's owner has set aside (`vm.nr_hugepages`); they are taken at once.
    Explicit,
    /// None.
    Off,
}

impl HugePages {
    const ALL: [Self; 3] = [Self::Transparent, Self::Explicit, Self::Off];

    fn name(self) -> &'static str {
        match self {
            Self::Transparent => "transparent",
            Self::Explicit => "explicit",
            Self::Off => "off",
        }
    }
}

impl FromStr for MemoryBacking {
    type Err = String;

    /// Reads `huge-pages=transparent|explicit|off`, `shared` and `prefault`, with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut backing = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
            match (key, value) {
                ("huge-pages", Some(value)) => {
                    let kind = HugePages::ALL.into_iter().find(|kind| kind.name() == value);
                    backing.huge_pages = kind
                        .ok_or_else(|| format!("huge-pages={value}: write transparent, explicit or off"))?;
                }
                ("shared", None) => backing.shared = true,
                ("prefault", None) => backing.prefault = true,
                _ => {
                    return Err(format!(
                        "{part:?}: write huge-pages=transparent|explicit|off, shared, prefault"
                    ));
                }
            }
        }
        Ok(backing)
    }
}

impl Display for MemoryBacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "huge-pages={}", self.huge_pages.name())?;
        f.write_str(if self.shared { ",shared" } else { "" })?;
        f.write_str(if self.prefault { ",prefault" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_reads_back_from_what_is_said_of_it() {
        for huge_pages in HugePages::ALL {
            for (shared, prefault) in [(false, false), (true, false), (false, true), (true, true)] {
                let backing = MemoryBacking { huge_pages, shared, prefault };
                assert_eq!(backing.to_string().parse(), Ok(backing));
            }
        }
        assert_eq!("prefault".parse(), Ok(MemoryBacking { prefault: true, ..MemoryBacking::default() }));
    }

    #[test]
    fn what_is_no_backing_is_refused_with_what_would_be() {
        for (text, words) in [
            ("", "write huge-pages"),
            ("huge-pages", "write huge-pages"),
            ("huge-pages=1G", "transparent, explicit or off"),
            ("shared=on", "shared, prefault"),
            ("prefault,prefault", "twice"),
        ] {
            let error = text.parse::<MemoryBacking>().unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
