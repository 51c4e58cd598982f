//! The machine that a guest gets.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kiln::rootfs::size;

use super::parse::{self, Disk};

/// Where machines run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// This host's KVM if it runs Linux, else the lab.
    #[default]
    Auto,
    /// This host's KVM, or nothing.
    Kvm,
    /// A Linux with KVM inside an emulated machine: slower, on any host.
    Lab,
}

/// Which kernel.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct KernelOptions {
    /// Kernel to boot, bzImage or ELF; where there is no such file, a release of the distribution's: 6.12. Without it
    /// the distribution's default, fetched if need be
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// Folder with the kernel's modules, as `lib/modules/RELEASE` has them
    #[arg(long, value_name = "DIR")]
    pub(crate) modules_dir: Option<PathBuf>,
}

/// On what.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct AccelOption {
    /// Where machines run: auto (here if KVM runs Linux, else in the lab), kvm or lab
    #[arg(long, value_name = "WHERE", default_value = "auto", hide_possible_values = true)]
    pub(crate) accel: Accel,
}

/// For how long.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct TimeoutOption {
    /// Limit on the machine's clock, 2m if not given: 90, 90s, 2m, 500ms
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
}

/// The machine.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine options")]
pub(crate) struct MachineOptions {
    #[command(flatten)]
    pub(crate) kernel: KernelOptions,

    /// Initial RAM disk to boot with, in place of the one that is made
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Words to add to the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,

    /// Number of CPUs, 1 to 254
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse::cpus)]
    pub(crate) cpus: u32,

    /// Memory, 256M or what the image needs if not given: K, M, G are binary, a bare number is MiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) mem: Option<u64>,

    /// Raw disk image, or block device; again for more disks
    #[arg(long = "disk", value_name = "FILE[,ro]", value_parser = parse::disk)]
    pub(crate) disks: Vec<Disk>,

    #[command(flatten)]
    pub(crate) accel: AccelOption,

    #[command(flatten)]
    pub(crate) timeout: TimeoutOption,

    /// Show, at the end, the exits of each CPU and its last accesses
    #[arg(long)]
    pub(crate) trace: bool,
}
