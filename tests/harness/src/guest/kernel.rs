//! What the running kernel tells of itself: its options and its taints.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{Sysfs, about};

/// What the option `name`, such as `CONFIG_PCI`, is set to: `y`, `m`, a number, a text without its quotes; none if it is
/// not set.
///
/// Read from `/proc/config.gz` (`CONFIG_IKCONFIG_PROC`) or, where the kernel has none, from `/boot/config-RELEASE` of the
/// image: the case's option `files` brings it.
///
/// # Errors
/// There is neither, or it can't be read.
pub fn kernel_config(name: &str) -> io::Result<Option<String>> {
    Ok(setting(&config()?, name))
}

fn config() -> io::Result<String> {
    let own = Path::new("/proc/config.gz");
    let mut text = String::new();
    match File::open(own) {
        Ok(file) => {
            let mut reader = flate2::read::GzDecoder::new(file);
            reader.read_to_string(&mut text).map_err(|error| about(own, &error))?;
            return Ok(text);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(about(own, &error)),
    }
    let release = Sysfs::at("/proc/sys/kernel").read("osrelease")?;
    let file = Path::new("/boot").join(format!("config-{release}"));
    fs::read_to_string(&file).map_err(|error| {
        let what = format!("{}: {error}, and the kernel has no {}", file.display(), own.display());
        io::Error::new(error.kind(), what)
    })
}

/// What the lines of a `.config` set `name` to.
fn setting(config: &str, name: &str) -> Option<String> {
    let value = config.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    let text = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Some(text.unwrap_or(value).to_owned())
}

/// The kernel's taints as letters (Documentation/admin-guide/tainted-kernels.rst), such as `OE`; empty for a kernel that
/// has none.
///
/// # Errors
/// The kernel does not tell.
pub fn tainted() -> io::Result<String> {
    Ok(crate::cases::letters(Sysfs::at("/proc/sys/kernel").value("tainted")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_is_what_its_line_says() {
        let config = "CONFIG_PCI=y\n# CONFIG_PCIE is not set\nCONFIG_CMDLINE=\"a b\"\nCONFIG_HZ=250\n";
        assert_eq!(setting(config, "CONFIG_PCI").as_deref(), Some("y"));
        assert_eq!(setting(config, "CONFIG_PCIE"), None);
        assert_eq!(setting(config, "CONFIG_CMDLINE").as_deref(), Some("a b"));
        assert_eq!(setting(config, "CONFIG_H"), None);
    }
}
