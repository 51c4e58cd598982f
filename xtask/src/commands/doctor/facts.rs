//! What is on this host, looked at and not judged.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ui;
use kiln::gate::KVM_NODE;
use kiln::rootfs::agent::VARIABLE as AGENT;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel;

/// What is on this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Whether there is a KVM node at all.
    pub(super) kvm_node: bool,
    /// Whether the processor says that it has VMX or SVM.
    pub(super) virtualization: bool,
    /// The processor maker's KVM module.
    pub(super) kvm_module: &'static str,
    pub(super) qemu: Option<Tool>,
    /// A QEMU in the cache.
    pub(super) cached_qemu: bool,
    pub(super) apt_get: Option<Tool>,
    pub(super) busybox: Option<Tool>,
    pub(super) cargo: Option<Tool>,
    pub(super) rustc: Option<Tool>,
    pub(super) linker: Option<Tool>,
    /// Whether somebody named an agent that is built already.
    pub(super) agent: bool,
    /// Why no kernel can be built from source.
    pub(super) no_build: Option<String>,
    /// The releases of the kernels in the cache.
    pub(super) kernels: Vec<String>,
    pub(super) cache: PathBuf,
    /// Why nothing can be written to the cache.
    pub(super) cache_error: Option<String>,
}

/// A program that was found.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) path: PathBuf,
    /// The first line of what it says of itself, if it does.
    pub(super) version: String,
}

impl Facts {
    /// Looks at this host; changes nothing on it.
    pub(super) fn gather(cache: &Cache) -> Self {
        let kernels = kernel::list(cache).unwrap_or_default();
        let cache = cache.root();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        Self {
            kvm_node: Path::new(KVM_NODE).exists(),
            virtualization: flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")),
            kvm_module: if cpu.contains("GenuineIntel") { "kvm_intel" } else { "kvm_amd" },
            qemu: tool("qemu-system-x86_64", &["--version"]),
            cached_qemu: cache.join("qemu").is_dir(),
            apt_get: tool("apt-get", &["--version"]),
            busybox: tool("busybox", &[]),
            cargo: tool("cargo", &["--version"]),
            rustc: tool("rustc", &["--version"]),
            no_build: kernel::build::check_tools().err().map(|error| error.to_string()),
            linker: tool("cc", &["--version"]),
            agent: env::var_os(AGENT).is_some_and(|path| Path::new(&path).is_file()),
            kernels: kernels.into_iter().map(|kernel| kernel.release).collect(),
            cache: cache.to_owned(),
            cache_error: refusal(cache),
        }
    }

    /// Whether guests can have their agent, which is built from its sources where nobody names one.
    pub(super) fn agent(&self) -> bool {
        self.agent || self.cargo.is_some() && self.rustc.is_some()
    }

    /// Whether there is a QEMU for the lab, or one can be fetched.
    pub(super) fn lab(&self) -> bool {
        self.qemu.is_some() || self.cached_qemu || self.apt_get.is_some()
    }
}

/// The program `name`, asked for its version with `arguments`; not asked if there are none.
fn tool(name: &str, arguments: &[&str]) -> Option<Tool> {
    let path = find(name, &env::var_os("PATH")?)?;
    let said = if arguments.is_empty() {
        Vec::new()
    } else {
        let output = Command::new(&path).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.map(|output| output.stdout).unwrap_or_default()
    };
    let version = ui::sanitize(said.split(|&byte| byte == b'\n').next().unwrap_or_default());
    Some(Tool { path, version })
}

/// The first executable file `name` in the folders of `search`.
fn find(name: &str, search: &OsStr) -> Option<PathBuf> {
    env::split_paths(search).map(|folder| folder.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Why nothing can be written to `folder`, or to the nearest folder above it that there is.
fn refusal(folder: &Path) -> Option<String> {
    let there = folder.ancestors().find(|above| above.exists())?;
    if !there.is_dir() {
        return Some(format!("{} is no folder", there.display()));
    }
    let access = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    access.err().map(|error| format!("{}: {error}", there.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_only_if_it_is_an_executable_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tool");
        fs::create_dir(folder.path().join("folder")).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find("tool", folder.path().as_os_str()), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", folder.path().as_os_str()), Some(path));
        assert_eq!(find("folder", folder.path().as_os_str()), None);
    }

    #[test]
    fn cache_below_a_file_is_refused_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refusal(&file.join("cache")).unwrap().contains("file is no folder"));
        assert_eq!(refusal(&folder.path().join("a/b")), None);
    }
}
