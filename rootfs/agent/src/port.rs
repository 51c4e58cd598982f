//! The virtio port to the host.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_protocol::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, inotify, makedev, mknodat};

/// How long the port may take to appear once the guest is up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The port's name comes a moment after its device node, and nothing tells of it: looked for so often.
const RECHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The port, when it appears; otherwise the kernel options that look missing.
pub(crate) fn find() -> Result<OwnedFd, String> {
    let deadline = Instant::now() + PATIENCE;
    let watch = watch_dev().ok();
    let mut refused = None;
    while Instant::now() < deadline {
        if let Some(name) = named() {
            match open(&name) {
                Ok(port) => return Ok(port),
                Err(error) => refused = Some(format!("/dev/{name} can't be opened: {error}")),
            }
        }
        let mut fds: Vec<PollFd<'_>> = watch.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        if poll(&mut fds, Some(&RECHECK)).is_ok_and(|ready| ready > 0)
            && let Some(fd) = &watch
        {
            let _ = rustix::io::read(fd, &mut [0_u8; 4096]);
        }
    }
    Err(refused.unwrap_or_else(missing))
}

fn watch_dev() -> rustix::io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, "/dev", inotify::WatchFlags::CREATE | inotify::WatchFlags::ATTRIB)?;
    Ok(fd)
}

/// The device that bears the agent's name.
fn named() -> Option<String> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == wire::PORT_NAME).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Opened to block: the first write then waits until the host is there.
fn open(name: &str) -> io::Result<OwnedFd> {
    let path = Path::new("/dev").join(name);
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_node(name, &path)?;
            Ok(open()?.into())
        }
        other => Ok(other?.into()),
    }
}

/// Makes the device's node where no devtmpfs does.
fn make_node(name: &str, path: &Path) -> io::Result<()> {
    let numbers = fs::read_to_string(Path::new("/sys/class/virtio-ports").join(name).join("dev"))?;
    let (major, minor) = numbers.trim().split_once(':').ok_or(io::ErrorKind::InvalidData)?;
    let device = makedev(major.parse().map_err(io::Error::other)?, minor.parse().map_err(io::Error::other)?);
    Ok(mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)?)
}

/// The kernel options whose lack would explain that there is no port.
fn missing() -> String {
    let exists = |path: &str| Path::new(path).exists();
    if !exists("/proc/cmdline") {
        return "CONFIG_PROC_FS".to_owned();
    }
    if !exists("/sys/bus") {
        return "CONFIG_SYSFS".to_owned();
    }
    let mut options = Vec::new();
    let pci = exists("/sys/bus/pci/drivers/virtio-pci");
    if !pci && !exists("/sys/bus/platform/drivers/virtio-mmio") {
        options.push("CONFIG_VIRTIO_MMIO");
    }
    if !exists("/sys/bus/virtio/drivers/virtio_console") {
        options.push("CONFIG_VIRTIO_CONSOLE");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("devtmpfs") {
        options.push("CONFIG_DEVTMPFS");
    }
    if options.is_empty() && fs::read_dir("/sys/bus/virtio/devices").map_or(0, Iterator::count) == 0 {
        // The drivers are there and nobody told them of a device.
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let told = if cmdline.contains("virtio_mmio.device=") {
            "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"
        } else {
            "CONFIG_ACPI"
        };
        options.push(told);
    }
    if options.is_empty() {
        return format!("none of the kernel's options (no virtio port is named {})", wire::PORT_NAME);
    }
    options.join(", ")
}
