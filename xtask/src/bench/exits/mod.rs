//! `bench exits`: what kiln's part of an exit costs, and its memory beside the guest's.
//!
//! The same vCPU of the same machine runs under kiln's loop and under one that only calls `KVM_RUN`, in turns, and the
//! guest times itself: what is left is the dispatch. Both are built for speed first.

mod bare;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use kiln::gate;
use kiln::rootfs::progress::Progress;
use serde::Serialize;

use super::boot::build_release;
use super::inner::measure;
use super::spec::Contender;
use crate::ui::{Align, Table};

pub(crate) use rounds::{Cost, INNER_EXITS, run as inner_exits};

/// The ratio that is wanted of each kind of exit at most.
const RATIO_MAX: f64 = 1.05;
/// The memory beside the guest's that is wanted at most, in bytes.
const MEMORY_MAX: u64 = 4 << 20;
/// Guest RAM of the machine whose memory is measured, in MiB.
const GUEST_MIB: u64 = 256;
/// What its guest says again and again, once it has used the disk.
const MARKER: &str = "and on";
/// How long that guest goes on before the memory is read: what is told is what a machine takes that runs, not one that
/// starts, which is over after a second.
const SETTLES_MS: u64 = 2000;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Exits {
    /// Which level of KVM it was measured on.
    kvm: &'static str,
    exits: Vec<Cost>,
    /// Resident bytes of `kiln-vmm` beside guest RAM: one vCPU, a console, a disk, and a guest that uses both.
    memory: u64,
}

/// Measures exits and memory on this host's KVM.
///
/// # Errors
/// There is none, or what is measured could not be built.
pub(crate) fn exits(progress: &dyn Progress) -> Result<Exits> {
    let level = gate::host_level().as_str();
    if level == "none" {
        bail!("this host's KVM is at level none: cargo xtask doctor says why");
    }
    progress.note("building kiln as it is released");
    let ours = build_release("xtask", "kiln")?;
    let vmm = build_release("kiln-vmm", "kiln-vmm")?;
    progress.note("measuring: the guest runs under kiln and under a bare loop in turns");
    let output = Command::new(&ours).arg(INNER_EXITS).stdin(Stdio::null()).output().context("start kiln")?;
    if !output.status.success() {
        bail!("measuring failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let exits = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let exits =
        exits.map(serde_json::from_slice).collect::<Result<_, _>>().context("read what came of it")?;
    Ok(Exits { kvm: level, exits, memory: memory(&vmm)? })
}

/// What `kiln-vmm` takes beside guest RAM.
fn memory(vmm: &Path) -> Result<u64> {
    let scratch = tempfile::Builder::new().prefix("kiln-bench-").tempdir()?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let payloads = kiln::fixtures::with_devices();
    let guest = payloads.iter().find(|payload| payload.name == "disk-babble");
    let guest = guest.context("there is no payload that uses a disk")?;
    let kernel = write("guest.elf", &guest.elf())?;
    let disk = write("disk", &[0; 1 << 20])?;
    let word = |path: &Path| path.to_string_lossy().into_owned();
    let argv = vec![word(vmm), "run".to_owned(), word(&kernel), "--disk".to_owned(), word(&disk)];
    let contender = Contender {
        vmm: "kiln".to_owned(),
        guest: guest.name.to_owned(),
        argv: argv.into_iter().chain(["--mem".to_owned(), GUEST_MIB.to_string()]).collect(),
        env: Vec::new(),
        marker: MARKER.to_owned(),
        hello: false,
        guest_memory: GUEST_MIB << 20,
        settles_ms: SETTLES_MS,
        kept: None,
    };
    Ok(measure(&contender)?.memory)
}

impl Exits {
    /// The level of KVM that it was measured on.
    pub(crate) fn level(&self) -> &'static str {
        self.kvm
    }

    /// The table: nanoseconds for each exit, the ratio with its spread, and what is wanted.
    pub(crate) fn table(&self) -> Table {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Right, Right, Right, Right]);
        table.row(["exit", "kiln, ns", "bare loop, ns", "ratio", "10 % to 90 %", "wanted"]);
        for cost in &self.exits {
            table.row([
                cost.exit.clone(),
                format!("{:.0}", cost.ours_ns),
                format!("{:.0}", cost.bare_ns),
                format!("{:.3}", cost.ratio(0.5)),
                format!("{:.3}–{:.3}", cost.ratio(0.1), cost.ratio(0.9)),
                format!("≤ {RATIO_MAX}"),
            ]);
        }
        #[allow(clippy::cast_precision_loss)]
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let (memory, most) = (mib(self.memory), format!("≤ {}", mib(MEMORY_MAX)));
        table.row([
            "memory beside guest RAM".to_owned(),
            memory,
            String::new(),
            String::new(),
            String::new(),
            most,
        ]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_ratios_with_their_spread_and_the_memory() {
        let ratios = (0..=100).map(|n| 1.0 + f64::from(n) / 1000.0).collect();
        let cost = Cost { exit: "PIO write".to_owned(), ours_ns: 2100.0, bare_ns: 2000.0, ratios };
        let text = Exits { kvm: "payload", exits: vec![cost], memory: 3 << 20 }.table().to_string();
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("2100") && line.contains("1.050") && line.contains("1.010–1.090"), "{text}");
        assert!(text.contains("3.0 MiB") && text.contains("≤ 4.0 MiB"), "{text}");
    }
}
