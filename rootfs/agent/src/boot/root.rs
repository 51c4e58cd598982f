//! The root file system on a disk, where the kernel's command line names one: an initial RAM disk's init is who mounts
//! it, for the modules that it takes are in there.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount, mount_move};

use super::mounts;
use crate::console;

/// Where the new root is before it is the root.
const PLACE: &str = "/newroot";
/// Who is PID 1 there if nobody says (Linux, init/main.c, and what an image without a system has).
const INITS: &[&str] = &["/sbin/init", "/init"];
/// File systems in memory (linux/magic.h): what an initial RAM disk is.
const IN_MEMORY: &[u32] = &[0x8584_58f6, 0x0102_1994];

/// Words of the kernel's command line (Documentation/admin-guide/kernel-parameters.txt).
#[derive(Debug, PartialEq, Eq)]
struct Root {
    device: String,
    kind: String,
    options: String,
    writable: bool,
    init: Option<String>,
}

/// Mounts the disk that `root=` names, and becomes what is PID 1 there; returns if there is no such word, or this is
/// not an initial RAM disk.
///
/// A root that can't be had ends PID 1, and so the kernel, as it does where the kernel mounts it.
pub(super) fn switch() {
    let Some(root) = named_in(&fs::read_to_string("/proc/cmdline").unwrap_or_default()) else { return };
    let in_memory = statfs("/")
        .is_ok_and(|there| u32::try_from(there.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)));
    if !in_memory {
        return;
    }
    let error = match enter(&root) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    console::say(&format!("no root on {} ({}): {error}", root.device, root.kind));
    console::drain();
    std::process::exit(1);
}

/// What can't be.
enum Never {}

fn enter(root: &Root) -> io::Result<Never> {
    fs::create_dir_all(PLACE)?;
    let flags = if root.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let options = CString::new(root.options.as_str())?;
    mount(&root.device, PLACE, &root.kind, flags, options.as_c_str())?;
    mounts::none();
    std::env::set_current_dir(PLACE)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    let named = root.init.as_deref().map(|init| vec![init]);
    let mut last = io::ErrorKind::NotFound.into();
    for init in named.unwrap_or_else(|| INITS.to_vec()) {
        // Returns only if it can't be run.
        last = Command::new(init).exec();
    }
    Err(last)
}

fn named_in(cmdline: &str) -> Option<Root> {
    let mut root = Root {
        device: String::new(),
        kind: "ext4".to_owned(),
        options: String::new(),
        writable: false,
        init: None,
    };
    for word in cmdline.split_whitespace() {
        match word.split_once('=') {
            Some(("root", device)) => device.clone_into(&mut root.device),
            Some(("rootfstype", kind)) => kind.clone_into(&mut root.kind),
            Some(("rootflags", options)) => options.clone_into(&mut root.options),
            Some(("init", init)) => root.init = Some(init.to_owned()),
            None if word == "rw" => root.writable = true,
            None if word == "ro" => root.writable = false,
            _ => {}
        }
    }
    (!root.device.is_empty()).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_what_the_last_words_say() {
        assert_eq!(named_in("console=ttyS0 rw init=/x\n"), None);
        let root = named_in("root=/dev/vdb ro root=/dev/vda rootflags=noatime rw init=/bin/sh").unwrap();
        assert_eq!((root.device.as_str(), root.kind.as_str()), ("/dev/vda", "ext4"));
        assert_eq!((root.options.as_str(), root.writable), ("noatime", true));
        assert_eq!(root.init.as_deref(), Some("/bin/sh"));
        assert!(!named_in("root=/dev/vda rootfstype=erofs").unwrap().writable);
    }
}
