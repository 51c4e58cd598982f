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

/// A configuration that is no machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The number of vCPUs.
    #[error("{0} CPUs: a machine has 1 to {CPUS_MAX}")]
    Cpus(u32),
    /// Several vCPUs without the interrupt controllers that would start the others.
    #[error("{0} CPUs without interrupt controllers: only one can run")]
    CpusWithoutIrqchip(u32),
    /// The size of RAM.
    #[error(
        "{0} bytes of memory: a machine has {MEMORY_MIN} bytes (1 MiB) to {MEMORY_MAX} bytes (4 TiB), in multiples of 4096"
    )]
    Memory(u64),
    /// The number of disks.
    #[error("{0} disks: a machine has at most {DISKS_MAX}")]
    Disks(usize),
    /// The names of ports.
    #[error("port name {0:?}: names are distinct, of 1 to 64 printable characters, and at most {PORTS_MAX}")]
    Port(String),
}

/// The most vCPUs that eight bits of APIC ID leave room for, beside the I/O APIC's and the broadcast's.
pub const CPUS_MAX: u32 = 254;
/// The least RAM.
pub const MEMORY_MIN: u64 = 1 << 20;
/// The most RAM: what one of KVM's slots holds is just under 8 TiB.
pub const MEMORY_MAX: u64 = 4 << 40;
/// The most disks: `vda` to `vdz`.
pub const DISKS_MAX: usize = 26;
/// The most named ports.
pub const PORTS_MAX: usize = 16;

impl MachineConfig {
    /// Checks all that can be checked without the host.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if self.cpus > 1 && !self.irqchip {
            return Err(ConfigError::CpusWithoutIrqchip(self.cpus));
        }
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&self.memory) || !self.memory.is_multiple_of(4096) {
            return Err(ConfigError::Memory(self.memory));
        }
        if self.disks.len() > DISKS_MAX {
            return Err(ConfigError::Disks(self.disks.len()));
        }
        for (index, name) in self.ports.iter().enumerate() {
            let printable = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
            let repeated = self.ports.iter().take(index).any(|other| other == name);
            if !printable || repeated || index >= PORTS_MAX {
                return Err(ConfigError::Port(name.clone()));
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut MachineConfig)) -> String {
        let mut config = MachineConfig::default();
        config.validate().unwrap();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn absurd_numbers_are_refused_with_what_is_possible() {
        assert_eq!(refused(|c| c.cpus = 0), "0 CPUs: a machine has 1 to 254");
        assert_eq!(refused(|c| c.cpus = 10_000), "10000 CPUs: a machine has 1 to 254");
        assert!(refused(|c| c.memory = 0).contains("1 MiB"));
        assert!(refused(|c| c.memory = (1 << 20) + 1).contains("multiples of 4096"));
        assert!(refused(|c| c.memory = u64::MAX).contains("4 TiB"));
        assert!(refused(|c| (c.cpus, c.irqchip) = (2, false)).contains("only one"));
        let disk = DiskConfig { path: "x".into(), read_only: true };
        assert!(refused(|c| c.disks = vec![disk; 27]).contains("at most 26"));
    }

    #[test]
    fn ports_have_distinct_names() {
        for ports in [vec![""], vec!["a", "a"], vec!["a b"], vec!["a\n"]] {
            assert!(
                refused(|c| c.ports = ports.into_iter().map(str::to_owned).collect()).contains("port name")
            );
        }
    }

    #[test]
    fn machine_reads_back_from_json() {
        let config = MachineConfig { ports: vec!["kiln.agent".to_owned()], ..MachineConfig::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MachineConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<MachineConfig>(r#"{"cpu": 1}"#).is_err());
    }
}
