//! What machines that are done with leave for the next ones of their snapshot.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use kiln_vmm::machine::Chassis;

/// The oldest first. Their number is bounded: each takes some MiB of the host.
static KEPT: Mutex<Vec<Chassis>> = Mutex::new(Vec::new());

/// Keeps `chassis` for the next machine that goes on from its snapshot in this process; as many as the host has processors.
pub fn keep(chassis: Chassis) {
    let most = available_parallelism().map_or(1, Into::into);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push(chassis);
    let too_many = kept.len().saturating_sub(most);
    let oldest: Vec<_> = kept.drain(..too_many).collect();
    // To take a VM down takes longer than anybody should wait for the lock.
    drop(kept);
    drop(oldest);
}

/// One of the snapshot whose machine's files are in `folder`.
pub(super) fn take(folder: &Path) -> Option<Chassis> {
    let take = || {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let last = kept.iter().rposition(|chassis| chassis.folder() == folder)?;
        Some(kept.remove(last))
    };
    // One of a snapshot that was made anew since is of no use.
    std::iter::from_fn(take).find(Chassis::is_current)
}
