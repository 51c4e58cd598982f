//! What every image has, unless what was asked for is in its place.

use super::tree::{Node, Tree};
use super::{AGENT_PATH, tree};
use crate::Error;

const FOLDERS: &[(&str, u32)] = &[
    ("/bin", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/lib", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sbin", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/usr/bin", 0o755),
    ("/usr/sbin", 0o755),
    ("/var", 0o755),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// What the prompt of a busybox image's shell ends with: whoever types to it waits for that.
pub const PROMPT: &str = "]# ";

/// With busybox as `init` this makes the kernel a system; the agent as `init` has done most of it before it runs this.
const RC_S: &str = "#!/bin/sh
[ -e /dev/zero ] || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -a
hostname -F /etc/hostname
if [ -e /etc/kiln/modules ]; then
    while read -r module; do
        name=$(basename \"$module\" .ko | tr - _)
        [ -e \"/sys/module/$name\" ] || insmod \"$module\"
    done < /etc/kiln/modules
fi
";
const FSTAB: &str = "proc /proc proc defaults 0 0\n\
    sysfs /sys sysfs defaults 0 0\n\
    devpts /dev/pts devpts gid=5,mode=620 0 0\n\
    tmpfs /dev/shm tmpfs mode=1777 0 0\n";
/// Not for an image that has something of its own there: it would be hidden.
const FSTAB_VAR: &str = "ramfs /var ramfs defaults 0 0\n";
const PROFILE: &str = "export PATH=/bin:/sbin:/usr/bin:/usr/sbin
export LD_LIBRARY_PATH=/lib:/usr/lib
export USER=root LOGNAME=root HOME=/root
HOSTNAME=$(hostname)
export HOSTNAME
";

/// The folders and devices. A device that is there before `/dev` is mounted gives `init` its console.
pub(super) fn folders(tree: &mut Tree) -> Result<(), Error> {
    for (path, mode) in FOLDERS {
        tree.put_if_free(path, Node::Dir { mode: *mode })?;
    }
    tree.put_if_free("/dev/console", Node::Device { major: 5, minor: 1, mode: 0o600 })?;
    tree.put_if_free("/dev/null", Node::Device { major: 1, minor: 3, mode: 0o666 })
}

/// The configuration.
pub(super) fn configuration(tree: &mut Tree, hostname: &str) -> Result<(), Error> {
    if hostname.is_empty()
        || hostname.len() > 64
        || hostname.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(tree::wrong("/etc/hostname", "a host's name is one word of at most 64 bytes"));
    }
    tree.put_if_free("/etc/hostname", Node::text(format!("{hostname}\n")))?;
    tree.put_if_free("/etc/hosts", Node::text(HOSTS))?;
    tree.put_if_free("/etc/passwd", Node::text(PASSWD))?;
    tree.put_if_free("/etc/group", Node::text(GROUP))
}

/// What busybox as `init` and as a shell reads.
pub(super) fn busybox(tree: &mut Tree, has_agent: bool) -> Result<(), Error> {
    let agent = if has_agent { format!("::once:{AGENT_PATH}\n") } else { String::new() };
    let inittab = format!(
        "::sysinit:/etc/init.d/rcS\n{agent}::respawn:-/bin/sh\n::ctrlaltdel:/sbin/reboot\n::shutdown:/bin/umount -a -r >/dev/null 2>&1\n"
    );
    let script = Node::File { source: tree::Source::Bytes(RC_S.into()), executable: true };
    let var = if tree.is_empty_below("/var") { FSTAB_VAR } else { "" };
    tree.put_if_free("/etc/init.d/rcS", script)?;
    tree.put_if_free("/etc/fstab", Node::text(format!("{FSTAB}{var}")))?;
    tree.put_if_free("/etc/inittab", Node::text(inittab))?;
    tree.put_if_free(
        "/etc/profile",
        Node::text(format!("{PROFILE}export PS1='[$USER@$HOSTNAME $PWD{PROMPT}'\n")),
    )
}
