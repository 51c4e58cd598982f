//! Test binaries carried into one lab, and run there one after the other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_rootfs::cache::Cache;
use kiln_rootfs::progress::Progress;
use kiln_rootfs::{agent, modules};

use super::{Lab, LabError, LabSpec};
use crate::agent::{AgentError, Command, ProcessEvent};
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
    let guest = recipe.kernel(cache, progress)?;
    let image = vmlinux_of(cache, &guest.image)?.unwrap_or_else(|| guest.image.clone());
    let release = Path::new("/kiln/modules").join(&guest.release);
    let mut spec = LabSpec { programs: binaries.to_vec(), guard: SUITE_LIMIT, ..LabSpec::default() };
    spec.files.push((image, "/kiln/kernel".to_owned()));
    spec.files.push((agent::build(cache, progress)?, "/kiln/agent".to_owned()));
    if let Some(dir) = &guest.modules_dir {
        for file in modules::files(dir, Recipe::MODULES)? {
            let inside = release.join(file.strip_prefix(dir).unwrap_or(&file));
            spec.files.push((file, inside.to_string_lossy().into_owned()));
        }
    }
    let runs = runs_root(cache.root());
    let mut env: Vec<(String, String)> = std::env::vars()
        .filter(|(name, _)| name.starts_with("KILN_") || name == "RUST_BACKTRACE" || name == "TERM")
        .collect();
    let inside = [
        (MODE_VARIABLE, "require"),
        (IN_LAB, "1"),
        (GUEST_KERNEL, "/kiln/kernel"),
        (GUEST_MODULES, &*release.to_string_lossy()),
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
