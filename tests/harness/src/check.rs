//! What a kernel is, how this machine would enter it, and what of the options that a guest needs it lacks.
//!
//! What only needs bytes is kiln-rootfs', decompressing is kiln-vmm's: here they come together.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::kernel::check::{Answer, Banner, BzImage, Config, Vmlinux, answers};
use kiln_rootfs::kernel::{self, KernelFiles};
use kiln_vmm::boot::BootError;

use crate::run::{VmlinuxError, vmlinux_of};

/// More than any kernel image there is.
const LARGEST: u64 = 1 << 30;
/// Where the kernel's build leaves a bzImage, below its folder.
const BUILT: &[&str] = &["arch/x86/boot", "arch/x86_64/boot"];

/// What is known of a kernel.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The file, and its modules.
    pub kernel: KernelFiles,
    /// Its header, if it is a bzImage; else it is an ELF.
    pub bzimage: Option<BzImage>,
    /// Its ELF; `None` if the image has to decompress itself.
    pub vmlinux: Option<Vmlinux>,
    /// What it says when it starts: the ELF's own words where it can be had, for they are more.
    pub banner: Banner,
    /// The image's size in bytes.
    pub size: u64,
    /// How the machine enters it.
    pub entry: Entry,
    /// Its configuration, and where that is from.
    pub config: Option<(Config, Origin)>,
    /// What may surprise, a line each.
    pub notes: Vec<String>,
    /// How it meets each of a guest's needs.
    pub answers: Vec<Answer>,
}

/// How the machine enters a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Its ELF, by Xen's PVH entry.
    Pvh,
    /// Its ELF, by Linux's 64-bit boot protocol.
    Elf64,
    /// The image as it is, which decompresses itself, by the 64-bit protocol.
    Image64,
    /// The image as it is, by the 32-bit protocol.
    Image32,
}

impl Entry {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "pvh",
            Self::Elf64 => "elf-64",
            Self::Image64 => "bzimage-64",
            Self::Image32 => "bzimage-32",
        }
    }
}

/// Where a configuration is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel carries it.
    Kernel,
    /// A file beside the kernel.
    File(PathBuf),
}

/// Why there is nothing to tell of a file.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is no kernel, or a damaged one.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// It is no kernel, or a file beside it can't be read.
    #[error(transparent)]
    Rootfs(#[from] kiln_rootfs::Error),
}

/// Tells of a kernel, whose modules are in its `modules_dir` or, of a kernel in the cache, beside it.
///
/// # Errors
/// It is no Linux kernel that this machine could boot, or can't be read.
pub fn check(cache: &Cache, mut kernel: KernelFiles) -> Result<Checked, CheckError> {
    let image = kernel.image.clone();
    let unpacked = vmlinux_of(cache, &image).map_err(|error| match error {
        VmlinuxError::Boot(error) => CheckError::Boot(error),
        VmlinuxError::Cache(error) => CheckError::Rootfs(error),
    })?;
    let read = |source| BootError::Read { what: "kernel", path: image.clone(), source };
    let size = fs::metadata(&image).map_err(read)?.len();
    let bzimage = {
        let (mut file, mut bytes) = (fs::File::open(&image).map_err(read)?, vec![0; 4]);
        file.read_exact(&mut bytes).map_err(read)?;
        if bytes == b"\x7fELF" {
            None
        } else {
            file.take(LARGEST).read_to_end(&mut bytes).map_err(read)?;
            Some(BzImage::parse(&bytes).ok_or_else(|| BootError::NoKernel(image.clone()))?)
        }
    };
    let vmlinux = match (&bzimage, &unpacked) {
        (None, _) => Some(Vmlinux::read(&image)?),
        (Some(_), Some(path)) => Some(Vmlinux::read(path)?),
        (Some(_), None) => None,
    };
    let words = vmlinux.as_ref().and_then(|vmlinux| vmlinux.banner.clone());
    let banner = words.or_else(|| bzimage.as_ref().and_then(|bzimage| bzimage.banner.clone()));
    let no_linux = "it says no version of Linux: a payload or another system, which has no options to check";
    let banner =
        banner.ok_or_else(|| kiln_rootfs::Error::File { path: image.clone(), why: no_linux.to_owned() })?;
    let entry = match (&vmlinux, &bzimage) {
        (Some(vmlinux), _) if vmlinux.pvh.is_some() => Entry::Pvh,
        (Some(_), _) => Entry::Elf64,
        (None, Some(bzimage)) if bzimage.entry_64 => Entry::Image64,
        (None, _) => Entry::Image32,
    };

    kernel.release.clone_from(&banner.release);
    let mut notes = Vec::new();
    if vmlinux.is_none() {
        notes.push("its payload can't be decompressed here, so its build id is not known".to_owned());
    }
    if kernel.modules_dir.is_none() {
        kernel.modules_dir = cached_modules(cache, &image)?;
    }
    let carried = vmlinux.as_ref().and_then(|vmlinux| vmlinux.config.clone());
    let config = match carried {
        Some(config) => Some((config, Origin::Kernel)),
        None => beside(cache, &image, &banner, &mut notes)?,
    };
    if config.is_none() && is_entry(cache, &image) {
        let why = "there is no configuration in its entry of the cache: an older kiln kept none, or its package has none";
        notes.push(why.to_owned());
    }
    let is_64_bit = vmlinux.is_some() || bzimage.as_ref().is_some_and(|bzimage| bzimage.entry_64);
    let options = config.as_ref().map(|(config, _)| config);
    let answers = answers(&banner, is_64_bit, options, kernel.modules_dir.as_deref())?;
    Ok(Checked { kernel, bzimage, vmlinux, banner, size, entry, config, notes, answers })
}

/// The modules of a kernel that is in the cache.
fn cached_modules(cache: &Cache, image: &Path) -> Result<Option<PathBuf>, kiln_rootfs::Error> {
    let Ok(image) = image.canonicalize() else { return Ok(None) };
    let own = |kernel: &KernelFiles| kernel.image.canonicalize().is_ok_and(|path| path == image);
    Ok(kernel::list(cache)?.into_iter().find(own).and_then(|kernel| kernel.modules_dir))
}

/// Whether it is the kernel of an entry of the cache.
fn is_entry(cache: &Cache, image: &Path) -> bool {
    let Ok(image) = image.canonicalize() else { return false };
    let shelf = image.ancestors().nth(2);
    cache.root().join("kernels").canonicalize().is_ok_and(|kernels| shelf == Some(&kernels))
}

/// The configuration that lies where such a kernel's would.
fn beside(
    cache: &Cache,
    image: &Path,
    banner: &Banner,
    notes: &mut Vec<String>,
) -> Result<Option<(Config, Origin)>, kiln_rootfs::Error> {
    // A build's `arch/x86_64/boot/bzImage` is a link, and so may a package's name for its newest kernel be.
    let real = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    let mut places = Vec::new();
    for folder in [image, &real].into_iter().filter_map(Path::parent) {
        // By the release that its name has it is this kernel's; what else is there may be anyone's.
        places.push(folder.join(format!("config-{}", banner.release)));
        places.push(folder.join(".config"));
        if let Some(built) = BUILT.iter().find(|built| folder.ends_with(built)) {
            let root = folder.ancestors().nth(Path::new(built).components().count());
            places.extend(root.map(|root| root.join(".config")));
        }
        if folder.starts_with(cache.root()) {
            places.push(folder.join("config"));
        }
    }
    for place in places {
        if !place.is_file() || notes.iter().any(|note| note.starts_with(&*place.to_string_lossy())) {
            continue;
        }
        let text = fs::read(&place).map_err(|source| kiln_rootfs::Error::Io {
            what: "read the configuration",
            path: place.clone(),
            source,
        })?;
        match Config::parse(&String::from_utf8_lossy(&text)) {
            Some(config) => match config.is_not_of(banner) {
                None => return Ok(Some((config, Origin::File(place)))),
                Some(why) => {
                    notes.push(format!("{} {why}, and so is not taken for this kernel's", place.display()));
                }
            },
            None => notes
                .push(format!("{} sets no option, and so is not taken for a configuration", place.display())),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
