//! Kernel modules: loaded with parameters, looked at, unloaded.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::{Sysfs, about};

/// A module of the running kernel, loaded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: String,
}

impl Module {
    /// The module called `name`, whether it is loaded or not.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.replace('-', "_") }
    }

    /// Loads a module: from a file, if `which` has a `/` in it, or by its name from `/lib/modules`, where the case's
    /// option `loadable` puts it. What it depends on must be loaded. `parameters` are `name=value`, with spaces between
    /// them.
    ///
    /// # Errors
    /// It is not there, it is loaded already, or the kernel refuses it.
    pub fn load(which: &str, parameters: &str) -> io::Result<Self> {
        let path = if which.contains('/') { PathBuf::from(which) } else { find(which)? };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let load = || -> io::Result<()> {
            let file = File::open(&path)?;
            let parameters = CString::new(parameters)?;
            // SAFETY: the descriptor is open and the text ends in NUL; both live through the call, which touches no
            // other memory of this process.
            #[allow(unsafe_code)]
            let failed = unsafe {
                libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0_u32)
            } != 0;
            if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        load().map_err(|error| about(&path, &error))?;
        Ok(Self::named(&stem))
    }

    /// Its name, with `_` for `-`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is loaded.
    ///
    /// # Errors
    /// The kernel's list can't be read.
    pub fn is_loaded(&self) -> io::Result<bool> {
        let text = fs::read_to_string("/proc/modules")?;
        Ok(text.lines().any(|line| line.split(' ').next() == Some(&self.name)))
    }

    /// What its parameter `name` is, as `/sys/module/…/parameters` shows it.
    ///
    /// # Errors
    /// It is not loaded, has no such parameter, or does not show it.
    pub fn parameter(&self, name: &str) -> io::Result<String> {
        Sysfs::at("module").folder(&self.name).folder("parameters").read(name)
    }

    /// Unloads it.
    ///
    /// # Errors
    /// It is not loaded, or something uses it.
    pub fn unload(&self) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        // SAFETY: the name ends in NUL and lives through the call, which touches no other memory of this process.
        #[allow(unsafe_code)]
        let failed = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } != 0;
        if failed {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(error.kind(), format!("unload {}: {error}", self.name)));
        }
        Ok(())
    }
}

/// The file of the module called `name`, below the running kernel's folder.
fn find(name: &str) -> io::Result<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let folder = Path::new("/lib/modules").join(release.trim());
    let name = name.replace('-', "_");
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(|error| about(&next, &error))? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ko")
                && path.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name)
            {
                return Ok(path);
            }
        }
    }
    let what = format!("no module {name} below {}: name it in the case's `loadable`", folder.display());
    Err(io::Error::new(io::ErrorKind::NotFound, what))
}
