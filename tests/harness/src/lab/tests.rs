//! Test binaries carried into one lab, and run there one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use kiln_rootfs::cache::Cache;
use kiln_rootfs::kernel::{self, KernelFiles};
use kiln_rootfs::progress::Progress;
use kiln_rootfs::{agent, modules};

use super::{Lab, LabError, LabSpec};
use crate::agent::{AgentError, Command, ProcessEvent};
use crate::cases::{BUILT, Built, CARGO, CARRIED, CONFIG, Cargo, Carried, build_sources, disk_modules};
use crate::evidence::{EVIDENCE_FD, EVIDENCE_ROOT, Replay, runs_root};
use crate::gate::MODE_VARIABLE;
use crate::run::{Recipe, exit_status, not_in_the_lab, pass_on, vmlinux_of};

/// Set in the lab's test binaries, so that they say which accelerator they ran on.
pub const IN_LAB: &str = "KILN_IN_LAB";
/// The kernel for guests, where it was brought by whoever started this process.
pub const GUEST_KERNEL: &str = "KILN_GUEST_KERNEL";
/// The folder with that kernel's modules.
pub const GUEST_MODULES: &str = "KILN_GUEST_MODULES";

/// The most that a whole suite may take in the lab, in wall time.
const SUITE_LIMIT: Duration = Duration::from_secs(60 * 60);
/// What a machine takes beside its guest's memory, with room to spare, in MiB.
const MACHINE_MIB: u64 = 256;

/// Runs each of `binaries` with `arguments` in one lab; what they print goes to `out` and `err` as it comes,
/// their evidence below the cache's `runs`. Returns each one's exit status, in order.
///
/// # Errors
/// The lab could not be had, or was lost: see [`LabError`].
pub fn run_tests(
    cache: &Cache,
    recipe: &Recipe,
    binaries: &[PathBuf],
    arguments: &[String],
    (out, err): (&mut dyn Write, &mut dyn Write),
    progress: &dyn Progress,
) -> Result<Vec<u8>, LabError> {
    not_in_the_lab();
    let cargo = cargo_of(binaries, arguments)?;
    let mut spec = LabSpec { programs: binaries.to_vec(), guard: SUITE_LIMIT, ..LabSpec::default() };
    spec.guest_memory = spec.guest_memory.max(cargo.memory_mib.saturating_add(MACHINE_MIB) << 20);
    spec.files.push((agent::build(cache, progress)?, "/kiln/agent".to_owned()));
    spec.files.extend(cargo.files.into_iter().map(|file| {
        let inside = file.to_string_lossy().into_owned();
        (file, inside)
    }));
    let none = BTreeSet::new();
    let own = cargo.kernels.get("").unwrap_or(&none);
    let guest = recipe.kernel(cache, progress)?;
    let mut built = Built::new();
    let own =
        with_built(own, built.entry(String::new()).or_insert(build_sources(cache, &guest, own, progress)));
    let (_, modules) = bring_kernel(cache, &guest, &own, "/kiln", &mut spec)?;
    let modules = modules.unwrap_or_default();
    let mut carried = Carried::new();
    for (index, (name, modules)) in cargo.kernels.iter().filter(|(name, _)| !name.is_empty()).enumerate() {
        let kernel = kernel::find(cache, Path::new(name), None, progress)?;
        let place = format!("/kiln/kernels/{index}");
        let sources = build_sources(cache, &kernel, modules, progress);
        let modules = with_built(modules, built.entry(name.clone()).or_insert(sources));
        let brought = bring_kernel(cache, &kernel, &modules, &place, &mut spec)?;
        carried.insert(name.clone(), brought);
    }
    let unnamed = |error: serde_json::Error| LabError::Host {
        what: "name the kernels".to_owned(),
        source: error.into(),
    };
    let carried = serde_json::to_string(&carried).map_err(unnamed)?;
    let built = serde_json::to_string(&built).map_err(unnamed)?;
    let runs = runs_root(cache.root());
    let mut env: Vec<(String, String)> = std::env::vars()
        .filter(|(name, _)| name.starts_with("KILN_") || name == "RUST_BACKTRACE" || name == "TERM")
        .collect();
    let inside = [
        (MODE_VARIABLE, "require"),
        (IN_LAB, "1"),
        (GUEST_KERNEL, "/kiln/kernel"),
        (GUEST_MODULES, &*modules.to_string_lossy()),
        (CARRIED, &*carried),
        (BUILT, &*built),
        ("KILN_AGENT", "/kiln/agent"),
        ("KILN_CACHE", "/kiln/cache"),
        (EVIDENCE_FD, "3"),
        (EVIDENCE_ROOT, &*runs.to_string_lossy()),
    ];
    env.retain(|(name, _)| !inside.iter().any(|(set, _)| set == name));
    env.extend(inside.map(|(name, value)| (name.to_owned(), value.to_owned())));

    let mut lab = Lab::start(cache, &spec, progress)?;
    let mut replay = Replay::into_folder(&runs);
    let mut statuses = Vec::new();
    for binary in binaries {
        let mut argv = vec![binary.to_string_lossy().into_owned()];
        argv.extend_from_slice(arguments);
        let command =
            Command { argv, env: env.clone(), cwd: None, stdin: false, events: true, terminal: None };
        match follow(&lab, command, (out, err), &mut replay) {
            Ok(Ok(status)) => statuses.push(status),
            Ok(Err(source)) => return Err(LabError::Host { what: "keep the evidence".to_owned(), source }),
            Err(error) => return Err(lab.explain(error)),
        }
    }
    Ok(statuses)
}

/// What the cases of `binaries` that `arguments` choose need beside their binary: each is asked.
fn cargo_of(binaries: &[PathBuf], arguments: &[String]) -> Result<Cargo, LabError> {
    let mut cargo = Cargo::default();
    for binary in binaries {
        let failed = |source: io::Error| LabError::Host {
            what: format!("ask {} what its cases need", binary.display()),
            source,
        };
        let asked = process::Command::new(binary)
            .args(arguments)
            .env(CARGO, "1")
            .stdin(process::Stdio::null())
            .output()
            .map_err(failed)?;
        cargo.add(serde_json::from_slice(&asked.stdout).map_err(|error| failed(error.into()))?);
    }
    Ok(cargo)
}

/// `names` with the files that were `built` in the place of sources; what was not built is not brought, and fails the
/// cases that ask for it.
fn with_built(
    names: &BTreeSet<String>,
    built: &BTreeMap<String, Result<Vec<String>, String>>,
) -> BTreeSet<String> {
    let own = names.iter().filter(|name| !built.contains_key(*name)).cloned();
    own.chain(built.values().flatten().flatten().cloned()).collect()
}

/// Has the lab bring `kernel` below `place`, with `modules` beside those that every guest needs; returns where its image
/// and its modules will be.
fn bring_kernel(
    cache: &Cache,
    kernel: &KernelFiles,
    modules: &BTreeSet<String>,
    place: &str,
    spec: &mut LabSpec,
) -> Result<(PathBuf, Option<PathBuf>), LabError> {
    let image = vmlinux_of(cache, &kernel.image)?.unwrap_or_else(|| kernel.image.clone());
    let inside = format!("{place}/kernel");
    spec.files.push((image, inside.clone()));
    let options = kernel.image.with_file_name(CONFIG);
    if options.is_file() {
        spec.files.push((options, format!("{place}/{CONFIG}")));
    }
    let Some(dir) = &kernel.modules_dir else { return Ok((inside.into(), None)) };
    let folder = Path::new(place).join("modules").join(&kernel.release);
    let disk = disk_modules(dir);
    let own = Recipe::MODULES.iter().copied().chain(disk.iter().map(String::as_str));
    let wanted: Vec<&str> = own.chain(modules.iter().map(String::as_str)).collect();
    for file in modules::files(dir, &wanted)? {
        let at = folder.join(file.strip_prefix(dir).unwrap_or(&file));
        spec.files.push((file, at.to_string_lossy().into_owned()));
    }
    Ok((inside.into(), Some(folder)))
}

fn follow(
    lab: &Lab,
    command: Command,
    (out, err): (&mut dyn Write, &mut dyn Write),
    replay: &mut Replay,
) -> Result<std::io::Result<u8>, AgentError> {
    let mut process = lab.client().exec(command)?;
    loop {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => pass_on(out, &bytes),
            ProcessEvent::Stderr(bytes) => pass_on(err, &bytes),
            ProcessEvent::Events(bytes) => {
                if let Err(error) = replay.feed(&bytes) {
                    return Ok(Err(error));
                }
            }
            ProcessEvent::Exited(status) => return Ok(Ok(exit_status(status))),
        }
    }
}
