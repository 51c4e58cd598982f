//! From what a user asked for to a plan: the kernel found, the image built, the machine decided.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_protocol::wire;
use kiln_rootfs::cache::Cache;
use kiln_rootfs::image::{self, ImageSpec};
use kiln_rootfs::kernel::{self, KernelFiles};
use kiln_rootfs::progress::Progress;
use kiln_rootfs::{agent, busybox, modules};
use kiln_vmm::config::{Boot, DiskConfig, MachineConfig};

use super::plan::{Plan, Task, cmdline};
use crate::lab::{GUEST_KERNEL, GUEST_MODULES};

/// What a user asked for; the defaults are what they get who ask for nothing.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The kernel: a file, or a release where there is no such file; the distribution's cloud kernel if none is given.
    pub kernel: Option<PathBuf>,
    /// The folder with the modules of [`Recipe::kernel`] (`…/lib/modules/RELEASE`).
    pub modules_dir: Option<PathBuf>,
    /// A ready-made initial RAM disk in place of the one that would be built.
    pub initrd: Option<PathBuf>,
    /// What to add to the kernel's command line.
    pub append: String,
    /// How many vCPUs.
    pub cpus: u32,
    /// Guest RAM in bytes; 256 MiB or what the image needs if none is given.
    pub memory: Option<u64>,
    /// The disks.
    pub disks: Vec<DiskConfig>,
    /// The limit on the machine's clock.
    pub timeout: Duration,
    /// Whether busybox and its applets' links go into the image.
    pub busybox: bool,
    /// Modules to load beside those that the machine's devices need.
    pub modules: Vec<String>,
    /// The image's other parts; agent, modules, release and busybox are filled in.
    pub image: ImageSpec,
    /// The image's form.
    pub format: image::Format,
}

/// The guest RAM, in bytes, that does for a kernel and a small image.
const MEMORY: u64 = 256 << 20;

/// Guest RAM for an image of `size` bytes: while it is unpacked it is there twice, and the file system that it is
/// unpacked to takes no more than half of what the kernel has.
fn enough_for(size: u64) -> u64 {
    /// What a distribution's kernel takes for itself.
    const KERNEL: u64 = 128 << 20;
    const STEP: u64 = 64 << 20;
    size.saturating_mul(2).saturating_add(KERNEL).div_ceil(STEP).saturating_mul(STEP).max(MEMORY)
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            kernel: None,
            modules_dir: None,
            initrd: None,
            append: String::new(),
            cpus: 1,
            memory: None,
            disks: Vec::new(),
            timeout: Duration::from_secs(120),
            busybox: false,
            modules: Vec::new(),
            image: ImageSpec::default(),
            format: image::Format::default(),
        }
    }
}

impl Recipe {
    /// The modules that a guest needs for its agent's port and its disks.
    pub const MODULES: &[&str] = &["virtio_mmio", "virtio_console", "virtio_blk"];

    /// The default recipe, with the kernel that whoever started this process brought for guests, if they did.
    #[must_use]
    pub fn of_environment() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { kernel: path(GUEST_KERNEL), modules_dir: path(GUEST_MODULES), ..Self::default() }
    }

    /// The kernel that was asked for, or the distribution's.
    ///
    /// # Errors
    /// It is missing, or can't be fetched.
    pub fn kernel(&self, cache: &Cache, progress: &dyn Progress) -> Result<KernelFiles, kiln_rootfs::Error> {
        match &self.kernel {
            Some(name) => kernel::find(cache, name, self.modules_dir.as_deref(), progress),
            None => {
                // A guest without its agent is of no use: what lacks for that is told before anything is fetched.
                if self.initrd.is_none() {
                    agent::build(cache, progress)?;
                }
                kernel::fetch(cache, None, progress)
            }
        }
    }

    /// Builds the guest's image, or finds it built.
    ///
    /// # Errors
    /// See [`kiln_rootfs::Error`].
    pub fn image(
        &self,
        cache: &Cache,
        kernel: &KernelFiles,
        progress: &dyn Progress,
    ) -> Result<PathBuf, kiln_rootfs::Error> {
        image::build(cache, &self.contents(cache, kernel, progress)?, self.format)
    }

    /// The recipe for booting `image`, which this one's [`Recipe::image`] made: as the initial RAM disk, or as the root
    /// disk, first of the guest's, which it may write to.
    ///
    /// # Errors
    /// See [`kiln_rootfs::Error`].
    pub fn boot_from(
        mut self,
        cache: &Cache,
        kernel: &KernelFiles,
        image: PathBuf,
        progress: &dyn Progress,
    ) -> Result<Self, kiln_rootfs::Error> {
        if let image::Format::Initramfs(compression) = self.format {
            if compression != image::Compression::None && self.memory.is_none() {
                self.memory = Some(enough_for(image::archive::unpacked_size(&image)?));
            }
            self.initrd = Some(image);
            return Ok(self);
        }
        // The modules that its disk needs are on a disk of their own, in memory; the agent there goes on to this one.
        let wanted: Vec<&str> = Self::MODULES.iter().copied().chain(["ext4"]).collect();
        let modules = kernel.modules_dir.as_ref().map(|dir| modules::closure(dir, &wanted)).transpose()?;
        let first = ImageSpec {
            agent: Some(agent::build(cache, progress)?),
            release: kernel.release.clone(),
            modules: modules.unwrap_or_default(),
            ..ImageSpec::default()
        };
        self.initrd = Some(image::build(cache, &first, image::Format::default())?);
        self.disks.insert(0, DiskConfig { path: image, read_only: false });
        self.append = format!("root=/dev/vda rootfstype=ext4 rw {}", self.append).trim_end().to_owned();
        Ok(self)
    }

    /// What goes into the guest's image: what was asked for, with agent, modules and busybox found or built.
    ///
    /// # Errors
    /// See [`kiln_rootfs::Error`].
    pub fn contents(
        &self,
        cache: &Cache,
        kernel: &KernelFiles,
        progress: &dyn Progress,
    ) -> Result<ImageSpec, kiln_rootfs::Error> {
        let mut spec = self.image.clone();
        spec.agent = Some(agent::build(cache, progress)?);
        spec.release.clone_from(&kernel.release);
        if let Some(dir) = &kernel.modules_dir {
            let wanted: Vec<&str> =
                Self::MODULES.iter().copied().chain(self.modules.iter().map(String::as_str)).collect();
            spec.modules = modules::closure(dir, &wanted)?;
        }
        if self.busybox {
            spec.busybox = Some(busybox::find(cache, progress)?);
        }
        Ok(spec)
    }

    /// Decides everything.
    ///
    /// # Errors
    /// The kernel or the image could not be had.
    pub fn plan(
        &self,
        cache: &Cache,
        task: Task,
        progress: &dyn Progress,
    ) -> Result<Plan, kiln_rootfs::Error> {
        let kernel = self.kernel(cache, progress)?;
        let initrd = match &self.initrd {
            Some(initrd) => initrd.clone(),
            None => self.image(cache, &kernel, progress)?,
        };
        Ok(Plan {
            machine: self.machine(&kernel.image, initrd),
            timeout: self.timeout,
            task,
            show_console: false,
            allow_warning: false,
            hold: super::hold_of_environment(),
        })
    }

    /// The machine for a kernel and an image.
    #[must_use]
    pub fn machine(&self, kernel: &Path, initrd: PathBuf) -> MachineConfig {
        let mut machine = MachineConfig {
            cpus: self.cpus,
            // Whoever opens the image says what is wrong with it.
            memory: self
                .memory
                .unwrap_or_else(|| enough_for(std::fs::metadata(&initrd).map_or(0, |image| image.len()))),
            disks: self.disks.clone(),
            ports: vec![wire::PORT_NAME.to_owned()],
            virtio_console: false,
            ..MachineConfig::default()
        };
        machine.boot = Boot::Kernel {
            kernel: kernel.to_owned(),
            initrd: Some(initrd),
            cmdline: cmdline(&machine, &self.append),
        };
        machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_gave_is_enough_for_the_image() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let of = |size: u64, memory| {
            image.as_file().set_len(size).unwrap();
            let recipe = Recipe { memory, ..Recipe::default() };
            recipe.machine(Path::new("/kernel"), image.path().to_owned()).memory
        };
        assert_eq!(of(2 << 20, None), 256 << 20);
        assert_eq!(of(150 << 20, None), 448 << 20);
        assert_eq!(of(150 << 20, Some(64 << 20)), 64 << 20);
    }
}
