//! `bench fork`: what a machine that goes on from a snapshot costs beside one that boots.
//!
//! One lab, and one clock for all: boots, forks, processes that restore, and a hundred cases in turn.

mod case;
mod inner;
mod spec;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kiln::cases::disk_modules;
use kiln::lab::LabSpec;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, DiskSpec};
use kiln::rootfs::progress::Progress;
use kiln::run::{Recipe, vmlinux_of};
use kiln::vmm::config::{Boot, MachineConfig};
use serde::Serialize;

use super::boot::build_release;
use super::lab;
use super::peers::MEMORY_MIB;
use crate::ui::{Align, Table};
pub(crate) use inner::{
    INNER_FORK, INNER_FORK_CASE, INNER_FORK_RESTORE, inner_case, inner_fork, inner_restore,
};
use spec::{AdoptionSteps, Came, Spec, Steps};

/// How many labs are tried.
const SEEDS: u32 = 3;
/// Where things are in the lab.
const KERNEL: &str = "/kiln/vmlinux";
const WHOLE: &str = "/kiln/whole";
const BASE: &str = "/kiln/base";
const DISK: &str = "/kiln/disk";
const CACHE: &str = "/kiln/cache";

/// A fork is to be at its case's first assertion in this share of a boot.
const SHARE: f64 = 1.0 / 50.0;
/// What cases in turn may take beside their own work, in boots.
const BOOTS_IN_TURN: f64 = 3.0;
/// From exec to the first output of a guest that Firecracker restored, in milliseconds of the same clock, of a lab with the same
/// kernel. Measured once; it is not run here.
const FIRECRACKER_MS: f64 = 16.6;
/// The memory that an idle fork may take, in bytes.
const IDLE_MAX: f64 = (16 << 20) as f64;

/// What was measured; times in milliseconds of the lab's clock.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Forks {
    boots: Vec<Steps>,
    /// What the case takes by itself.
    own: Vec<f64>,
    /// How long it took to make the snapshot.
    saved: f64,
    /// Those on VMs of their own. The first one apart: what it reads of the snapshot is in no cache yet.
    new: Vec<Steps>,
    /// Those on what was left of another.
    forks: Vec<Steps>,
    adoptions: Vec<AdoptionSteps>,
    /// Bytes of an idle fork.
    idle: u64,
    restored: Vec<f64>,
    /// How many cases ran in turn, and how long they took together.
    in_turn: (u32, f64),
    /// How often something was tried once more, for the emulator had a guest spin.
    again: u32,
}

/// Measures forks in one lab.
///
/// # Errors
/// Something could not be built or fetched, or no lab came to its end.
pub(crate) fn fork(cache: &Cache, progress: &dyn Progress) -> Result<Forks> {
    progress.note("building kiln as it is released");
    let program = build_release("xtask", "kiln")?;
    let (spec, lab) = prepare(cache, &program, progress)?;
    progress.note("measuring in the lab; its clock counts instructions");
    let mut seed = 1;
    loop {
        let task = lab::Task { program: &program, word: INNER_FORK, spec: serde_json::to_vec(&spec)? };
        let lab = LabSpec { counts_instructions: Some(seed), ..lab.clone() };
        let mut forks = Forks::default();
        let mut line = |line: &[u8]| {
            if let Ok(came) = serde_json::from_slice(line) {
                forks.take(came, progress);
            }
        };
        match lab::measure(cache, &lab, &task, &mut line, progress) {
            Ok(()) => return Ok(forks),
            Err(error) if seed == SEEDS => return Err(error),
            Err(error) => progress.note(&format!("{error:#}; another seed begins anew")),
        }
        seed += 1;
    }
}

/// What is measured, and what goes into the lab for it.
fn prepare(cache: &Cache, program: &Path, progress: &dyn Progress) -> Result<(Spec, LabSpec)> {
    let mut recipe = Recipe { memory: Some(MEMORY_MIB << 20), ..Recipe::default() };
    let kernel = recipe.kernel(cache, progress)?;
    let vmlinux = vmlinux_of(cache, &kernel.image)?.context("the distribution's kernel has no ELF in it")?;
    // What a disk with the program takes.
    recipe.modules.extend(kernel.modules_dir.as_deref().map(disk_modules).unwrap_or_default());
    let base = recipe.image(cache, &kernel, progress)?;
    recipe.modules.clear();
    recipe.image.execs.push(program.to_owned());
    let whole = recipe.image(cache, &kernel, progress)?;
    let disk = image::disk(cache, &DiskSpec { execs: vec![program.to_owned()], ..DiskSpec::default() })?;
    let machine = |image: &str| {
        let mut machine = recipe.machine(&kernel.image, PathBuf::new());
        if let Boot::Kernel { kernel, initrd, .. } = &mut machine.boot {
            (*kernel, *initrd) = (PathBuf::from(KERNEL), Some(PathBuf::from(image)));
        }
        machine
    };
    let spec = Spec {
        whole: machine(WHOLE),
        base: MachineConfig { reserved_disk: true, ..machine(BASE) },
        disk: PathBuf::from(DISK),
        program: program.to_owned(),
        cache: PathBuf::from(CACHE),
    };
    let inside = [(vmlinux, KERNEL), (whole, WHOLE), (base, BASE), (disk, DISK)];
    let lab = LabSpec {
        programs: vec![program.to_owned()],
        files: inside.map(|(from, to)| (from, to.to_owned())).into(),
        guard: lab::GUARD,
        ..LabSpec::default()
    };
    Ok((spec, lab))
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Forks {
    fn take(&mut self, came: Came, progress: &dyn Progress) {
        match came {
            Came::Boot(steps) => {
                progress.note(&format!("  boot: {steps}"));
                self.boots.push(steps);
            }
            Came::Own(own) => self.own.push(own),
            Came::Saved(saved) => {
                progress.note(&format!("  snapshot: {saved:.1} ms"));
                self.saved = saved;
            }
            Came::New(steps) => {
                progress.note(&format!("  fork on a new VM: {steps}"));
                self.new.push(steps);
            }
            Came::Fork(steps) => {
                progress.note(&format!("  fork: {steps}"));
                self.forks.push(steps);
            }
            Came::Adoption(steps) => {
                progress.note(&format!("  fork: {steps}"));
                self.adoptions.push(steps);
            }
            Came::Idle(idle) => self.idle = idle,
            Came::Restored(restored) => {
                progress.note(&format!("  process: {restored:.1} ms to its fork's answer"));
                self.restored.push(restored);
            }
            Came::Nothing(why) => {
                progress.note(&format!("  once more: {why}"));
                self.again += 1;
            }
            Came::InTurn(count, took) => {
                if count % 25 == 0 {
                    progress.note(&format!("  {count} cases in turn: {took:.1} ms"));
                }
                self.in_turn = (count, took);
            }
        }
    }

    /// Those on VMs of their own but the first.
    fn later(&self) -> &[Steps] {
        self.new.get(1..).unwrap_or_default()
    }

    fn cold(&self) -> f64 {
        median(self.boots.iter().map(|steps| steps.asserted))
    }

    /// What is wanted, and what came of it.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn goals(&self) -> Table {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Right, Left]);
        table.row(["", "measured", "wanted", ""]);
        let cold = self.cold();
        let own = median(self.own.iter().copied()) * f64::from(self.in_turn.0);
        let fork = median(self.forks.iter().map(|steps| steps.asserted));
        let mut add = |what: &str, value: f64, most: Option<f64>, told: &str| {
            let held = most.map_or("", |most| if value <= most { "holds" } else { "MISSED" });
            let wanted = most.map_or_else(String::new, |most| format!("{most:.1}"));
            let words =
                [held, told].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
            table.row([what.to_owned(), format!("{value:.1}"), wanted, words]);
        };
        add("boot to the first assertion, ms", cold, None, "");
        let ratio = format!("1/{:.0} of a boot; wanted is 1/{:.0}", cold / fork, 1.0 / SHARE);
        add("fork to the first assertion, ms", fork, Some(cold * SHARE), &ratio);
        let told = "wanted is what Firecracker restores a guest in, measured elsewhere";
        add("the same beside Firecracker, ms", fork, Some(FIRECRACKER_MS), told);
        let new = median(self.later().iter().map(|steps| steps.asserted));
        add("the same on a new VM, ms", new, None, "each thread's first fork of a snapshot");
        let first = self.new.first().map_or(f64::NAN, |steps| steps.asserted);
        add("the very first fork, ms", first, None, "it reads the snapshot's files anew");
        let restored = median(self.restored.iter().copied());
        add(
            "exec to a restored guest's answer, ms",
            restored,
            Some(FIRECRACKER_MS),
            "wanted is Firecracker's; no machine before it left anything",
        );
        let cases = format!("{} cases in turn, ms", self.in_turn.0);
        let made = format!("wanted is {BOOTS_IN_TURN:.0} boots and {own:.0} of their own");
        add(&cases, self.in_turn.1, Some(BOOTS_IN_TURN * cold + own), &made);
        add("an idle fork's memory, MiB", mib(self.idle as f64), Some(mib(IDLE_MAX)), "");
        let dirtied = median(self.later().iter().map(|steps| steps.dirtied as f64));
        add("a fork's memory at its case's end, MiB", mib(dirtied), None, "");
        add("a snapshot made, ms", self.saved, None, "once for each machine, kernel and image");
        add(
            "tried once more",
            self.again.into(),
            None,
            "a guest span: the emulator's fault, counted nowhere",
        );
        table
    }

    /// What each step of a case takes.
    pub(crate) fn steps(&self) -> Table {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Right, Right, Right]);
        table.row(["what each step takes, ms", "boot", "first fork", "fork on a new VM", "fork"]);
        let first = self.new.first().map(std::slice::from_ref).unwrap_or_default();
        let of = |steps: &[Steps], from: fn(&Steps) -> f64, to: fn(&Steps) -> f64| {
            format!("{:.2}", median(steps.iter().map(|steps| to(steps) - from(steps))))
        };
        type Step = (&'static str, fn(&Steps) -> f64, fn(&Steps) -> f64);
        let all: [Step; 6] = [
            ("machine put together", |_| 0.0, |s| s.made),
            ("vCPUs started", |s| s.made, |s| s.started),
            ("agent's hello, or adopted", |s| s.started, |s| s.ready),
            ("case's first assertion", |s| s.ready, |s| s.asserted),
            ("case's end", |s| s.asserted, |s| s.exited),
            ("machine ended", |s| s.exited, |s| s.ended),
        ];
        for (name, from, to) in all {
            let row = [&self.boots[..], first, self.later(), &self.forks].map(|steps| of(steps, from, to));
            table.row([name.to_owned()].into_iter().chain(row));
        }
        type Part = (&'static str, fn(&AdoptionSteps) -> f64);
        let parts: [Part; 6] = [
            ("agent's first answer", |s| s.answered),
            ("the same once more", |s| s.again),
            ("adopted: random numbers, clock", |s| s.clock),
            ("adopted: and identity, disk", |s| s.whole),
            ("case from asked for to its end", |s| s.case_first),
            ("the same once more", |s| s.case_again),
        ];
        table.row(["of a fork, each by itself", "", "", "", ""]);
        for (name, of) in parts {
            let all = format!("{:.2}", median(self.adoptions.iter().map(of)));
            table.row([name, "", "", "", &all].map(str::to_owned));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_name_what_holds_and_what_is_missed() {
        let steps =
            |asserted| Steps { asserted, ended: asserted + 1.0, dirtied: 3 << 20, ..Steps::default() };
        let forks = Forks {
            boots: vec![steps(1000.0)],
            own: vec![2.0],
            new: vec![steps(90.0), steps(50.0)],
            forks: vec![steps(20.0)],
            idle: 17 << 20,
            restored: vec![16.7],
            in_turn: (100, 3200.0),
            ..Forks::default()
        };
        let text = forks.goals().to_string();
        let verdict = |what: &str| {
            let line = text.lines().find(|line| line.starts_with(what)).unwrap_or_default();
            (line.contains("holds"), line.contains("MISSED"))
        };
        assert_eq!(verdict("fork to the first"), (true, false), "{text}");
        assert_eq!(verdict("the same beside Firecracker"), (false, true), "{text}");
        assert_eq!(verdict("exec to a restored"), (false, true), "{text}");
        assert_eq!(verdict("100 cases"), (true, false), "{text}");
        assert_eq!(verdict("an idle fork"), (false, true), "{text}");
        assert_eq!(verdict("the same on a new VM"), (false, false), "{text}");
        assert!(forks.steps().to_string().contains("machine ended"));
    }
}
