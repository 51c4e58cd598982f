//! What holds for all of them: no access, however wild, panics.

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::debug_console::DebugConsole;
use super::fw_cfg::{Facts, File, FwCfg};
use super::pvpanic::{PanicNotice, PvPanic};
use super::rtc::{NmiMask, Rtc};
use super::testdev::{Lines, TestLines, TestMemory, TestPorts};
use super::testing::{Edges, Writes, power_switch};
use super::{debug_exit::DebugExit, i8042::I8042, post::Post, power::AcpiPower, probe::Probe, uart::Uart};
use crate::bus::BusDevice;
use crate::memory::GuestMemory;

fn devices() -> Vec<Box<dyn BusDevice>> {
    let (power, _ended) = power_switch();
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    struct NoPins;
    impl Lines for NoPins {
        fn set(&self, _gsi: u32, _high: bool) {}
    }
    let file = File { name: "opt/x".to_owned(), content: vec![1; 9] };
    let facts = Facts { cpus: 1, memory: 1 << 20 };
    let probe = Probe::new(memory.clone(), Arc::new(Edges::default()));
    vec![
        Box::new(Uart::new(Arc::new(Edges::default()), Box::new(Writes::default()))),
        Box::new(I8042::new(power.clone())),
        Box::new(AcpiPower::new(power.clone())),
        Box::new(DebugExit::new(power)),
        Box::new(Post::new()),
        Box::new(DebugConsole::new(Box::new(Writes::default()))),
        Box::new(PvPanic::new(PanicNotice::default(), None)),
        Box::new(Rtc::new((1 << 20, 0), NmiMask::default())),
        Box::new(FwCfg::new(facts, vec![file], memory.clone())),
        Box::new(TestPorts::new(memory)),
        Box::new(TestLines::new(Arc::new(NoPins))),
        Box::new(TestMemory::new()),
        Box::new(probe.pio()),
        Box::new(probe.mmio()),
    ]
}

/// Every offset up to the end of the largest device's registers, and the ends of the numbers.
fn offsets() -> impl Iterator<Item = u64> {
    (0..0x48).chain([0xff, 0x100, 0xfff, 0xffff, 0x1_0000, u64::MAX - 1, u64::MAX])
}

#[test]
fn devices_accessed_anyhow_do_not_panic() {
    for mut device in devices() {
        for offset in offsets() {
            for width in [1, 2, 4, 8] {
                for value in [0x00, 0x01, 0x02, 0x5a, 0x80, 0xff] {
                    device.write(offset, &vec![value; width]);
                    device.read(offset, &mut vec![0xff; width]);
                }
            }
        }
    }
}

#[test]
fn devices_accessed_by_no_width_or_an_odd_one_do_not_panic() {
    for mut device in devices() {
        for offset in offsets() {
            for width in [0, 3, 5, 16, 300] {
                device.write(offset, &vec![1; width]);
                device.read(offset, &mut vec![0xff; width]);
            }
        }
    }
}
