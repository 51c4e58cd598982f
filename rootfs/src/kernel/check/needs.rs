//! The kernel options that a guest of ours needs, and what each is for.
//!
//! The list follows what kiln does: the machine's devices, what the agent calls, what the assertions open. An option
//! is here because something named in its purpose fails without it.

/// An option that a guest needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its name, without `CONFIG_`.
    pub option: &'static str,
    /// Whether nothing works without it; else only what its purpose names does not.
    pub needed: bool,
    /// What it is for.
    pub purpose: &'static str,
    /// The module that it makes where it is set to `m`; `None` for an option that is built in or not there.
    pub module: Option<&'static str>,
    /// The first version of Linux that knows it, where what it gives was always there before.
    pub since: (u32, u32),
}

/// For an option that is as old as any kernel that boots here.
const ALWAYS: (u32, u32) = (0, 0);

const fn needed(option: &'static str, purpose: &'static str) -> Need {
    Need { option, needed: true, purpose, module: None, since: ALWAYS }
}

const fn wanted(option: &'static str, purpose: &'static str) -> Need {
    Need { option, needed: false, purpose, module: None, since: ALWAYS }
}

const fn module(name: &'static str, need: Need) -> Need {
    Need { module: Some(name), ..need }
}

const fn since(major: u32, minor: u32, need: Need) -> Need {
    Need { since: (major, minor), ..need }
}

/// All of them, those first that nothing works without.
pub const NEEDS: &[Need] = &[
    needed("64BIT", "the machine's processors and the agent are 64-bit"),
    needed("ACPI", "how the kernel finds the machine's devices, and how a guest powers off"),
    needed("PRINTK", "the kernel's reports, which verdicts are made of"),
    module("8250", needed("SERIAL_8250", "the machine's UART, ttyS0")),
    needed("SERIAL_8250_CONSOLE", "the console on the UART, where the kernel's reports are read"),
    needed("BLK_DEV_INITRD", "the guest's image is an initial RAM disk"),
    needed("BINFMT_ELF", "the agent and every other program is an ELF file"),
    needed("PROC_FS", "/proc: the agent's events, and the assertions on CPUs and memory"),
    needed("SYSFS", "/sys, where the agent finds its port"),
    needed("SIGNALFD", "how the agent learns that a command ended"),
    module("virtio", needed("VIRTIO", "the bus of the machine's devices")),
    module("virtio_mmio", needed("VIRTIO_MMIO", "the transport of the machine's virtio devices")),
    module("virtio_console", needed("VIRTIO_CONSOLE", "the agent's port to the host")),
    wanted("DEVTMPFS", "the nodes of /dev: ttyS0, mem, vda"),
    wanted("TMPFS", "/tmp, /run and /dev/shm of their own"),
    wanted("UNIX98_PTYS", "/dev/pts: terminals for programs"),
    module("binfmt_script", wanted("BINFMT_SCRIPT", "scripts: /etc/init.d/rcS, `run -- ./script`")),
    wanted("FUTEX", "programs with threads, test cases among them"),
    wanted("INET", "the loopback interface"),
    wanted("MODULES", "`--modules`, and drivers that are modules"),
    wanted("KALLSYMS", "names of functions in the kernel's reports"),
    wanted("SMP", "more than one CPU: `--cpus`"),
    wanted("KVM_GUEST", "KVM's clock, which needs no calibration"),
    module("virtio_blk", wanted("VIRTIO_BLK", "disks: `--disk`")),
    module("ext4", wanted("EXT4_FS", "disks with ext4, such as images of that format")),
    wanted("RD_GZIP", "initial RAM disks in gzip"),
    wanted("RD_ZSTD", "initial RAM disks in zstd"),
    since(4, 0, wanted("DEVMEM", "/dev/mem: assertions on memory-mapped registers")),
    since(5, 5, wanted("X86_IOPL_IOPERM", "ioperm: assertions on I/O ports")),
];

/// The need for `option`, with `CONFIG_` or without, if it is one.
#[must_use]
pub fn need(option: &str) -> Option<&'static Need> {
    let name = option.strip_prefix("CONFIG_").unwrap_or(option);
    NEEDS.iter().find(|need| need.option == name)
}
