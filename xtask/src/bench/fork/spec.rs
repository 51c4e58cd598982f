//! What is measured of forks, as plain data that goes into the lab and comes back.

use std::fmt;
use std::path::PathBuf;

use kiln::vmm::config::MachineConfig;
use serde::{Deserialize, Serialize};

/// What the lab is asked to measure; paths are those inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The machine that boots, with the program in its image.
    pub(super) whole: MachineConfig,
    /// The machine that is saved, with a reserved disk and without the program.
    pub(super) base: MachineConfig,
    /// The disk that brings the program to a fork.
    pub(super) disk: PathBuf,
    /// The program, which is at the same place on this host, in the lab and in its guests.
    pub(super) program: PathBuf,
    /// Where snapshots are kept.
    pub(super) cache: PathBuf,
}

/// One small case in a machine of its own: milliseconds of the lab's clock since it was begun, each the end of a step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Steps {
    /// The machine is put together: restored, or its kernel loaded.
    pub(crate) made: f64,
    /// Its vCPUs run.
    pub(crate) started: f64,
    /// The guest is the case's own: its agent has said hello, or adopted it.
    pub(crate) ready: f64,
    /// The case's first assertion held.
    pub(crate) asserted: f64,
    /// The case ended.
    pub(crate) exited: f64,
    /// The machine ended and was taken down.
    pub(crate) ended: f64,
    /// Anonymous memory of this process that came with the machine, in bytes, at the case's end: what the guest dirtied, and what
    /// the machine takes itself.
    pub(crate) dirtied: u64,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made, started, ready, asserted, exited, ended, dirtied } = self;
        write!(f, "{made:.1} ms made, {started:.1} started, {ready:.1} ready, {asserted:.1} asserted, ")?;
        write!(f, "{exited:.1} its case over, {ended:.1} ended; {} KiB", dirtied >> 10)
    }
}

/// Where the time between a fork's start and its case's end goes: milliseconds each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AdoptionSteps {
    /// From the start of the vCPUs to the agent's first answer.
    pub(crate) answered: f64,
    /// The same answer once more.
    pub(crate) again: f64,
    /// An adoption that is random numbers and the clock.
    pub(crate) clock: f64,
    /// A whole one after that: with the identity, and the disk mounted and linked.
    pub(crate) whole: f64,
    /// The case.
    pub(crate) case_first: f64,
    /// The case once more, with all that it reads in the guest's memory.
    pub(crate) case_again: f64,
}

impl fmt::Display for AdoptionSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, again, clock, whole, case_first, case_again } = self;
        write!(
            f,
            "{answered:.1} ms to its answer, {again:.1} to another; adopted in {clock:.1}, with its disk "
        )?;
        write!(f, "in {whole:.1}; its case {case_first:.1}, then {case_again:.1}")
    }
}

/// One word of what came of it; a line of JSON each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Came {
    /// A boot and its case.
    Boot(Steps),
    /// How long the case took, from asked for to its end, in a guest that had run it before: milliseconds.
    Own(f64),
    /// A snapshot was made: milliseconds.
    Saved(f64),
    /// A fork on a VM of its own, and its case.
    New(Steps),
    /// A fork on what was left of another, and its case.
    Fork(Steps),
    /// A fork whose adoption was taken apart.
    Adoption(AdoptionSteps),
    /// Anonymous memory that came with a fork which was adopted and left alone for a second: bytes.
    Idle(u64),
    /// From the start of a process to the answer of a fork that it restored: milliseconds.
    Restored(f64),
    /// What was measured came to nothing, and why; it is tried again.
    Nothing(String),
    /// Cases one after another, each in its own fork: how many by now, and milliseconds.
    InTurn(u32, f64),
}
