//! What a machine did: exits counted by kind, and the last accesses of each vCPU.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// How many of a vCPU's last accesses are kept.
const KEPT: usize = 256;

/// Why a vCPU left the guest, as the KVM API names it (`KVM_EXIT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    /// A port was read.
    IoIn,
    /// A port was written.
    IoOut,
    /// A device's memory was read.
    MmioRead,
    /// A device's memory was written.
    MmioWrite,
    /// The processor halted, on a machine without interrupt controllers.
    Hlt,
    /// The processor shut down.
    Shutdown,
    /// The guest could not be entered.
    FailEntry,
    /// KVM could not go on.
    InternalError,
    /// The guest told the host something about its power.
    SystemEvent,
    /// The host called the vCPU back.
    Intr,
    /// Anything else.
    Other,
}

/// One access of a guest to a device, or to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Nanoseconds since the machine began to run.
    pub time_ns: u64,
    /// The device's name; none where there is nothing.
    pub device: Option<String>,
    /// Whether the address is a port.
    pub pio: bool,
    /// Whether it was a write.
    pub write: bool,
    /// The port, or the guest-physical address.
    pub address: u64,
    /// How many bytes wide.
    pub width: u8,
    /// What was written, or the answer.
    pub value: u64,
}

/// What one vCPU did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuTrace {
    /// Which vCPU.
    pub index: u32,
    /// How often it left the guest, by reason.
    pub exits: BTreeMap<ExitKind, u64>,
    /// Its last accesses, the oldest first.
    pub accesses: Vec<Access>,
}

/// What a machine did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// One each, in order.
    pub vcpus: Vec<VcpuTrace>,
}

impl Trace {
    /// The exits of all vCPUs.
    #[must_use]
    pub fn total_exits(&self) -> u64 {
        self.vcpus.iter().flat_map(|vcpu| vcpu.exits.values()).sum()
    }
}

/// An access as it is noted: no allocation.
pub(crate) struct Note {
    pub(crate) device: Option<Arc<str>>,
    pub(crate) pio: bool,
    pub(crate) write: bool,
    pub(crate) address: u64,
    pub(crate) width: u8,
    pub(crate) value: u64,
}

/// One vCPU's trace while it runs; its thread's own.
pub(crate) struct Recorder {
    index: u32,
    began: Instant,
    exits: [u64; ExitKind::Other as usize + 1],
    accesses: VecDeque<(Instant, Note)>,
}

impl Recorder {
    pub(crate) fn new(index: u32, began: Instant) -> Self {
        Self { index, began, exits: Default::default(), accesses: VecDeque::with_capacity(KEPT) }
    }

    pub(crate) fn exit(&mut self, kind: ExitKind) {
        if let Some(count) = self.exits.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(crate) fn access(&mut self, note: Note) {
        if self.accesses.len() == KEPT {
            self.accesses.pop_front();
        }
        self.accesses.push_back((Instant::now(), note));
    }

    /// What was noted until now.
    pub(crate) fn trace(&self) -> VcpuTrace {
        const KINDS: [ExitKind; ExitKind::Other as usize + 1] = [
            ExitKind::IoIn,
            ExitKind::IoOut,
            ExitKind::MmioRead,
            ExitKind::MmioWrite,
            ExitKind::Hlt,
            ExitKind::Shutdown,
            ExitKind::FailEntry,
            ExitKind::InternalError,
            ExitKind::SystemEvent,
            ExitKind::Intr,
            ExitKind::Other,
        ];
        let exits = KINDS.into_iter().zip(self.exits).filter(|(_, count)| *count > 0).collect();
        let accesses = self.accesses.iter().map(|(at, note)| Access {
            time_ns: u64::try_from(at.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX),
            device: note.device.as_deref().map(str::to_owned),
            pio: note.pio,
            write: note.write,
            address: note.address,
            width: note.width,
            value: note.value,
        });
        VcpuTrace { index: self.index, exits, accesses: accesses.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(address: u64) -> Note {
        Note { device: None, pio: true, write: true, address, width: 1, value: 0 }
    }

    #[test]
    fn last_accesses_are_kept_and_counts_are_whole() {
        let mut recorder = Recorder::new(3, Instant::now());
        for address in 0..1000 {
            recorder.exit(ExitKind::IoOut);
            recorder.access(note(address));
        }
        recorder.exit(ExitKind::Other);
        let trace = recorder.trace();
        assert_eq!(trace.index, 3);
        assert_eq!(trace.exits, BTreeMap::from([(ExitKind::IoOut, 1000), (ExitKind::Other, 1)]));
        assert_eq!(trace.accesses.len(), KEPT);
        assert_eq!(trace.accesses.last().map(|access| access.address), Some(999));
        assert_eq!(Trace { vcpus: vec![trace] }.total_exits(), 1001);
    }

    #[test]
    fn trace_reads_back_from_json() {
        let mut recorder = Recorder::new(0, Instant::now());
        recorder.exit(ExitKind::MmioRead);
        recorder.access(note(5));
        let trace = Trace { vcpus: vec![recorder.trace()] };
        let text = serde_json::to_string(&trace).unwrap();
        assert!(text.contains("mmio_read"), "{text}");
        assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
    }
}
