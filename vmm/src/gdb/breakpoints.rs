//! Breakpoints: instructions put into guest memory, and the four debug registers.

use std::collections::BTreeMap;

use gdbstub::target::ext::breakpoints::WatchKind;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;
use crate::vcpu::Trap;

/// More than any session needs.
const SOFTWARE_MAX: usize = 1024;
/// DR7: a bit that is always set, and what enables debug register `n` for all tasks (Intel SDM, volume 3, §18.2.4).
const DR7_ONE: u64 = 1 << 10;
const DR7_GLOBAL: u64 = 1 << 1;
/// DR7, the kind of access that a register stops at: execution, writes, reads and writes.
const EXECUTE: u64 = 0b00;
const WRITE: u64 = 0b01;
const ACCESS: u64 = 0b11;

/// What a debug register is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hardware {
    /// Stops before an instruction.
    Execute,
    /// Stops after an access to what begins at `start`.
    Watch {
        /// As gdb knows it.
        kind: WatchKind,
        /// The first byte that gdb watches: some watched areas take several registers.
        start: u64,
    },
}

/// A debug register in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    address: u64,
    /// 1, 2, 4 or 8 bytes.
    length: u64,
    what: Hardware,
    /// The length that gdb gave.
    whole: u64,
}

/// A breakpoint in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Patch {
    /// Where it is, in guest-physical memory: page tables may change under it.
    physical: u64,
    /// What the guest has there.
    original: Vec<u8>,
}

/// All breakpoints of a session.
pub(super) struct Breakpoints {
    trap: Trap,
    /// By linear address.
    software: BTreeMap<u64, Patch>,
    hardware: [Option<Slot>; 4],
}

impl Breakpoints {
    /// None yet; `trap` will be those in memory.
    pub(super) fn new(trap: Trap) -> Self {
        Self { trap, software: BTreeMap::new(), hardware: [None; 4] }
    }

    /// What those in memory are.
    pub(super) fn trap(&self) -> Trap {
        self.trap
    }

    /// Puts a breakpoint at `physical`, which is where `linear` is mapped, with `room` bytes to the end of the page. Tells
    /// whether it is there: it may not fit its page, or overlap another.
    pub(super) fn add_software(
        &mut self,
        memory: &GuestMemory,
        linear: u64,
        (physical, room): (u64, usize),
    ) -> bool {
        if self.software.contains_key(&linear) {
            return true;
        }
        let code = self.trap.code();
        if self.software.len() >= SOFTWARE_MAX || room < code.len() {
            return false;
        }
        let mut original = vec![0; code.len()];
        if let Some(patch) = self.software.values().find(|patch| patch.physical == physical) {
            // Another address is mapped to the same bytes.
            original.clone_from(&patch.original);
        } else {
            let near = |patch: &Patch| patch.physical.abs_diff(physical) < length(code);
            if self.software.values().any(near) {
                return false;
            }
            let at = GuestAddress(physical);
            if memory.read_slice(&mut original, at).is_err() || memory.write_slice(code, at).is_err() {
                return false;
            }
        }
        self.software.insert(linear, Patch { physical, original });
        true
    }

    /// Takes one away again; tells whether it was there.
    pub(super) fn remove_software(&mut self, memory: &GuestMemory, linear: u64) -> bool {
        let Some(patch) = self.software.remove(&linear) else { return false };
        let shared = self.software.values().any(|other| other.physical == patch.physical);
        let at = GuestAddress(patch.physical);
        let mut now = vec![0; patch.original.len()];
        // A guest that has put something else there keeps it.
        if !shared && memory.read_slice(&mut now, at).is_ok() && now == self.trap.code() {
            let _was_readable = memory.write_slice(&patch.original, at);
        }
        true
    }

    /// Takes all of them away.
    pub(super) fn clear(&mut self, memory: &GuestMemory) {
        while let Some(linear) = self.software.keys().next().copied() {
            self.remove_software(memory, linear);
        }
        self.hardware = [None; 4];
    }

    /// The linear addresses of those in memory.
    pub(super) fn software(&self) -> impl Iterator<Item = u64> {
        self.software.keys().copied()
    }

    /// Shows what the guest has where this session put a breakpoint, in `bytes` read from `physical`.
    pub(super) fn hide(&self, physical: u64, bytes: &mut [u8]) {
        for patch in self.software.values() {
            for ((at, original), code) in (patch.physical..).zip(&patch.original).zip(self.trap.code()) {
                if let Some(byte) = within(bytes, physical, at).filter(|byte| *byte == code) {
                    *byte = *original;
                }
            }
        }
    }

    /// Keeps what is to be written at `physical`, where a breakpoint lies over it.
    pub(super) fn write_under(&mut self, physical: u64, bytes: &mut [u8]) {
        let code = self.trap.code();
        // Several may lie over the same bytes.
        let new = bytes.to_vec();
        for patch in self.software.values_mut() {
            for ((at, original), code) in (patch.physical..).zip(&mut patch.original).zip(code) {
                let index = at.checked_sub(physical).and_then(|index| usize::try_from(index).ok());
                if let Some((byte, new)) = index.and_then(|i| Some((bytes.get_mut(i)?, new.get(i)?))) {
                    (*original, *byte) = (*new, *code);
                }
            }
        }
    }

    /// Stops at the execution of `address`; tells whether a debug register is left for that.
    pub(super) fn add_execute(&mut self, address: u64) -> bool {
        let slot = Slot { address, length: 1, what: Hardware::Execute, whole: 1 };
        if self.hardware.contains(&Some(slot)) {
            return true;
        }
        let Some(free) = self.hardware.iter_mut().find(|slot| slot.is_none()) else { return false };
        *free = Some(slot);
        true
    }

    /// Takes it away again; tells whether it was there.
    pub(super) fn remove_execute(&mut self, address: u64) -> bool {
        self.remove(|slot| slot.what == Hardware::Execute && slot.address == address)
    }

    /// Stops after accesses to `length` bytes from `start`; tells whether enough debug registers are left: each takes
    /// 1, 2, 4 or 8 bytes, aligned.
    pub(super) fn add_watch(&mut self, start: u64, length: u64, kind: WatchKind) -> bool {
        let what = Hardware::Watch { kind, start };
        if self.hardware.iter().flatten().any(|slot| (slot.what, slot.whole) == (what, length)) {
            return true;
        }
        let mut hardware = self.hardware;
        let Some(end) = start.checked_add(length).filter(|_| length > 0) else { return false };
        let mut at = start;
        while at < end {
            let fits = |size: &u64| at.is_multiple_of(*size) && end - at >= *size;
            let size = [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1);
            let Some(free) = hardware.iter_mut().find(|slot| slot.is_none()) else { return false };
            *free = Some(Slot { address: at, length: size, what, whole: length });
            at += size;
        }
        self.hardware = hardware;
        true
    }

    /// Takes it away again; tells whether it was there.
    pub(super) fn remove_watch(&mut self, start: u64, length: u64, kind: WatchKind) -> bool {
        self.remove(|slot| slot.what == Hardware::Watch { kind, start } && slot.whole == length)
    }

    fn remove(&mut self, which: impl Fn(&Slot) -> bool) -> bool {
        let mut removed = false;
        for slot in &mut self.hardware {
            if slot.as_ref().is_some_and(&which) {
                *slot = None;
                removed = true;
            }
        }
        removed
    }

    /// What the debug registers are to hold, if any is in use: DR0 to DR3, and DR7.
    pub(super) fn registers(&self) -> Option<([u64; 4], u64)> {
        let mut addresses = [0; 4];
        let mut dr7 = DR7_ONE;
        for ((index, slot), address) in (0..).zip(&self.hardware).zip(&mut addresses) {
            let Some(slot) = slot else { continue };
            *address = slot.address;
            let kind = match slot.what {
                Hardware::Execute => EXECUTE,
                Hardware::Watch { kind: WatchKind::Write, .. } => WRITE,
                // The processor has none for reads alone; gdb itself looks whether the value changed.
                Hardware::Watch { .. } => ACCESS,
            };
            // 1, 2, 8 and 4 bytes, in this order.
            let length = match slot.length {
                2 => 0b01,
                8 => 0b10,
                4 => 0b11,
                _ => 0b00u64,
            };
            dr7 |= DR7_GLOBAL << (2 * index) | (kind | length << 2) << (16 + 4 * index);
        }
        (dr7 != DR7_ONE).then_some((addresses, dr7))
    }

    /// What the first debug register of those in `hits`, a bit each, is for.
    pub(super) fn hit(&self, hits: u64) -> Option<Hardware> {
        let hit = (0..).zip(&self.hardware).find(|(index, slot)| slot.is_some() && hits >> index & 1 != 0)?;
        hit.1.map(|slot| slot.what)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The byte at physical address `at` of `bytes`, which begin at `physical`.
fn within(bytes: &mut [u8], physical: u64, at: u64) -> Option<&mut u8> {
    bytes.get_mut(usize::try_from(at.checked_sub(physical)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let memory = crate::memory::allocate(2 << 20).unwrap();
        memory.write_slice(&[1, 2, 3, 4], GuestAddress(0x1000)).unwrap();
        memory
    }

    fn bytes(memory: &GuestMemory) -> [u8; 4] {
        memory.read_obj(GuestAddress(0x1000)).unwrap()
    }

    const PLACE: (u64, usize) = (0x1001, 0xfff);

    #[test]
    fn software_breakpoint_is_in_memory_and_hidden_until_it_is_removed() {
        for (trap, patched) in [(Trap::Int3, [1, 0xcc, 3, 4]), (Trap::Out, [1, 0xe6, 0xcc, 4])] {
            let (memory, mut all) = (memory(), Breakpoints::new(trap));
            assert!(all.add_software(&memory, 0xffff_8000_0000_1001, PLACE));
            assert!(all.add_software(&memory, 0x1001, PLACE), "another way to the same bytes");
            assert_eq!(bytes(&memory), patched);
            let mut seen = bytes(&memory);
            all.hide(0x1000, &mut seen);
            assert_eq!(seen, [1, 2, 3, 4]);
            assert!(all.remove_software(&memory, 0x1001));
            assert_eq!(bytes(&memory), patched);
            all.clear(&memory);
            assert_eq!(bytes(&memory), [1, 2, 3, 4]);
            assert!(!all.remove_software(&memory, 0x1001));
            assert!(!all.add_software(&memory, 1, (0x1_0000_0000, 0x1000)), "there is no RAM");
        }
    }

    #[test]
    fn software_breakpoint_neither_crosses_a_page_nor_overlaps_another() {
        let (memory, mut all) = (memory(), Breakpoints::new(Trap::Out));
        assert!(!all.add_software(&memory, 0x1fff, (0x1fff, 1)));
        assert!(all.add_software(&memory, 0x1001, PLACE));
        assert!(!all.add_software(&memory, 0x1000, (0x1000, 0x1000)));
        assert!(!all.add_software(&memory, 0x1002, (0x1002, 0xffe)));
        assert!(all.add_software(&memory, 0x1003, (0x1003, 0xffd)));
    }

    #[test]
    fn what_the_guest_put_over_a_breakpoint_stays() {
        let (memory, mut all) = (memory(), Breakpoints::new(Trap::Int3));
        assert!(all.add_software(&memory, 0x1001, PLACE));
        memory.write_obj(9u8, GuestAddress(0x1001)).unwrap();
        all.clear(&memory);
        assert_eq!(bytes(&memory), [1, 9, 3, 4]);
    }

    #[test]
    fn what_the_debugger_writes_over_a_breakpoint_comes_up_when_it_is_removed() {
        let (memory, mut all) = (memory(), Breakpoints::new(Trap::Int3));
        assert!(all.add_software(&memory, 0x1001, PLACE) && all.add_software(&memory, 0x9001, PLACE));
        let mut new = [7, 8];
        all.write_under(0x1000, &mut new);
        assert_eq!(new, [7, 0xcc]);
        all.clear(&memory);
        assert_eq!(bytes(&memory), [1, 8, 3, 4]);
    }

    #[test]
    fn there_are_four_debug_registers_and_a_watched_area_takes_as_many_as_it_needs() {
        let mut all = Breakpoints::new(Trap::Int3);
        assert_eq!(all.registers(), None);
        assert!(all.add_watch(0x1001, 7, WatchKind::Write), "1, 2 and 4 bytes");
        assert!(all.add_execute(0x2000) && all.add_execute(0x2000));
        assert!(!all.add_execute(0x3000) && !all.add_watch(0x4000, 1, WatchKind::ReadWrite));
        assert_eq!(all.registers(), Some(([0x1001, 0x1002, 0x1004, 0x2000], 0x0d51_04aa)));
        assert_eq!(all.hit(0b1000), Some(Hardware::Execute));
        assert_eq!(all.hit(0b0010), Some(Hardware::Watch { kind: WatchKind::Write, start: 0x1001 }));
        assert_eq!(all.hit(0), None);
        assert!(all.remove_watch(0x1001, 7, WatchKind::Write) && all.remove_execute(0x2000));
        assert!(!all.remove_execute(0x2000) && all.registers().is_none());
        assert!(!all.add_watch(0, 0, WatchKind::Write) && !all.add_watch(u64::MAX, 2, WatchKind::Write));
        assert!(!all.add_watch(0, 33, WatchKind::Write), "five of them");
        assert!(all.add_watch(0, 32, WatchKind::Read));
    }
}
