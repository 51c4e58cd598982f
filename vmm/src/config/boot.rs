//! What a machine boots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Boot {
    /// A kernel: bzImage or ELF, told apart by content.
    Kernel {
        /// The file.
        kernel: PathBuf,
        /// The initial RAM disk.
        #[serde(default)]
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        #[serde(default)]
        cmdline: String,
    },
    /// A multiboot 1 image, with its modules.
    Multiboot {
        /// The file.
        kernel: PathBuf,
        /// The modules, in order.
        #[serde(default)]
        modules: Vec<ModuleConfig>,
        /// The command line behind the kernel's name.
        #[serde(default)]
        cmdline: String,
    },
    /// Firmware at the reset vector, which finds by itself what there is.
    Firmware {
        /// A ROM image of at most 256 KiB that ends at 4 GiB.
        image: PathBuf,
    },
    /// Bare code at a physical address, for payloads.
    Flat {
        /// The bytes to load.
        code: Vec<u8>,
        /// Where they go in guest-physical memory, and where the first instruction is.
        address: u64,
        /// The processor mode that it starts in.
        mode: CpuMode,
    },
}

impl Boot {
    /// Whether what boots is told of the machine by ACPI's tables.
    #[must_use]
    pub const fn has_acpi(&self) -> bool {
        match self {
            Self::Kernel { .. } | Self::Multiboot { .. } => true,
            Self::Firmware { .. } | Self::Flat { .. } => false,
        }
    }
}

/// A module of a multiboot kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// The file.
    pub path: PathBuf,
    /// What the kernel is told with it: the file's name if nothing else is given.
    #[serde(default)]
    pub string: Option<String>,
}

/// The mode a vCPU starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuMode {
    /// 16-bit real mode, segments based at zero but CS, whose base makes CS:0 the load address.
    Real16,
    /// 32-bit protected mode, flat segments, paging off.
    Protected32,
    /// 64-bit long mode, the first 4 GiB mapped one to one.
    Long64,
}
