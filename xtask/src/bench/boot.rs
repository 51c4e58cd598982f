//! `bench boot`: what a boot costs, from the VMM's start to the agent's hello.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context, Result, bail};
use kiln::lab::LabSpec;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::progress::Progress;
use kiln::rootfs::qemu;
use kiln::run::vmlinux_of;
use kiln::run::{Recipe, cmdline};

use super::inner::INNER_BENCH;
use super::lab;
use super::peers::{Guest, MEMORY_MIB, Peer, firecracker_config, firecracker_json, kiln as ours, on_path};
use super::spec::{Came, Contender, Measured, Run, Spec};

/// How often each contender runs after the cold round.
const ROUNDS: usize = 3;
/// How many labs are tried.
const SEEDS: u32 = 6;

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
    let vmm = build_release("kiln-vmm", "kiln-vmm")?;
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
    let lab = LabSpec { programs, files, guard: lab::GUARD, ..LabSpec::default() };
    measure_all(cache, &lab, contenders, progress)
}

fn words(program: &[std::ffi::OsString]) -> Vec<String> {
    program.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Builds a program of ours as its users have it.
pub(super) fn build_release(package: &str, program: &str) -> Result<PathBuf> {
    let workspace = kiln::rootfs::workspace();
    let target = workspace.join("target");
    let status = Process::new("cargo")
        .args(["build", "--release", "--quiet", "--locked", "--package", package, "--bin", program])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo could not build {program}");
    }
    Ok(target.join("release").join(program))
}

/// Runs every contender once cold and [`ROUNDS`] times warm, interleaved; what a lab that got stuck had not measured
/// yet is measured in another one.
fn measure_all(
    cache: &Cache,
    lab: &LabSpec,
    contenders: Vec<Contender>,
    progress: &dyn Progress,
) -> Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = contenders
        .iter()
        .map(|c| Measured { vmm: c.vmm.clone(), guest: c.guest.clone(), samples: Vec::new(), error: None })
        .collect();
    let mut runs: VecDeque<Run> = (0..=ROUNDS)
        .flat_map(|round| {
            (0..contenders.len()).map(move |contender| Run { contender, cold: round == 0, warms_up: false })
        })
        .collect();
    progress.note("measuring in the lab; its clock counts instructions");
    for seed in 1..=SEEDS {
        // A new lab has nothing left over from earlier runs.
        let warm_ups = (0..contenders.len())
            .filter(|&index| contenders[index].kept.is_some() && !measured[index].samples.is_empty())
            .map(|contender| Run { contender, cold: false, warms_up: true });
        let all: Vec<Run> = warm_ups.chain(runs.iter().copied()).collect();
        let spec = Spec { contenders: contenders.clone(), runs: all };
        let lab = LabSpec { counts_instructions: Some(seed), ..lab.clone() };
        let mut came = |came: Came| {
            if came.run.warms_up {
                return;
            }
            // The first such run: warm ones are all alike.
            if let Some(at) = runs.iter().position(|run| *run == came.run) {
                runs.remove(at);
            }
            take(&came, &mut measured[came.run.contender], &mut runs, progress);
        };
        match measure(cache, &lab, &spec, &mut came, progress) {
            Ok(()) => return Ok(measured),
            Err(error) if seed == SEEDS => return Err(error.context("the lab got stuck each time")),
            Err(error) => progress.note(&format!("{error:#}; another seed goes on from there")),
        }
    }
    Ok(measured)
}

/// Measures `spec` in one lab; `came` is told of each run as it ends.
fn measure(
    cache: &Cache,
    lab: &LabSpec,
    spec: &Spec,
    came: &mut dyn FnMut(Came),
    progress: &dyn Progress,
) -> Result<()> {
    let program = std::env::current_exe()?;
    let task = lab::Task { program: &program, word: INNER_BENCH, spec: serde_json::to_vec(spec)? };
    let mut line = |line: &[u8]| {
        if let Ok(one) = serde_json::from_slice(line) {
            came(one);
        }
    };
    lab::measure(cache, lab, &task, &mut line, progress)
}

/// Keeps what a run came to; a contender that failed is not run again.
fn take(came: &Came, into: &mut Measured, runs: &mut VecDeque<Run>, progress: &dyn Progress) {
    let text = match &came.sample {
        Ok(sample) => {
            into.samples.push(sample.clone());
            format!("{:.1} ms", sample.marker_ms)
        }
        Err(error) => {
            into.error = Some(error.clone());
            runs.retain(|run| run.contender != came.run.contender);
            error.clone()
        }
    };
    progress.note(&format!("  {} in {}: {text}", into.guest, into.vmm));
}
