//! A machine as plain data, validated in one place.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to build: everything that decides how a machine looks to its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// How many vCPUs, 1 to 254.
    pub cpus: u32,
    /// Guest RAM in bytes; a multiple of 4 KiB, at least 1 MiB for payloads.
    pub memory: u64,
    /// What the first vCPU starts with.
    pub boot: Boot,
    /// Whether KVM emulates interrupt controllers and timers. Payloads may do without: `HLT` then exits.
    pub irqchip: bool,
    /// Whether the probe device is there.
    pub probe: bool,
    /// The disks, in order: `/dev/vda`, `/dev/vdb`…
    pub disks: Vec<DiskConfig>,
    /// Named virtio-console ports beside the console, in order.
    pub ports: Vec<String>,
    /// Whether there is a virtio-console device with a console (`hvc0`).
    pub virtio_console: bool,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Boot {
    /// A kernel: bzImage or ELF, told apart by content.
    Kernel {
        /// The file.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
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

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 256 << 20,
            boot: Boot::Flat { code: Vec::new(), address: crate::layout::HIGH_MEMORY, mode: CpuMode::Long64 },
            irqchip: true,
            probe: true,
            disks: Vec::new(),
            ports: Vec::new(),
            virtio_console: true,
        }
    }
}
