//! Where a plan is carried out: on this host's KVM, or in the lab.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_rootfs::cache::Cache;
use kiln_rootfs::progress::Progress;
use kiln_vmm::chain;
use kiln_vmm::config::Boot;
use kiln_vmm::level::Level;
use kiln_vmm::machine::{Machine, MachineError};
use serde::{Deserialize, Serialize};

use super::vmlinux::{VmlinuxError, vmlinux_of};
use super::{Plan, Report, TaskIo, execute};
use crate::evidence::{RunDirectory, runs_root};
use crate::verdict::Verdict;
use crate::{gate, lab};

/// Which accelerator a user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM here if it runs Linux, else the lab.
    #[default]
    Auto,
    /// KVM here, or nothing.
    Kvm,
    /// The lab.
    Lab,
}

/// Which accelerator ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM of this host.
    Kvm,
    /// KVM of the lab.
    Lab,
}

impl Accel {
    /// The name that reports and scripts use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Lab => "lab",
        }
    }
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it came to.
    pub report: Report,
    /// What it ran on; none if it did not come to run.
    pub accel: Option<Accel>,
    /// Its directory.
    pub directory: PathBuf,
}

/// Chooses the accelerator for a host at `level`.
///
/// # Errors
/// KVM was asked for, and the host's does not run Linux: why.
pub fn choose(choice: AccelChoice, level: &Level) -> Result<Accel, String> {
    match (choice, level) {
        (AccelChoice::Lab, _) => Ok(Accel::Lab),
        (_, Level::Linux) => Ok(Accel::Kvm),
        (AccelChoice::Auto, _) => Ok(Accel::Lab),
        (AccelChoice::Kvm, Level::Payload { reason } | Level::None { reason }) => Err(format!(
            "--accel kvm needs KVM at level linux; this host is at level {}: {reason} (leave --accel out, and the lab is used)",
            level.as_str()
        )),
    }
}

/// A run that can't begin.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The accelerator that was asked for is not to be had.
    #[error("{0}")]
    Accel(String),
    /// The machine is none, or what it boots or its disks can't be used.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The kernel can't be read or kept.
    #[error(transparent)]
    Kernel(#[from] VmlinuxError),
    /// The run's directory can't be made.
    #[error("no directory for the run")]
    Directory(#[source] std::io::Error),
}

/// A run that can begin: it has its accelerator and its directory.
#[derive(Debug)]
pub struct Prepared<'a> {
    cache: &'a Cache,
    plan: Plan,
    accel: Accel,
    runs: PathBuf,
    directory: Arc<RunDirectory>,
}

/// Prepares a run of `plan` by the accelerator of `choice`, as `case` in `suite`.
///
/// # Errors
/// What was asked for makes no run: see [`DispatchError`]; nothing is left of it.
pub fn prepare<'a>(
    cache: &'a Cache,
    plan: &Plan,
    choice: AccelChoice,
    (suite, case): (&str, &str),
) -> Result<Prepared<'a>, DispatchError> {
    let accel = choose(choice, gate::host_level()).map_err(DispatchError::Accel)?;
    cache.make_room();
    let asked_for = &plan.machine;
    let plan = decompressed(cache, plan)?;
    // What the lab would say of it in a few seconds is said here in a moment.
    Machine::check(&plan.machine, accel == Accel::Lab)?;
    let runs = runs_root(cache.root());
    let directory = Arc::new(RunDirectory::begin(&runs, suite, case).map_err(DispatchError::Directory)?);
    // As it was asked for: the lab sees the same under other paths.
    let _ = directory.json("machine.json", asked_for);
    Ok(Prepared { cache, plan, accel, runs, directory })
}

impl Prepared<'_> {
    /// The run's directory.
    #[must_use]
    pub fn directory(&self) -> &Arc<RunDirectory> {
        &self.directory
    }

    /// Carries it out; all that goes wrong is in the report.
    #[must_use]
    pub fn carry_out(self, io: TaskIo<'_>, progress: &dyn Progress) -> Done {
        let Self { cache, plan, accel, runs, directory } = self;
        let report = match accel {
            Accel::Kvm => execute(&plan, &directory, io),
            Accel::Lab => match lab::execute(cache, &plan, &runs, &directory, io, progress) {
                Ok(report) => report,
                Err(error) => given_up(&directory, chain(&error)),
            },
        };
        Done { report, accel: Some(accel), directory: directory.path() }
    }
}

/// The plan with the ELF of its kernel in the kernel's place: decompressed here, where it is kept for the next
/// run, and not in the guest each time.
fn decompressed(cache: &Cache, plan: &Plan) -> Result<Plan, VmlinuxError> {
    let mut plan = plan.clone();
    if let Boot::Kernel { kernel, .. } = &mut plan.machine.boot
        && let Some(vmlinux) = vmlinux_of(cache, kernel)?
    {
        *kernel = vmlinux;
    }
    Ok(plan)
}

/// The report of a run that did not come to an end of its own.
fn given_up(directory: &RunDirectory, why: String) -> Report {
    let report = Report::without_machine(Verdict::Untestable, why);
    // What a lab that died had said already does not hold any more.
    for file in ["report.json", "passed", "failed"] {
        let _ = std::fs::remove_file(directory.path().join(file));
    }
    let _ = directory.json("report.json", &report);
    let _ = directory.failed(&report.reason());
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerator_is_never_less_than_was_asked_for() {
        let payload = Level::Payload { reason: "iretq is not emulated".to_owned() };
        assert_eq!(choose(AccelChoice::Auto, &Level::Linux), Ok(Accel::Kvm));
        assert_eq!(choose(AccelChoice::Auto, &payload), Ok(Accel::Lab));
        assert_eq!(choose(AccelChoice::Lab, &Level::Linux), Ok(Accel::Lab));
        let why = choose(AccelChoice::Kvm, &payload).unwrap_err();
        assert!(why.contains("level payload: iretq is not emulated"), "{why}");
    }
}
