//! From a file to a vCPU's first instruction: kernels, initial RAM disks, parameters, tables.
//!
//! A bzImage is not run as it is where that can be helped: its payload is decompressed on the host and booted as
//! the ELF that it is. What can't be decompressed is entered as the image itself says.

mod acpi;
mod bzimage;
mod decompress;
mod elf;
mod error;
mod file;
pub(crate) mod firmware;
mod flat;
mod kept;
mod multiboot;
mod multiboot_info;
mod params;
mod slim;
mod tables;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use error::BootError;
pub use kept::vmlinux_of;

use crate::config::{Boot, MachineConfig, ModuleConfig};
use crate::memory::GuestMemory;
use crate::vcpu::EntryState;
use file::KernelFile;

/// What a kernel was loaded as.
struct Loaded {
    /// How it is entered.
    by: Protocol,
    /// The end of the memory that it occupies before it has a map of its own.
    end: u64,
    /// The highest address that its initial RAM disk may have a byte at.
    initrd_max: u64,
}

/// The ways into a kernel.
enum Protocol {
    /// Xen's PVH entry (`XEN_ELFNOTE_PHYS32_ENTRY`).
    Pvh { entry: u64 },
    /// Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst), with the image's own header if it has one.
    Linux64 { entry: u64, header: Option<bzimage::Header> },
    /// Linux's 32-bit boot protocol.
    Linux32 { entry: u64, header: bzimage::Header },
}

/// Puts all that `config` boots into `memory`, and says how the first vCPU enters it. `virtio_devices` is how many
/// virtio-mmio devices the machine has.
///
/// # Errors
/// See [`BootError`].
pub fn load(
    memory: &GuestMemory,
    config: &MachineConfig,
    virtio_devices: usize,
) -> Result<EntryState, BootError> {
    let (kernel, initrd, cmdline) = match &config.boot {
        Boot::Flat { code, address, mode } => return flat::load(memory, code, *address, *mode),
        Boot::Firmware { image } => {
            firmware::shadow(memory, &firmware::read(image)?)?;
            return Ok(EntryState::Reset);
        }
        Boot::Kernel { kernel, initrd, cmdline } => (kernel, initrd, cmdline),
        Boot::Multiboot { kernel, modules, cmdline } => {
            let KernelFile::Multiboot(file, header) = KernelFile::open(kernel)? else {
                return Err(BootError::NoMultiboot { path: kernel.clone() });
            };
            acpi::write(memory, config, virtio_devices)?;
            return load_multiboot(memory, kernel, (file, header), (cmdline, modules));
        }
    };
    let rsdp = acpi::write(memory, config, virtio_devices)?;
    let file = match KernelFile::open(kernel)? {
        KernelFile::Multiboot(file, header) => {
            let module = |path: &PathBuf| ModuleConfig { path: path.clone(), string: None };
            let modules: Vec<_> = initrd.iter().map(module).collect();
            return load_multiboot(memory, kernel, (file, header), (cmdline, &modules));
        }
        file => file,
    };
    params::write_cmdline(memory, cmdline)?;
    let loaded = load_kernel(memory, kernel, file)?;
    let initrd = initrd.as_ref().map(|path| params::load_initrd(memory, path, &loaded)).transpose()?;
    match loaded.by {
        Protocol::Pvh { entry } => {
            tables::write_gdt(memory, false)?;
            params::write_start_info(memory, rsdp, initrd)?;
            Ok(EntryState::Protected32 { address: entry, ebx: crate::layout::PVH_START_INFO, esi: 0 })
        }
        Protocol::Linux64 { entry, header } => {
            tables::write_gdt(memory, true)?;
            tables::write_page_tables(memory)?;
            params::write_zero_page(memory, header.as_ref(), initrd)?;
            Ok(EntryState::Long64 { address: entry, rsi: crate::layout::ZERO_PAGE })
        }
        Protocol::Linux32 { entry, header } => {
            tables::write_gdt(memory, false)?;
            params::write_zero_page(memory, Some(&header), initrd)?;
            Ok(EntryState::Protected32 { address: entry, ebx: 0, esi: crate::layout::ZERO_PAGE })
        }
    }
}

/// Whether the kernel at `path` is a multiboot image.
///
/// # Errors
/// It can't be read.
pub fn is_multiboot(path: &Path) -> Result<bool, BootError> {
    let file = file::open(path, "kernel")?;
    let found = multiboot::find(&file);
    let read = |source| BootError::Read { what: "kernel", path: path.to_owned(), source };
    Ok(found.map_err(read)?.is_some())
}

fn load_multiboot(
    memory: &GuestMemory,
    path: &Path,
    (mut file, header): (File, multiboot::Header),
    (cmdline, modules): (&str, &[ModuleConfig]),
) -> Result<EntryState, BootError> {
    // The first word is the kernel's name, as every loader has it.
    let name = multiboot_info::file_name(path);
    let cmdline = if cmdline.is_empty() { name } else { format!("{name} {cmdline}") };
    params::write_cmdline(memory, &cmdline)?;
    let loaded = multiboot::load(memory, path, &mut file, header)?;
    let info = multiboot_info::write(memory, loaded.end, modules)?;
    tables::write_gdt(memory, false)?;
    Ok(EntryState::Multiboot { address: loaded.entry, info })
}

fn load_kernel(memory: &GuestMemory, path: &Path, file: KernelFile) -> Result<Loaded, BootError> {
    match file {
        // It is entered in another way, before it comes here.
        KernelFile::Multiboot(..) => Err(BootError::NoKernel(path.to_owned())),
        KernelFile::Elf(mut file) => elf::load(memory, path, &mut file),
        KernelFile::BzImage(image) => match image.vmlinux() {
            Some(Ok(vmlinux)) => {
                let mut file = decompress::in_memory_file(&vmlinux)
                    .map_err(|source| BootError::Keep { path: "a temporary file".into(), source })?;
                drop(vmlinux);
                elf::load(memory, path, &mut file)
            }
            Some(Err(error)) if !error.is_unknown() => Err(error.of(path)),
            Some(Err(_)) | None => image.load(memory, path),
        },
    }
}

#[cfg(test)]
mod tests;
