//! The options of `kiln-vmm run`, and the machine that they describe.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kiln_vmm::boot;
use kiln_vmm::config::{
    AllowedRange, Backend, Boot, DiskConfig, MachineConfig, MemoryBacking, ModuleConfig, registry,
};
use kiln_vmm::gdb::GdbAddress;
use kiln_vmm::kvm::KVM_NODE;

use super::port::{self, Port};
use super::status::ExitStatus;

/// What a Linux kernel is told if nobody says otherwise.
const LINUX_CMDLINE: &str = "console=ttyS0 panic=-1 reboot=k";

#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// The kernel: a bzImage, an ELF vmlinux or a multiboot image.
    #[arg(required_unless_present_any = ["devices", "firmware", "config"])]
    kernel: Option<PathBuf>,
    /// The machine from a file of TOML or JSON, as --print-config shows it, in place of all options that describe one.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "kernel", "firmware", "initrd", "modules", "cmdline", "cpus", "mem", "memory_backing", "disks", "devices", "read_only",
        "no_irqchip", "keep", "strict", "allowed",
    ])]
    config: Option<PathBuf>,
    /// Firmware to start at the reset vector, in place of a kernel; it gets a clock.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "modules", "cmdline"])]
    firmware: Option<PathBuf>,
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE", conflicts_with = "modules")]
    initrd: Option<PathBuf>,
    /// A module for a multiboot kernel, and what it is told with it (its name if nothing); may be repeated.
    #[arg(long = "module", value_name = "FILE[:STRING]", value_parser = module)]
    modules: Vec<ModuleConfig>,
    /// The kernel's command line [default: "console=ttyS0 panic=-1 reboot=k"; none for a multiboot kernel].
    #[arg(long, value_name = "LINE")]
    cmdline: Option<String>,
    /// A name by which `kiln-vmm status`, `pause`, `stop` and so on find the machine while it runs.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Guest RAM in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mem: u32,
    /// What guest RAM is made of: `huge-pages=transparent` (the default), `=explicit` (pages that `sysctl vm.nr_hugepages=N`
    /// set aside; they are taken at once) or `=off`; `shared` (a memfd: it has transparent huge pages only where the host's
    /// shmem_enabled says so); `prefault` (all of it there before the guest starts).
    #[arg(long, value_name = "HOW[,HOW]…", default_value_t)]
    memory_backing: MemoryBacking,
    /// A raw disk image; may be repeated.
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// A device with its properties (`help` lists them), as com2,to=pty; may be repeated.
    #[arg(long = "device", value_name = "NAME[,PROPERTY=VALUE]…")]
    pub(super) devices: Vec<String>,
    /// A named virtio port, offered on a Unix socket to the first who connects; may be repeated.
    #[arg(long = "port", value_name = "NAME=unix:PATH", value_parser = port::parse)]
    pub(super) ports: Vec<Port>,
    /// Refuse writes to the disks.
    #[arg(long)]
    read_only: bool,
    /// Make the machine on the KVM at this device node.
    #[arg(long, value_name = "NODE", default_value = KVM_NODE)]
    pub(super) kvm: PathBuf,
    /// No interrupt controllers and timers: `HLT` then ends the machine at once.
    #[arg(long)]
    no_irqchip: bool,
    /// End the machine when the guest accesses a port or an address where no device is.
    #[arg(long)]
    strict: bool,
    /// Let such accesses pass at these ports or addresses, as pio:0xcf8-0xcff or mmio:0xfed00000-0xfed003ff; may be repeated.
    #[arg(long = "allow", value_name = "BUS:FIRST[-LAST]", requires = "strict")]
    allowed: Vec<AllowedRange>,
    /// End the machine after it has run for so many seconds; while it is paused they stand still.
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
    /// What a guest's write to the debug-exit port becomes.
    #[arg(long, value_name = "KIND", default_value = "verdict")]
    pub(super) exit_status: ExitStatus,
    /// Keep the kernel that a bzImage decompresses to in this folder, for the next boot.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write what the machine did to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Write down every instruction that is carried out, a line each: which CPU, and where (hexadecimal). The guest is
    /// thousands of times slower until the limit.
    #[arg(long, value_name = "FILE")]
    pub(super) trace_instructions: Option<PathBuf>,
    /// How many instructions to write down; then the guest goes on at full speed.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, requires = "trace_instructions")]
    pub(super) trace_limit: u64,
    /// Have gdb's `target remote` find the machine at unix:PATH or tcp:[127.0.0.1:]PORT (0: any). A TCP port is open to
    /// every user of this host. Linux's own addresses match its symbols with nokaslr on its command line; `monitor
    /// help` tells what else there is.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) gdb: Option<GdbAddress>,
    /// Hold the guest before its first instruction until gdb lets it go on. Nothing of a kernel is mapped yet at that time:
    /// break in it by hbreak.
    #[arg(long, requires = "gdb")]
    pub(super) gdb_wait: bool,
    /// Show the exact machine, and do not run it; --config runs it as it is shown.
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "json")]
    pub(super) print_config: Option<ConfigFormat>,
}

/// How a machine is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ConfigFormat {
    Json,
    Toml,
}

fn module(text: &str) -> Result<ModuleConfig, String> {
    let (path, string) = match text.split_once(':') {
        Some((path, string)) => (path, Some(string.to_owned())),
        None => (text, None),
    };
    if path.is_empty() {
        return Err("write FILE or FILE:STRING".to_owned());
    }
    Ok(ModuleConfig { path: path.into(), string })
}

impl RunOptions {
    /// The machine that was asked for.
    pub(super) fn machine(&self) -> Result<MachineConfig> {
        if let Some(path) = &self.config {
            let mut config = MachineConfig::read(path)?;
            config.name = self.name.clone().or(config.name);
            return self.with_ports(config);
        }
        let disk = |path: &PathBuf| DiskConfig { path: path.clone(), read_only: self.read_only };
        let mut config = MachineConfig {
            name: self.name.clone(),
            cpus: self.cpus,
            memory: u64::from(self.mem) << 20,
            memory_backing: self.memory_backing,
            boot: self.boot()?,
            irqchip: !self.no_irqchip,
            strict: self.strict,
            allowed: self.allowed.clone(),
            disks: self.disks.iter().map(disk).collect(),
            ports: self.ports.iter().map(|port| port.name.clone()).collect(),
            virtio_console: false,
            rtc: self.firmware.is_some(),
            com1: Backend::Stdio,
            debug_console: Backend::Stdio,
            firmware_console: Backend::Stdio,
            ..MachineConfig::default()
        };
        for device in &self.devices {
            registry::set(&mut config, device).map_err(anyhow::Error::msg)?;
        }
        Ok(config)
    }

    /// A machine from a file has named ports, and this command line says where they are offered.
    fn with_ports(&self, config: MachineConfig) -> Result<MachineConfig> {
        let given: Vec<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
        if let Some(name) = config.ports.iter().find(|name| !given.contains(&name.as_str())) {
            bail!("say where the machine's port {name} is offered: --port {name}=unix:PATH");
        }
        if let Some(name) = given.iter().find(|name| !config.ports.iter().any(|port| port == *name)) {
            bail!("the machine of the configuration has no port {name}");
        }
        Ok(config)
    }

    fn boot(&self) -> Result<Boot> {
        if let Some(image) = self.firmware.clone() {
            return Ok(Boot::Firmware { image });
        }
        let given = self.kernel.clone().context("say which kernel")?;
        let initrd = self.initrd.clone();
        if !self.modules.is_empty() || boot::is_multiboot(&given)? {
            let module = |path| ModuleConfig { path, string: None };
            let modules = initrd.map(module).into_iter().chain(self.modules.iter().cloned()).collect();
            return Ok(Boot::Multiboot {
                kernel: given,
                modules,
                cmdline: self.cmdline.clone().unwrap_or_default(),
            });
        }
        let kernel = match &self.keep {
            Some(folder) => boot::vmlinux_of(&given, folder)?.unwrap_or(given),
            None => given,
        };
        let cmdline = self.cmdline.clone().unwrap_or_else(|| LINUX_CMDLINE.to_owned());
        Ok(Boot::Kernel { kernel, initrd, cmdline })
    }
}
