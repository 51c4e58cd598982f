//! Devices that are configured: what a serial port leads to, disks, fw_cfg's files.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a serial port or a debug console leads on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Backend {
    /// The device is not there.
    Absent,
    /// To whoever makes the machine: [`crate::machine::MachineIo::serial`]. One device can have it.
    Caller,
    /// To nothing: output is lost, and no input comes.
    Nothing,
    /// To standard output, and from standard input.
    Stdio,
    /// Into a file, which is emptied first.
    File {
        /// The file.
        path: PathBuf,
    },
    /// To a pseudo-terminal. What is said while nobody has it open is lost.
    Pty {
        /// Another path to it: a symbolic link that is made, and goes with the machine.
        #[serde(default)]
        link: Option<PathBuf>,
    },
    /// To a Unix socket that the machine listens at, one client at a time. The last 64 KiB of what is said before
    /// waits.
    Socket {
        /// The socket, which must not be there yet.
        path: PathBuf,
    },
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no device"),
            Self::Caller => f.write_str("its caller"),
            Self::Nothing => f.write_str("nothing"),
            Self::Stdio => f.write_str("standard output"),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Pty { link: None } => f.write_str("pty"),
            Self::Pty { link: Some(link) } => write!(f, "pty with the link {}", link.display()),
            Self::Socket { path } => write!(f, "socket {}", path.display()),
        }
    }
}

/// What the pvpanic port does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PvPanicConfig {
    /// It is not there.
    Off,
    /// A panic is noted, and the machine goes on: what the kernel prints next is not lost.
    #[default]
    Note,
    /// A panic ends the machine.
    End,
}

/// A file that the guest finds by name in fw_cfg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FwCfgFile {
    /// Its name, as `opt/org.example/name`: 1 to 55 printable characters.
    pub name: String,
    /// The host's file with its content, of at most 64 MiB.
    pub path: PathBuf,
}

/// An address space of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BusKind {
    /// Ports.
    Pio,
    /// Guest-physical addresses.
    Mmio,
}

/// Addresses without a device that the guest of a strict machine may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedRange {
    /// Where they are.
    pub bus: BusKind,
    /// The first one.
    pub base: u64,
    /// How many there are.
    pub size: u64,
}

impl AllowedRange {
    /// Whether all of an access of `width` bytes at `address` lies within it.
    pub(crate) fn holds(&self, bus: BusKind, address: u64, width: u8) -> bool {
        let offset = address.checked_sub(self.base);
        let end = offset.and_then(|offset| offset.checked_add(width.into()));
        self.bus == bus && end.is_some_and(|end| end <= self.size)
    }

    /// The last address, if there are any and they are addresses of the bus.
    pub(crate) fn last(&self) -> Option<u64> {
        let last = self.size.checked_sub(1).and_then(|rest| self.base.checked_add(rest))?;
        (self.bus == BusKind::Mmio || last <= u16::MAX.into()).then_some(last)
    }
}

impl fmt::Display for AllowedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bus = if self.bus == BusKind::Pio { "pio" } else { "mmio" };
        write!(f, "{bus}:{:#x}, {:#x} addresses", self.base, self.size)
    }
}

impl std::str::FromStr for AllowedRange {
    type Err = String;

    /// Reads `pio:0xcf8-0xcff` or `mmio:0xfed00000-0xfed003ff`: first and last address, or one alone.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?}: write pio:FIRST-LAST or mmio:FIRST-LAST, as pio:0xcf8-0xcff");
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| wrong()),
            None => word.parse().map_err(|_| wrong()),
        };
        let (bus, range) = text.split_once(':').ok_or_else(wrong)?;
        let bus = match bus {
            "pio" => BusKind::Pio,
            "mmio" => BusKind::Mmio,
            _ => return Err(wrong()),
        };
        let (base, last) = range.split_once('-').unwrap_or((range, range));
        let (base, last) = (number(base)?, number(last)?);
        let size = last.checked_sub(base).and_then(|rest| rest.checked_add(1)).ok_or_else(wrong)?;
        Ok(Self { bus, base, size })
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// A raw image file or a block device.
    pub path: PathBuf,
    /// Whether the guest is refused to write.
    #[serde(default)]
    pub read_only: bool,
}
