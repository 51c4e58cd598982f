//! `bench boot`: what a boot costs, from the VMM's start to the agent's hello.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context, Result, bail};
use kiln::agent::{Command, ProcessEvent, Status};
use kiln::lab::{Lab, LabSpec};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::progress::Progress;
use kiln::rootfs::qemu;
use kiln::run::vmlinux_of;
use kiln::run::{Recipe, cmdline};

use super::inner::INNER_BENCH;
use super::peers::{Guest, MEMORY_MIB, Peer, firecracker_config, firecracker_json, kiln as ours, on_path};
use super::spec::{Measured, Spec};

/// How often each contender runs after the cold round.
const ROUNDS: usize = 3;

const GUESTS: [Guest; 3] = [
    Guest { name: "null", kernel: "/kiln/null.elf", initrd: None },
    Guest { name: "elf", kernel: "/kiln/vmlinux", initrd: Some("/kiln/initrd") },
    Guest { name: "bzImage", kernel: "/kiln/bzImage", initrd: Some("/kiln/initrd") },
];

/// Measures the boots of kiln and its peers in one lab.
///
/// # Errors
/// Something could not be built or fetched, or the lab was lost.
pub(crate) fn boot(cache: &Cache, progress: &dyn Progress) -> Result<Vec<Measured>> {
    let vmm = build_vmm()?;
    let recipe = Recipe::default();
    let kernel = recipe.kernel(cache, progress)?;
    let initrd = recipe.image(cache, &kernel, progress)?;
    let vmlinux = vmlinux_of(cache, &kernel.image)?.context("the distribution's kernel has no ELF in it")?;
    let scratch = tempfile::Builder::new().prefix("kiln-bench-").tempdir()?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let null = kiln::fixtures::by_name("null").context("there is no null payload")?.elf();
    let mut files = vec![
        (write("null.elf", &null)?, "/kiln/null.elf".to_owned()),
        (vmlinux, "/kiln/vmlinux".to_owned()),
        (kernel.image.clone(), "/kiln/bzImage".to_owned()),
        (initrd.clone(), "/kiln/initrd".to_owned()),
    ];
    let mut programs = vec![std::env::current_exe()?, vmm.clone()];

    let machine = recipe.machine(&kernel.image, initrd);
    debug_assert_eq!(machine.memory, MEMORY_MIB << 20);
    let ours_cmdline = cmdline(&machine, "");
    let qemu = qemu::find(cache, progress)?;
    files.extend(qemu.carried()?);
    let mut contenders = Vec::new();
    for guest in &GUESTS {
        contenders.push(ours(&vmm.to_string_lossy(), guest, &ours_cmdline, "/kiln/cache"));
        contenders.push(Peer::Microvm.contender(&words(&qemu.program), &qemu.env, guest));
        for peer in Peer::OPTIONAL {
            let Some(program) = on_path(peer.program()).filter(|_| peer.takes(guest)) else { continue };
            contenders.push(peer.contender(&[program.to_string_lossy().into_owned()], &[], guest));
            if !programs.contains(&program) {
                programs.push(program);
            }
            if peer == Peer::Firecracker {
                let text = serde_json::to_vec(&firecracker_json(guest))?;
                let inside = firecracker_config(guest);
                let name = Path::new(&inside).file_name().context("a configuration has a name")?;
                files.push((write(&name.to_string_lossy(), &text)?, inside));
            }
        }
    }
    let spec = serde_json::to_vec(&Spec { contenders, rounds: ROUNDS })?;
    files.push((write("spec.json", &spec)?, "/kiln/spec.json".to_owned()));
    measure(cache, LabSpec { programs, files, counts_instructions: true, ..LabSpec::default() }, progress)
}

fn words(program: &[std::ffi::OsString]) -> Vec<String> {
    program.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Builds `kiln-vmm` as a user of it would have it.
fn build_vmm() -> Result<PathBuf> {
    let workspace = kiln::rootfs::workspace();
    let target = workspace.join("target");
    let status = Process::new("cargo")
        .args(["build", "--release", "--quiet", "--locked", "--package", "kiln-vmm", "--bin", "kiln-vmm"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo could not build kiln-vmm");
    }
    Ok(target.join("release/kiln-vmm"))
}

fn measure(cache: &Cache, spec: LabSpec, progress: &dyn Progress) -> Result<Vec<Measured>> {
    progress.note("measuring in the lab; its clock counts instructions");
    let mut lab = Lab::start(cache, &spec, progress)?;
    let program = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = Command {
        argv: vec![program, INNER_BENCH.to_owned(), "/kiln/spec.json".to_owned()],
        env: Vec::new(),
        cwd: None,
        stdin: false,
        events: false,
    };
    let mut out = Vec::new();
    let mut said = Vec::new();
    let follow = || {
        let mut process = lab.client().exec(command)?;
        loop {
            match process.next_event()? {
                ProcessEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
                ProcessEvent::Stderr(bytes) => said.extend_from_slice(&bytes),
                ProcessEvent::Exited(status) => return Ok(status),
                ProcessEvent::Started(_) | ProcessEvent::Events(_) => {}
            }
        }
    };
    match follow() {
        Ok(Status::Code(0)) => serde_json::from_slice(&out).context("read what was measured"),
        Ok(status) => bail!("measuring ended with {status:?}: {}", String::from_utf8_lossy(&said).trim()),
        Err(error) => Err(lab.explain(error).into()),
    }
}
