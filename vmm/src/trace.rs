//! What a machine did: exits counted by kind, accesses by device, and the last accesses of each vCPU.

mod kind;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use kind::ExitKind;

use crate::bus::Taken;
use crate::config::BusKind;

/// How many of a vCPU's last accesses are kept.
const KEPT: usize = 256;
/// Room for so many devices before the list of them grows.
const DEVICES: usize = 16;

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

/// How often something was accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessCount {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl AccessCount {
    fn add(&mut self, write: bool) {
        let count = if write { &mut self.writes } else { &mut self.reads };
        *count += 1;
    }
}

/// What one vCPU did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuTrace {
    /// Which vCPU.
    pub index: u32,
    /// How often it left the guest, by reason.
    pub exits: BTreeMap<ExitKind, u64>,
    /// How often it accessed each device.
    #[serde(default)]
    pub devices: BTreeMap<String, AccessCount>,
    /// How often it accessed what is nothing, wholly or in part.
    #[serde(default)]
    pub nothing: AccessCount,
    /// How often it wrote fewer bytes than a device takes: they are lost.
    #[serde(default)]
    pub refused: u64,
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

    /// The exits of all vCPUs for one reason.
    #[must_use]
    pub fn exits(&self, kind: ExitKind) -> u64 {
        self.vcpus.iter().filter_map(|vcpu| vcpu.exits.get(&kind)).sum()
    }

    /// How often all vCPUs accessed each device.
    #[must_use]
    pub fn devices(&self) -> BTreeMap<&str, AccessCount> {
        let mut sums = BTreeMap::<&str, AccessCount>::new();
        for (name, count) in self.vcpus.iter().flat_map(|vcpu| &vcpu.devices) {
            let sum = sums.entry(name).or_default();
            (sum.reads, sum.writes) = (sum.reads + count.reads, sum.writes + count.writes);
        }
        sums
    }
}

/// An access as it is kept: small, and made without an allocation.
struct Note {
    ticks: u64,
    address: u64,
    value: u64,
    /// An index into the devices; past their end: nothing.
    device: u16,
    width: u8,
    pio: bool,
    write: bool,
}

/// One vCPU's trace while it runs; its thread's own.
///
/// It is on the way of every exit. Times are the processor's own ticks, made into nanoseconds when somebody looks.
/// Devices are known by their name's address, the last one at once.
pub(crate) struct Recorder {
    index: u32,
    clock: Clock,
    exits: [u64; ExitKind::ALL.len()],
    devices: Vec<(Arc<str>, AccessCount)>,
    last: usize,
    nothing: AccessCount,
    refused: u64,
    accesses: Vec<Note>,
    /// Where the next note goes once all places are taken: the oldest one's.
    next: usize,
}

impl Recorder {
    /// A recorder for vCPU `index` of a machine that began at `began`.
    pub(crate) fn new(index: u32, began: Instant) -> Self {
        Self {
            index,
            clock: Clock::new(began),
            exits: [0; ExitKind::ALL.len()],
            devices: Vec::with_capacity(DEVICES),
            last: 0,
            nothing: AccessCount::default(),
            refused: 0,
            accesses: Vec::with_capacity(KEPT),
            next: 0,
        }
    }

    pub(crate) fn exit(&mut self, kind: ExitKind) {
        if let Some(count) = self.exits.get_mut(kind as usize) {
            *count += 1;
        }
    }

    /// Notes an access of up to eight bytes, and who had it. One that went to several devices is the first one's.
    pub(crate) fn access(
        &mut self,
        taken: Taken<'_>,
        (bus, write): (BusKind, bool),
        address: u64,
        data: &[u8],
    ) {
        let index = taken.device.map(|name| self.device(name));
        if let Some((_, count)) = index.and_then(|index| self.devices.get_mut(index)) {
            count.add(write);
        }
        if taken.nobodys {
            self.nothing.add(write);
        }
        self.refused += u64::from(taken.refused);
        let mut value = [0; 8];
        value.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let note = Note {
            ticks: ticks(),
            address,
            value: u64::from_le_bytes(value),
            device: index.and_then(|index| u16::try_from(index).ok()).unwrap_or(u16::MAX),
            width: u8::try_from(data.len()).unwrap_or(u8::MAX),
            pio: bus == BusKind::Pio,
            write,
        };
        match self.accesses.get_mut(self.next) {
            Some(oldest) => *oldest = note,
            None => self.accesses.push(note),
        }
        self.next = (self.next + 1) % KEPT;
    }

    fn device(&mut self, name: &Arc<str>) -> usize {
        let is_it = |(known, _): &(Arc<str>, AccessCount)| Arc::ptr_eq(known, name);
        if !self.devices.get(self.last).is_some_and(is_it) {
            self.last = self.devices.iter().position(is_it).unwrap_or_else(|| {
                self.devices.push((name.clone(), AccessCount::default()));
                self.devices.len() - 1
            });
        }
        self.last
    }

    /// What was noted until now.
    pub(crate) fn trace(&self) -> VcpuTrace {
        let kinds = ExitKind::ALL.iter().copied().zip(self.exits);
        let mut devices = BTreeMap::<String, AccessCount>::new();
        for (name, count) in &self.devices {
            // A device with two ranges is one device.
            let sum = devices.entry(name.to_string()).or_default();
            (sum.reads, sum.writes) = (sum.reads + count.reads, sum.writes + count.writes);
        }
        let time = self.clock.scale();
        let (newer, older) = self.accesses.split_at(self.next.min(self.accesses.len()));
        let access = |note: &Note| Access {
            time_ns: time(note.ticks),
            device: self.devices.get(usize::from(note.device)).map(|(name, _)| name.to_string()),
            pio: note.pio,
            write: note.write,
            address: note.address,
            width: note.width,
            value: note.value,
        };
        VcpuTrace {
            index: self.index,
            exits: kinds.filter(|(_, count)| *count > 0).collect(),
            devices,
            nothing: self.nothing,
            refused: self.refused,
            accesses: older.iter().chain(newer).map(access).collect(),
        }
    }
}

/// The processor's time-stamp counter: a few nanoseconds, and no call of the system on any host.
fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    #[allow(unsafe_code)]
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

/// What ticks are in nanoseconds since the machine's beginning, measured over all of the recorder's life.
struct Clock {
    /// When the recorder was made, in each measure.
    made: Instant,
    ticks: u64,
    /// How long the machine had run by then.
    before: u128,
}

impl Clock {
    fn new(began: Instant) -> Self {
        let made = Instant::now();
        Self { made, ticks: ticks(), before: made.saturating_duration_since(began).as_nanos() }
    }

    fn scale(&self) -> impl Fn(u64) -> u64 {
        let (made, before, nanoseconds) = (self.ticks, self.before, self.made.elapsed().as_nanos());
        let whole = ticks().saturating_sub(made).max(1);
        move |ticks| {
            // Processors' counters may differ by a little: never before the beginning, never in the future.
            let since = u128::from(ticks.saturating_sub(made).min(whole));
            u64::try_from(before + since * nanoseconds / u128::from(whole)).unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(device: Option<&Arc<str>>) -> Taken<'_> {
        Taken { device, nobodys: device.is_none(), refused: false }
    }

    fn write(recorder: &mut Recorder, device: Option<&Arc<str>>, address: u64) {
        recorder.access(taken(device), (BusKind::Pio, true), address, &[0]);
    }

    #[test]
    fn last_accesses_are_kept_and_counts_are_whole() {
        let mut recorder = Recorder::new(3, Instant::now());
        for address in 0..1000 {
            recorder.exit(ExitKind::IoOut);
            write(&mut recorder, None, address);
        }
        recorder.exit(ExitKind::Unlisted);
        let trace = recorder.trace();
        assert_eq!(trace.index, 3);
        assert_eq!(trace.exits, BTreeMap::from([(ExitKind::IoOut, 1000), (ExitKind::Unlisted, 1)]));
        let kept: Vec<u64> = trace.accesses.iter().map(|access| access.address).collect();
        assert_eq!(kept, (744..1000).collect::<Vec<_>>());
        assert_eq!(trace.nothing, AccessCount { reads: 0, writes: 1000 });
        assert_eq!(Trace { vcpus: vec![trace] }.total_exits(), 1001);
    }

    #[test]
    fn accesses_are_counted_by_device_on_all_vcpus() {
        let (uart, probe) = (Arc::<str>::from("COM1"), Arc::<str>::from("probe"));
        let vcpus = [0, 1].map(|index| {
            let mut recorder = Recorder::new(index, Instant::now());
            for device in [&uart, &probe, &uart] {
                write(&mut recorder, Some(device), 1);
            }
            recorder.access(taken(Some(&uart)), (BusKind::Mmio, false), 2, &[1, 2]);
            recorder.trace()
        });
        let last = vcpus[0].accesses.last().unwrap();
        assert_eq!(
            (last.device.as_deref(), last.pio, last.width, last.value),
            (Some("COM1"), false, 2, 0x201)
        );
        let trace = Trace { vcpus: vcpus.into() };
        let counts = trace.devices();
        assert_eq!(counts["COM1"], AccessCount { reads: 2, writes: 4 });
        assert_eq!(counts["probe"], AccessCount { reads: 0, writes: 2 });
    }

    #[test]
    fn times_rise_and_lie_between_the_beginning_and_now() {
        let began = Instant::now();
        let mut recorder = Recorder::new(0, began);
        for address in 0..300 {
            write(&mut recorder, None, address);
        }
        let times: Vec<u64> = recorder.trace().accesses.iter().map(|access| access.time_ns).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert!(times.iter().all(|time| u128::from(*time) <= began.elapsed().as_nanos()));
    }

    #[test]
    fn kinds_have_the_names_of_the_api() {
        assert!(
            ExitKind::ALL
                .iter()
                .filter(|kind| **kind != ExitKind::Unlisted)
                .all(|kind| kind.name().starts_with("KVM_EXIT_"))
        );
        assert_eq!(ExitKind::X86Rdmsr.name(), "KVM_EXIT_X86_RDMSR");
        assert!(ExitKind::ALL.iter().enumerate().all(|(index, kind)| *kind as usize == index));
    }

    #[test]
    fn trace_reads_back_from_json() {
        let mut recorder = Recorder::new(0, Instant::now());
        recorder.exit(ExitKind::MmioRead);
        write(&mut recorder, Some(&Arc::from("probe")), 5);
        let trace = Trace { vcpus: vec![recorder.trace()] };
        let text = serde_json::to_string(&trace).unwrap();
        assert!(text.contains("mmio_read"), "{text}");
        assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
    }
}
