//! A machine as plain data, validated in one place.

mod boot;
mod device;
mod file;
mod memory;
pub mod registry;

use serde::{Deserialize, Serialize};

pub use boot::{Boot, CpuMode, ModuleConfig};
pub use device::{AllowedRange, Backend, BusKind, DiskConfig, FwCfgFile, PvPanicConfig};
pub use file::ConfigFileError;
pub use memory::{HugePages, MemoryBacking};

/// What to build: everything that decides how a machine looks to its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// What other processes of this user find the machine by ([`crate::control`]); without a name they don't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many vCPUs, 1 to 254.
    pub cpus: u32,
    /// Guest RAM in bytes; a multiple of 4 KiB, at least 1 MiB for payloads.
    pub memory: u64,
    /// What RAM is made of on the host.
    pub memory_backing: MemoryBacking,
    /// What the first vCPU starts with.
    pub boot: Boot,
    /// Whether KVM emulates interrupt controllers and timers. Payloads may do without: `HLT` then exits.
    pub irqchip: bool,
    /// Whether the probe device is there.
    pub probe: bool,
    /// The disks, in order: `/dev/vda`, `/dev/vdb`…
    pub disks: Vec<DiskConfig>,
    /// Whether there is one more disk, behind the others: read-only and of no sectors, until a machine that is restored
    /// from this one's snapshot gets a file there. The same place is there as persistent memory, for guests that have a driver for
    /// that (virtio-pmem): of [`RESERVED_MEMORY`](crate::layout::RESERVED_MEMORY) bytes, all zero.
    pub reserved_disk: bool,
    /// Named virtio-console ports beside the console, in order.
    pub ports: Vec<String>,
    /// Whether there is a virtio-console device with a console (`hvc0`).
    pub virtio_console: bool,
    /// Where COM1 leads.
    pub com1: Backend,
    /// Where COM2 leads, if it is there.
    pub com2: Backend,
    /// Where COM3 leads, if it is there.
    pub com3: Backend,
    /// Where COM4 leads, if it is there.
    pub com4: Backend,
    /// Where the debug console at port 0xe9 leads, if it is there.
    pub debug_console: Backend,
    /// Where the debug console at port 0x402 leads, if it is there.
    pub firmware_console: Backend,
    /// What the pvpanic port does.
    pub pvpanic: PvPanicConfig,
    /// Whether there is CMOS with a clock. Linux asks it for the time, which costs a boot some exits.
    pub rtc: bool,
    /// Whether there is fw_cfg.
    pub fw_cfg: bool,
    /// The files that the guest finds in fw_cfg.
    pub fw_cfg_files: Vec<FwCfgFile>,
    /// Whether there are `pc-testdev`'s registers, which need the ports of the debug console at 0xe9.
    pub testdev: bool,
    /// Whether an access to where no device is ends the machine.
    pub strict: bool,
    /// Where a strict machine lets such accesses pass.
    pub allowed: Vec<AllowedRange>,
}

/// A configuration that is no machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The machine's name.
    #[error("name {0:?}: a machine's name is 1 to 64 of A-Z a-z 0-9 . _ -, and begins with no dot or dash")]
    Name(String),
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
    /// The size of RAM on explicit huge pages.
    #[error("{0} bytes of memory on explicit huge pages: these need a multiple of 2097152 bytes (2 MiB)")]
    MemoryHugePages(u64),
    /// The number of disks.
    #[error("{0} disks: a machine has at most {DISKS_MAX}")]
    Disks(usize),
    /// The names of ports.
    #[error("port name {0:?}: names are distinct, of 1 to 64 printable characters, and at most {PORTS_MAX}")]
    Port(String),
    /// Several devices that want what one alone can have.
    #[error("{0} and {1} both lead to {2}: only one device can")]
    Backend(&'static str, &'static str, String),
    /// COM1 is on every machine.
    #[error("COM1 can't be absent: let it lead to nothing")]
    NoCom1,
    /// Devices at the same ports.
    #[error("testdev and the debug console at 0xe9 are at the same ports: leave one of them out")]
    TestdevAndDebugConsole,
    /// Files for a device that is not there.
    #[error("there are files for fw_cfg, which is not there")]
    FilesWithoutFwCfg,
    /// Exceptions to what is no rule.
    #[error("accesses to nothing are allowed at {0}, but end no machine that is not strict")]
    AllowedWithoutStrict(AllowedRange),
    /// A range that is none.
    #[error("accesses are to be allowed at {0}: that is no range, or past the last port")]
    Allowed(AllowedRange),
    /// The number of such ranges.
    #[error("{0} ranges where accesses to nothing are allowed: a machine has at most {ALLOWED_MAX}")]
    AllowedRanges(usize),
    /// A file's name.
    #[error(
        "fw_cfg file {0:?}: names are distinct, of 1 to {FW_CFG_NAME_MAX} printable characters, and at most {FW_CFG_FILES_MAX}"
    )]
    FwCfgName(String),
}

/// The most vCPUs that eight bits of APIC ID leave room for, beside the I/O APIC's and the broadcast's.
pub const CPUS_MAX: u32 = 254;
/// The least RAM.
pub const MEMORY_MIN: u64 = 1 << 20;
/// The most RAM: what one of KVM's slots holds is just under 8 TiB.
pub const MEMORY_MAX: u64 = 4 << 40;
/// The most disks: `vda` to `vdz`.
pub const DISKS_MAX: usize = 26;
/// The most files in fw_cfg, beside the machine's own.
pub const FW_CFG_FILES_MAX: usize = 256;
/// The longest name of a file in fw_cfg.
pub const FW_CFG_NAME_MAX: usize = crate::device::fw_cfg::NAME_MAX;
/// The most ranges where a strict machine allows accesses to nothing.
pub const ALLOWED_MAX: usize = 256;
/// The most named ports.
pub const PORTS_MAX: usize = 16;

/// A huge page of x86-64 as guest RAM uses it: 2 MiB (Intel SDM, volume 3, §4.5.4).
const HUGE_PAGE: u64 = crate::memory::HUGE_PAGE as u64;

impl MachineConfig {
    /// Checks all that can be checked without the host.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.name.as_ref().filter(|name| !crate::control::is_name(name)) {
            return Err(ConfigError::Name(name.clone()));
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        if self.cpus > 1 && !self.irqchip {
            return Err(ConfigError::CpusWithoutIrqchip(self.cpus));
        }
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&self.memory) || !self.memory.is_multiple_of(4096) {
            return Err(ConfigError::Memory(self.memory));
        }
        // The hole begins and ends on such a boundary: then all regions are multiples of it.
        if self.memory_backing.huge_pages == HugePages::Explicit && !self.memory.is_multiple_of(HUGE_PAGE) {
            return Err(ConfigError::MemoryHugePages(self.memory));
        }
        let disks = self.disks.len() + usize::from(self.reserved_disk);
        if disks > DISKS_MAX {
            return Err(ConfigError::Disks(disks));
        }
        for (index, name) in self.ports.iter().enumerate() {
            let printable = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
            let repeated = self.ports.iter().take(index).any(|other| other == name);
            if !printable || repeated || index >= PORTS_MAX {
                return Err(ConfigError::Port(name.clone()));
            }
        }
        if self.com1 == Backend::Absent {
            return Err(ConfigError::NoCom1);
        }
        self.validate_backends()?;
        if self.testdev && self.debug_console != Backend::Absent {
            return Err(ConfigError::TestdevAndDebugConsole);
        }
        if let Some(first) = self.allowed.first().filter(|_| !self.strict) {
            return Err(ConfigError::AllowedWithoutStrict(*first));
        }
        if let Some(none) = self.allowed.iter().find(|range| range.last().is_none()) {
            return Err(ConfigError::Allowed(*none));
        }
        if self.allowed.len() > ALLOWED_MAX {
            return Err(ConfigError::AllowedRanges(self.allowed.len()));
        }
        if !self.fw_cfg && !self.fw_cfg_files.is_empty() {
            return Err(ConfigError::FilesWithoutFwCfg);
        }
        for (index, file) in self.fw_cfg_files.iter().enumerate() {
            let name = &file.name;
            let printable =
                (1..=FW_CFG_NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
            let repeated = self.fw_cfg_files.iter().take(index).any(|other| other.name == *name);
            // Names of the machine's own.
            let taken = name == FW_CFG_E820;
            if !printable || repeated || taken || index >= FW_CFG_FILES_MAX {
                return Err(ConfigError::FwCfgName(name.clone()));
            }
        }
        Ok(())
    }

    /// The serial ports and debug consoles that are there, by name, in a fixed order.
    #[must_use]
    pub fn backends(&self) -> Vec<(&'static str, &Backend)> {
        let all = [
            ("COM1", &self.com1),
            ("COM2", &self.com2),
            ("COM3", &self.com3),
            ("COM4", &self.com4),
            ("debug console", &self.debug_console),
            ("firmware console", &self.firmware_console),
        ];
        all.into_iter().filter(|(_, backend)| **backend != Backend::Absent).collect()
    }

    /// Two devices may share nothing and standard output, but no file, socket or caller, and one reads standard input.
    fn validate_backends(&self) -> Result<(), ConfigError> {
        let all = self.backends();
        for (index, (name, backend)) in all.iter().enumerate() {
            let shared = matches!(backend, Backend::Nothing | Backend::Pty { link: None });
            let reads = |name: &str| name.starts_with("COM");
            let clash = all.iter().take(index).find(|(other, its)| {
                its == backend && !shared && (**backend != Backend::Stdio || reads(name) && reads(other))
            });
            if let Some((other, _)) = clash {
                return Err(ConfigError::Backend(other, name, backend.to_string()));
            }
        }
        Ok(())
    }
}

/// The memory map as fw_cfg has it for firmware.
pub(crate) const FW_CFG_E820: &str = "etc/e820";

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            name: None,
            cpus: 1,
            memory: 256 << 20,
            memory_backing: MemoryBacking::default(),
            boot: Boot::Flat { code: Vec::new(), address: crate::layout::HIGH_MEMORY, mode: CpuMode::Long64 },
            irqchip: true,
            probe: true,
            disks: Vec::new(),
            reserved_disk: false,
            ports: Vec::new(),
            virtio_console: true,
            com1: Backend::Caller,
            com2: Backend::Absent,
            com3: Backend::Absent,
            com4: Backend::Absent,
            debug_console: Backend::Nothing,
            firmware_console: Backend::Nothing,
            pvpanic: PvPanicConfig::Note,
            rtc: false,
            fw_cfg: true,
            fw_cfg_files: Vec::new(),
            testdev: false,
            strict: false,
            allowed: Vec::new(),
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
        assert!(refused(|c| c.name = Some("a/b".to_owned())).contains("machine's name"));
        assert!(refused(|c| c.memory = 0).contains("1 MiB"));
        assert!(refused(|c| c.memory = (1 << 20) + 1).contains("multiples of 4096"));
        assert!(refused(|c| c.memory = u64::MAX).contains("4 TiB"));
        let explicit = MemoryBacking { huge_pages: HugePages::Explicit, ..MemoryBacking::default() };
        assert!(refused(|c| (c.memory, c.memory_backing) = (3 << 20, explicit)).contains("2 MiB"));
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
    fn devices_that_are_in_each_others_way_are_refused() {
        let file = || Backend::File { path: "log".into() };
        assert_eq!(
            refused(|c| (c.com1, c.com3) = (file(), file())),
            "COM1 and COM3 both lead to file log: only one device can"
        );
        assert!(refused(|c| c.com2 = Backend::Caller).contains("COM1 and COM2"));
        assert!(refused(|c| (c.com1, c.com2) = (Backend::Stdio, Backend::Stdio)).contains("COM2"));
        assert!(refused(|c| c.com1 = Backend::Absent).contains("COM1 can't be absent"));
        assert!(refused(|c| c.testdev = true).contains("0xe9"));
        let console =
            MachineConfig { com1: Backend::Stdio, debug_console: Backend::Stdio, ..MachineConfig::default() };
        console.validate().unwrap();
    }

    #[test]
    fn allowed_ranges_are_ranges_of_a_strict_machine() {
        let allow = |text: &str| text.parse::<AllowedRange>().unwrap();
        assert!(refused(|c| c.allowed = vec![allow("pio:0xcf8-0xcff")]).contains("pio:0xcf8, 0x8 addresses"));
        let past = vec![allow("pio:0xffff-0x10000")];
        assert!(refused(|c| (c.strict, c.allowed) = (true, past)).contains("past the last port"));
        let none = AllowedRange { bus: BusKind::Mmio, base: 1, size: 0 };
        assert!(refused(|c| (c.strict, c.allowed) = (true, vec![none])).contains("no range"));
        let many = vec![allow("mmio:7"); ALLOWED_MAX + 1];
        assert!(refused(|c| (c.strict, c.allowed) = (true, many)).contains("at most 256"));
        for text in ["", "pio", "pio:", "pio:2-1", "isa:1", "mmio:0-0xffffffffffffffff", "pio:0x"] {
            assert!(text.parse::<AllowedRange>().unwrap_err().contains("pio:0xcf8-0xcff"), "{text}");
        }
    }

    #[test]
    fn fw_cfg_files_have_distinct_names_that_fit() {
        let file = |name: &str| FwCfgFile { name: name.to_owned(), path: "x".into() };
        let long = "x".repeat(56);
        for names in [vec![""], vec!["a b"], vec!["a", "a"], vec![FW_CFG_E820], vec![&long]] {
            let files: Vec<_> = names.iter().map(|name| file(name)).collect();
            assert!(refused(|c| c.fw_cfg_files = files).contains("fw_cfg file"), "{names:?}");
        }
        assert!(refused(|c| (c.fw_cfg, c.fw_cfg_files) = (false, vec![file("a")])).contains("not there"));
    }

    #[test]
    fn machine_reads_back_from_json() {
        let config = MachineConfig { ports: vec!["kiln.agent".to_owned()], ..MachineConfig::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MachineConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<MachineConfig>(r#"{"cpu": 1}"#).is_err());
    }
}
