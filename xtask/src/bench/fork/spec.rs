//! What is measured of forks, as plain data that goes into the lab and comes back.

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

/// One word of what came of it; a line of JSON each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Came {
    /// A boot and its case.
    Boot(Steps),
    /// How long the case took, from asked for to its end, in a guest that had run it before: milliseconds.
    Own(f64),
    /// A snapshot was made: milliseconds.
    Saved(f64),
    /// A fork and its case.
    Fork(Steps),
    /// Anonymous memory that came with a fork which was adopted and left alone for a second: bytes.
    Idle(u64),
    /// From the start of a process to the answer of a fork that it restored: milliseconds.
    Restored(f64),
    /// Cases one after another, each in its own fork: how many, and milliseconds.
    InTurn(u32, f64),
}
