//! The file systems that every program expects.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Warnings;

struct Mount {
    kind: &'static str,
    at: &'static str,
    options: &'static str,
    /// Whether a guest without it is only poorer.
    optional: bool,
}

const fn of(kind: &'static str, at: &'static str, options: &'static str, optional: bool) -> Mount {
    Mount { kind, at, options, optional }
}

const MOUNTS: &[Mount] = &[
    of("devtmpfs", "/dev", "mode=0755", false),
    of("proc", "/proc", "", false),
    of("sysfs", "/sys", "", false),
    of("devpts", "/dev/pts", "mode=0620,ptmxmode=0666", true),
    of("tmpfs", "/dev/shm", "mode=1777", true),
    of("tmpfs", "/run", "mode=0755", true),
    of("tmpfs", "/tmp", "mode=1777", true),
    of("debugfs", "/sys/kernel/debug", "", true),
    of("tracefs", "/sys/kernel/tracing", "", true),
];

/// Mounts what is not mounted.
pub(super) fn all(warnings: &mut Warnings) {
    for entry in MOUNTS {
        if is_mounted(entry.at) || (entry.kind == "tmpfs" && holds_anything(entry.at)) {
            continue;
        }
        // Made where it can be: a read-only root has it already, or the mount says what is wrong.
        if !entry.at.starts_with("/sys/") {
            let _ = fs::create_dir_all(entry.at);
        } else if !Path::new(entry.at).exists() {
            continue;
        }
        let options = std::ffi::CString::new(entry.options).unwrap_or_default();
        let flags = match entry.kind {
            // What is in these is devices.
            "devtmpfs" | "devpts" => MountFlags::NOSUID,
            _ => MountFlags::NOSUID | MountFlags::NODEV,
        };
        if let Err(error) = mount(entry.kind, entry.at, entry.kind, flags, options.as_c_str()) {
            let built_without = error == rustix::io::Errno::NODEV;
            // The kernel mounts its own devtmpfs first where it is told to.
            if error != rustix::io::Errno::BUSY && !(entry.optional && built_without) {
                warnings.add(format!("mount {} at {}: {error}", entry.kind, entry.at));
            }
        }
    }
}

/// Takes all of them away again, for a root file system that makes its own.
pub(super) fn none() {
    for entry in MOUNTS.iter().rev() {
        // What is not mounted needs no unmounting.
        let _ = unmount(entry.at, UnmountFlags::DETACH);
    }
}

/// What an image brought along must not be hidden; its root is in memory as well.
fn holds_anything(path: &str) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// A mount point is on another device than the folder around it.
fn is_mounted(path: &str) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|m| m.dev());
    let path = Path::new(path);
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}
