//! The steps that fuzz the readers of what strangers made: a step for each target in `rootfs/fuzz` and `vmm/fuzz`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::cargo::Step;

/// Where the targets are, each a file in `fuzz_targets`.
const FOLDERS: [&str; 2] = ["rootfs/fuzz", "vmm/fuzz"];
/// Of one input: for how long it may be worked on, and with how much memory; then it is a finding.
const LIMITS: &str = "-max_total_time=30 -timeout=10 -rss_limit_mb=2048";
/// Sanitizers are in no other toolchain.
const TOOLCHAIN: &str = "nightly";

/// The steps, in the order of their folders and names.
pub(super) fn steps(root: &Path) -> anyhow::Result<Vec<Step>> {
    let missing = missing();
    let mut steps = Vec::new();
    for fuzz in FOLDERS {
        for target in targets(&root.join(fuzz).join("fuzz_targets"))? {
            let words = format!("fuzz run --fuzz-dir {fuzz} --target-dir target/fuzz {target} -- {LIMITS}");
            let crate_name = fuzz.split('/').next().unwrap_or_default();
            let step = Step::new(&format!("fuzz {crate_name} {target}"), &words)
                .env("RUSTUP_TOOLCHAIN", TOOLCHAIN)
                .lacking(missing.clone());
            steps.push(step);
        }
    }
    Ok(steps)
}

/// The targets in a folder, in the order of their names.
fn targets(folder: &Path) -> anyhow::Result<Vec<String>> {
    let failed = || format!("failed to read {}", folder.display());
    let entries =
        fs::read_dir(folder).with_context(failed)?.collect::<Result<Vec<_>, _>>().with_context(failed)?;
    let mut targets: Vec<String> = entries
        .iter()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    targets.sort();
    Ok(targets)
}

/// What this machine lacks to fuzz, in one line.
fn missing() -> Option<String> {
    let runs = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).env("RUSTUP_TOOLCHAIN", TOOLCHAIN).stdin(Stdio::null()).stderr(Stdio::null());
        let said = command.output().ok().filter(|output| output.status.success());
        said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if !runs("rustc", "--version").is_some_and(|version| version.contains(TOOLCHAIN)) {
        return Some("no nightly Rust to fuzz with: `rustup toolchain install nightly`".to_owned());
    }
    if runs("cargo-fuzz", "--version").is_none() {
        return Some("no cargo-fuzz on PATH: `cargo install cargo-fuzz`".to_owned());
    }
    None
}
