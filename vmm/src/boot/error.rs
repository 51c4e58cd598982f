//! Why a machine could not be given anything to boot.

use std::io;
use std::path::PathBuf;

/// A kernel, initial RAM disk, command line or payload that can't be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error("can't read the {what} {path}")]
    Read {
        /// What it is to the machine: kernel, initrd.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The decompressed kernel can't be kept.
    #[error("can't keep the decompressed kernel in {path}")]
    Keep {
        /// Where it was to go.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The file is nothing that is booted.
    #[error("{0} is no kernel: neither a bzImage nor an ELF vmlinux nor a multiboot image")]
    NoKernel(PathBuf),
    /// The file is a kernel for another machine.
    #[error("{path} is no kernel for x86-64: {what}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The file begins as a kernel does, and then makes no sense.
    #[error("kernel {path} is truncated or damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The kernel asks for something that the machine does not have.
    #[error("kernel {path} can't be booted: {what}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
    /// A file is of another kind than the boot it is named for.
    #[error("{path} is no multiboot kernel: there is no multiboot header in its first 8 KiB")]
    NoMultiboot {
        /// The file.
        path: PathBuf,
    },
    /// A file that can't be the machine's firmware.
    #[error("firmware {path} can't be used: {what}")]
    Firmware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A multiboot module does not fit behind the kernel.
    #[error(
        "module {path} of {size} MiB does not fit behind the kernel in {has} MiB of RAM: give the machine more memory"
    )]
    ModuleTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in MiB, rounded up.
        size: u64,
        /// The machine's RAM below the hole, in MiB.
        has: u64,
    },
    /// The kernel's memory is not all there.
    #[error("kernel {path} needs RAM up to {needs} MiB, and the machine has {has} MiB: give it more memory")]
    KernelTooLarge {
        /// The file.
        path: PathBuf,
        /// The end of what it occupies, in MiB.
        needs: u64,
        /// The machine's RAM below the hole, in MiB.
        has: u64,
    },
    /// The initial RAM disk does not fit beside the kernel.
    #[error("initrd {path} of {size} MiB does not fit beside the kernel in {has} MiB of RAM: {mend}")]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in MiB, rounded up.
        size: u64,
        /// The machine's RAM below the hole, in MiB.
        has: u64,
        /// What would help.
        mend: &'static str,
    },
    /// The command line can't be given to a kernel.
    #[error("the kernel's command line {0}")]
    Cmdline(String),
    /// A payload can't be loaded where it wants to be.
    #[error("a payload of {size} bytes can't be loaded at {address:#x}: {why}")]
    Flat {
        /// Its size.
        size: usize,
        /// Its address.
        address: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The machine's tables don't fit where they belong.
    #[error("the machine's {0} do not fit into guest memory")]
    Tables(&'static str),
}
