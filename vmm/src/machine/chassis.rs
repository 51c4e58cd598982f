//! What is kept of a machine that was dismissed, for one that goes on from the same snapshot.
//!
//! To make a VM, to bring each of its pages into KVM's tables by a fault, and to take it down again is most of what such a machine
//! costs. So another one is put on the same VM, its vCPUs and its RAM, with devices of its own. Nothing of the last guest is left:
//! RAM has the snapshot's bytes again before the chassis is there to be had, all that was connected to KVM is taken off, and vCPUs
//! and interrupt controllers are given the snapshot's state whole, as they are where all is new.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_ioctls::Kvm;

use crate::kvm::Vm;
use crate::memory::GuestMemory;
use crate::memory::region::Rom;
use crate::snapshot::{Loaded, Saver};
use crate::thread;
use crate::vcpu::{Controller, Parked};

/// A VM with its vCPUs and RAM, as the snapshot has it that its last machine went on from.
///
/// It takes of the host what its guests have dirtied until now, 16 MiB at most, and a thread for each vCPU.
pub struct Chassis {
    pub(super) node: PathBuf,
    pub(super) kvm: Arc<Kvm>,
    pub(super) vm: Arc<Vm>,
    pub(super) vcpus: Vec<Parked>,
    pub(super) memory: GuestMemory,
    /// The reserved disk's place as memory.
    pub(super) place: Option<Arc<Rom>>,
    pub(super) snapshot: Loaded,
}

impl Chassis {
    /// What is left of a machine that was dismissed and whose threads have ended; none if it did not go on from a snapshot, or if
    /// anything about it can't be as it was.
    pub(super) fn of(saver: &mut Saver, controller: &Controller, vcpus: Vec<Parked>) -> Option<Self> {
        let snapshot = saver.origin.clone()?;
        let whole = usize::try_from(saver.config.cpus).is_ok_and(|cpus| cpus == vcpus.len());
        if !whole || controller.is_debugged() {
            return None;
        }
        let memory = saver.map.ram().clone();
        // KVM has whoever takes a line off wait for longer than RAM takes.
        let (stripped, brought) = std::thread::scope(|scope| {
            let strip = thread::named("strip").spawn_scoped(scope, || strip(saver));
            let brought = snapshot.bring_back(&memory);
            (strip.is_ok_and(|strip| strip.join().unwrap_or(false)), brought)
        });
        if !stripped || brought.is_err() {
            return None;
        }
        let (node, kvm) = (controller.kvm_node().to_owned(), saver.kvm.clone());
        let (vm, place) = (saver.vm.clone(), saver.place.clone());
        Some(Self { node, kvm, vm, vcpus, memory, place, snapshot })
    }

    /// Whether the snapshot is still where it was, and as it was.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.snapshot.check().is_ok()
    }

    /// The snapshot's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.snapshot.folder()
    }
}

/// Takes all off the VM that is not another machine's as well.
fn strip(saver: &mut Saver) -> bool {
    let windows = saver.map.strip();
    // The devices, with what they have connected.
    saver.parts.clear();
    windows.is_ok() && saver.vm.strip(saver.config.irqchip).is_ok()
}
