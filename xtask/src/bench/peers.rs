//! How each VMM is asked to boot the same kernel and initial RAM disk, by its own defaults.

use std::path::{Path, PathBuf};

use super::spec::Contender;

/// Guest RAM of every contender, in MiB.
pub(super) const MEMORY_MIB: u64 = 256;
/// What peers are given as command line: a serial console, quiet, and no second boot after a panic.
pub(super) const PEER_CMDLINE: &str = "console=ttyS0 quiet panic=-1";
/// What the agent prints on the UART before anything else: the guest's init runs.
pub(super) const INIT_MARKER: &str = "kiln-agent: ";
/// What the null guest prints.
pub(super) const NULL_MARKER: &str = "kiln-null: hello";

/// A guest as all VMMs get it; paths are those inside the lab.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Its name in the table.
    pub(super) name: &'static str,
    /// The kernel.
    pub(super) kernel: &'static str,
    /// The initial RAM disk.
    pub(super) initrd: Option<&'static str>,
}

impl Guest {
    fn marker(&self) -> String {
        if self.initrd.is_some() { INIT_MARKER } else { NULL_MARKER }.to_owned()
    }
}

/// A VMM of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// QEMU's microvm machine.
    Microvm,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// kvmtool.
    Kvmtool,
}

impl Peer {
    /// Those that are looked for on PATH; QEMU is always there, because the lab needs it.
    pub(super) const OPTIONAL: [Self; 3] = [Self::Firecracker, Self::CloudHypervisor, Self::Kvmtool];

    /// Its program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Microvm => "qemu-system-x86_64",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Kvmtool => "lkvm",
        }
    }

    /// Its name in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Microvm => "QEMU microvm",
            Self::Firecracker => "Firecracker",
            Self::CloudHypervisor => "Cloud Hypervisor",
            Self::Kvmtool => "kvmtool",
        }
    }

    /// Whether it takes such a guest: Firecracker and Cloud Hypervisor take ELF files with a PVH note and
    /// bzImages, kvmtool only bzImages.
    pub(super) fn takes(self, guest: &Guest) -> bool {
        self != Self::Kvmtool || guest.name == "bzImage"
    }

    /// The contender, started by `program` (its first words).
    pub(super) fn contender(self, program: &[String], env: &[(String, String)], guest: &Guest) -> Contender {
        let mut argv = program.to_vec();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|&word| word.to_owned()));
        let memory = MEMORY_MIB.to_string();
        match self {
            Self::Microvm => {
                add(&["-M", "microvm", "-enable-kvm", "-cpu", "host", "-m", &memory, "-nodefaults"]);
                add(&["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
                add(&["-kernel", guest.kernel, "-append", PEER_CMDLINE]);
                if let Some(initrd) = guest.initrd {
                    add(&["-initrd", initrd]);
                }
            }
            Self::Firecracker => add(&["--no-api", "--config-file", &firecracker_config(guest)]),
            Self::CloudHypervisor => {
                add(&["--kernel", guest.kernel, "--cmdline", PEER_CMDLINE, "--cpus", "boot=1"]);
                add(&["--memory", &format!("size={memory}M"), "--serial", "tty", "--console", "off"]);
                if let Some(initrd) = guest.initrd {
                    add(&["--initramfs", initrd]);
                }
            }
            Self::Kvmtool => {
                add(&["run", "--kernel", guest.kernel, "--params", PEER_CMDLINE, "--mem", &memory]);
                add(&["--cpus", "1", "--console", "serial", "--network", "mode=none"]);
                if let Some(initrd) = guest.initrd {
                    add(&["--initrd", initrd]);
                }
            }
        }
        Contender {
            vmm: self.name().to_owned(),
            guest: guest.name.to_owned(),
            argv,
            env: env.to_vec(),
            marker: guest.marker(),
            hello: false,
            guest_memory: MEMORY_MIB << 20,
            settles_ms: 0,
            kept: None,
        }
    }
}

/// kiln's own machine with `cmdline`; `kept` is where it keeps the ELF of a compressed kernel.
pub(super) fn kiln(program: &str, guest: &Guest, cmdline: &str, cache: &str) -> Contender {
    let kept = format!("{cache}/vmlinux");
    let mut argv = vec![program.to_owned(), guest.kernel.to_owned()];
    argv.extend(["--mem".to_owned(), MEMORY_MIB.to_string()]);
    argv.extend(["--cmdline".to_owned(), cmdline.to_owned(), "--keep".to_owned(), kept.clone()]);
    if let Some(initrd) = guest.initrd {
        argv.extend(["--initrd".to_owned(), initrd.to_owned()]);
        argv.extend(["--port".to_owned(), format!("{}=unix:{{agent}}", kiln::protocol::wire::PORT_NAME)]);
    }
    Contender {
        vmm: "kiln".to_owned(),
        guest: guest.name.to_owned(),
        argv,
        env: Vec::new(),
        marker: guest.marker(),
        hello: guest.initrd.is_some(),
        guest_memory: MEMORY_MIB << 20,
        settles_ms: 0,
        kept: Some(kept),
    }
}

/// Where Firecracker's configuration for `guest` is inside the lab.
pub(super) fn firecracker_config(guest: &Guest) -> String {
    format!("/kiln/firecracker-{}.json", guest.name)
}

/// Firecracker's configuration for `guest`.
pub(super) fn firecracker_json(guest: &Guest) -> serde_json::Value {
    serde_json::json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initrd,
            "boot_args": PEER_CMDLINE,
        },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
    })
}

/// The program `name` on PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
