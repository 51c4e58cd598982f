//! What a case leaves behind that fails it though all of its assertions held: taints and modules.
//!
//! Reports on the console are the verdict's business ([`crate::console`]).

use std::collections::BTreeSet;
use std::io;

/// The kernel's taints, a letter a bit from bit 0 on (Documentation/admin-guide/tainted-kernels.rst).
const LETTERS: &str = "PFSRMBUDAWCIOELKXTNJ";
/// Those that tell where a loaded module is from, or that the kernel was made for tests, and not that anything went
/// wrong: P, C, O, E, K, X, T, N.
const HARMLESS: u64 = 1 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18;

/// Where the kernel tells its taints.
const TAINTED: &str = "/proc/sys/kernel/tainted";
/// Where it lists its modules.
const MODULES: &str = "/proc/modules";

/// A kernel's state as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noise {
    taints: u64,
    modules: BTreeSet<String>,
}

impl Noise {
    /// Takes it from the files that `read` reads. A kernel without modules has no such file.
    pub(crate) fn take(mut read: impl FnMut(&str) -> io::Result<String>) -> io::Result<Self> {
        let taints = read(TAINTED)?.trim().parse().map_err(io::Error::other)?;
        let modules = match read(MODULES) {
            Ok(text) => text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { taints, modules })
    }

    /// What is there in `after` that was not there in this, in words; none if there is nothing.
    pub(crate) fn left_in(&self, after: &Self) -> Option<String> {
        let mut left = Vec::new();
        let taints = after.taints & !self.taints & !HARMLESS;
        if taints != 0 {
            left.push(format!("a tainted kernel ({}: {taints})", letters(taints)));
        }
        let modules: Vec<&str> = after.modules.difference(&self.modules).map(String::as_str).collect();
        match modules.as_slice() {
            [] => {}
            [module] => left.push(format!("the module {module}")),
            modules => left.push(format!("the modules {}", modules.join(", "))),
        }
        let what = left.join(" and ");
        (!what.is_empty()).then(|| {
            format!("its assertions held, but it left behind {what} (`allow_warning` lets a case do so)")
        })
    }
}

/// The letters of taints, `?` for those that have none here.
pub(crate) fn letters(taints: u64) -> String {
    let bits = (0..64).filter(|bit| taints >> bit & 1 == 1);
    bits.map(|bit| LETTERS.chars().nth(bit).unwrap_or('?')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(taints: &str, modules: &str) -> Noise {
        Noise::take(|path| match path {
            TAINTED => Ok(format!("{taints}\n")),
            _ => Ok(modules.to_owned()),
        })
        .unwrap()
    }

    #[test]
    fn taint_and_module_that_came_are_named() {
        let before = state("4096", "virtio 16384 1 virtio_mmio, Live 0x0\n");
        let after = state("4608", "dummy 16384 0 - Live 0x0\nvirtio 16384 1 virtio_mmio, Live 0x0\n");
        let left = before.left_in(&after).unwrap();
        assert!(left.contains("a tainted kernel (W: 512) and the module dummy"), "{left}");
    }

    #[test]
    fn what_was_there_before_and_where_modules_are_from_is_no_noise() {
        let before = state("512", "a 1\nb 1\n");
        assert_eq!(before.left_in(&state("512", "a 1\n")), None);
        // An out-of-tree module, unsigned.
        assert_eq!(before.left_in(&state("12800", "a 1\n")), None);
        assert_eq!(letters(12800), "WOE");
    }

    #[test]
    fn kernel_without_modules_has_none() {
        let none = Noise::take(|path| match path {
            TAINTED => Ok("0".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        });
        assert_eq!(none.unwrap(), Noise::default());
    }
}
