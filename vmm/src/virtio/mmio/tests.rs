//! The transport as a driver drives it.

use super::*;
use crate::snapshot::PersistError;
use crate::virtio::device::Rested;
use crate::virtio::testing::{Driver, RAM};

/// A device that notes what is asked of it.
#[derive(Default)]
struct Probe {
    active: Option<Activation>,
    config: [u8; 8],
    refuse: bool,
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        42
    }
    fn name(&self) -> String {
        "probe".to_owned()
    }
    fn features(&self) -> u64 {
        0x11
    }
    fn queue_sizes(&self) -> &[u16] {
        &[8, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::super::device::read_config_bytes(&self.config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        self.config[start..start + data.len()].copy_from_slice(data);
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.active = Some(activation);
        if self.refuse { Err(io::Error::other("no")) } else { Ok(()) }
    }
    fn reset(&mut self) {
        self.active = None;
    }
    fn rest(&mut self) -> Result<Rested, PersistError> {
        let queues =
            self.active.take().map(|active| active.queues.into_iter().map(|(queue, _)| queue).collect());
        Ok(Rested { queues, state: serde_json::Value::Null })
    }
    fn take_on(&mut self, _state: serde_json::Value) -> Result<(), PersistError> {
        Ok(())
    }
}

fn driver() -> Driver {
    Driver::new(Box::new(Probe::default()))
}

#[test]
fn the_device_identifies_itself() {
    let mut driver = driver();
    assert_eq!((driver.get(0), driver.get(4), driver.get(8)), (0x7472_6976, 2, 42));
    assert_eq!(driver.get(0x10), 0x11);
    driver.set(0x14, 1);
    assert_eq!(driver.get(0x10), 1);
    driver.set(0x14, 2);
    assert_eq!(driver.get(0x10), 0);
    driver.set(0x30, 1);
    assert_eq!(driver.get(0x34), 16);
    driver.set(0x30, 2);
    assert_eq!(driver.get(0x34), 0);
    assert_eq!(driver.get(0xb0), u32::MAX);
}

#[test]
fn a_driver_reaches_driver_ok_and_resets() {
    let mut driver = driver();
    driver.start(0x10, 2);
    assert_eq!(driver.get(0x70), 15);
    driver.set(0x70, 0);
    assert_eq!(driver.get(0x70), 0);
    driver.set(0x30, 0);
    assert_eq!(driver.get(0x44), 0);
    driver.start(0x10, 1);
    assert_eq!(driver.get(0x70), 15);
}

#[test]
fn unknown_and_missing_features_are_refused() {
    let mut driver = driver();
    driver.negotiate(0x2);
    assert_eq!(driver.get(0x70), 3);
    driver.negotiate(1 << 40);
    assert_eq!(driver.get(0x70), 3);
    driver.set(0x70, 0);
    driver.set(0x70, 1);
    driver.set(0x70, 3);
    driver.set(0x70, 11);
    assert_eq!(driver.get(0x70), 3, "VERSION_1 was not acknowledged");
    // DRIVER_OK without FEATURES_OK leads nowhere.
    driver.set(0x70, 7);
    assert_eq!(driver.get(0x70), 3);
}

#[test]
fn status_bits_are_not_taken_back() {
    let mut driver = driver();
    driver.negotiate(0);
    driver.set(0x70, 1);
    driver.set(0x70, 0x1000_000f);
    assert_eq!(driver.get(0x70), 11);
    driver.set(0x70, 11 | 128);
    assert_eq!(driver.get(0x70), 11 | 128);
}

#[test]
fn features_are_fixed_once_accepted() {
    let mut driver = driver();
    driver.negotiate(0);
    driver.set(0x24, 0);
    driver.set(0x20, 0xffff_ffff);
    driver.set(0x70, 15);
    assert_eq!(driver.get(0x70), 15);
}

#[test]
fn a_queue_outside_memory_needs_a_reset() {
    let mut driver = driver();
    driver.negotiate(0);
    driver.set(0x30, 0);
    driver.set(0x80, u32::try_from(RAM).unwrap());
    driver.set(0x90, 0x1000);
    driver.set(0xa0, 0x2000);
    driver.set(0x44, 1);
    driver.set(0x70, 15);
    assert_eq!(driver.get(0x70), 15 | 64);
    assert_eq!(driver.get(0x60), 2);
}

#[test]
fn a_wrong_size_or_alignment_needs_a_reset() {
    for (offset, value) in [(0x38, 7), (0x38, 0x1_0008), (0x38, 32), (0x80, 0x1008), (0xa0, 2)] {
        let mut driver = driver();
        driver.negotiate(0);
        driver.set(offset, value);
        assert_eq!(driver.get(0x70), 11 | 64, "{offset:#x} = {value:#x}");
        driver.set(0x70, 0);
        assert_eq!(driver.get(0x70), 0);
    }
}

#[test]
fn a_device_that_can_not_start_needs_a_reset() {
    let mut driver = Driver::new(Box::new(Probe { refuse: true, ..Probe::default() }));
    driver.start(0, 2);
    assert_eq!(driver.get(0x70), 15 | 64);
}

#[test]
fn interrupts_are_acknowledged_bit_by_bit() {
    let mut driver = driver();
    driver.transport.interrupt.used().unwrap();
    driver.transport.interrupt.config_changed().unwrap();
    assert_eq!((driver.get(0x60), driver.get(0xfc), driver.line.edges()), (3, 1, 2));
    driver.set(0x64, 1);
    assert_eq!(driver.get(0x60), 2);
}

#[test]
fn a_notification_that_exits_reaches_the_eventfd() {
    let mut driver = driver();
    driver.set(0x50, 1);
    driver.set(0x50, 2);
    driver.set(0x50, u32::MAX);
    let kicks = driver.transport.kicks();
    assert_eq!(kicks[1].read().unwrap(), 1);
    assert!(kicks[0].read().is_err());
}

#[test]
fn registers_take_only_whole_words() {
    let mut driver = driver();
    let mut short = [0xff; 2];
    driver.transport.read(0, &mut short);
    assert_eq!(short, [0xff; 2]);
    let mut long = [0xff; 8];
    driver.transport.read(0, &mut long);
    assert_eq!(long, [0xff; 8]);
    driver.transport.write(0x70, &[1]);
    driver.transport.write(0x71, &[1, 0, 0, 0]);
    assert_eq!(driver.get(0x70), 0);
}

#[test]
fn the_config_takes_any_width() {
    let mut driver = driver();
    driver.transport.write(0x101, &[9]);
    assert_eq!(driver.get(0x100), 0, "no driver has shown itself");
    driver.set(0x70, 1);
    driver.set(0x70, 3);
    driver.transport.write(0x101, &[9]);
    let mut data = [0xff; 8];
    driver.transport.read(0x100, &mut data);
    assert_eq!(data, [0, 9, 0, 0, 0, 0, 0, 0]);
    driver.transport.read(u64::MAX, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn registers_and_queues_are_as_they_were_in_the_next_transport() {
    let mut driver = driver();
    driver.start(1, 2);
    driver.set(0x14, 1);
    driver.set(0x30, 1);
    let state = driver.rest();
    driver.go_on(Box::new(Probe::default()), state).unwrap();
    assert_eq!((driver.get(0x70), driver.get(0x44), driver.get(0x34)), (15, 1, 16));
    assert_eq!(driver.get(0x10), 1, "the selected half of the features");
    driver.set(0x70, 0);
    assert_eq!(driver.get(0x44), 0);
}

#[test]
fn states_that_no_driver_leads_to_are_refused() {
    let mut driver = driver();
    driver.start(1, 2);
    let state = driver.rest();
    let changes: [(&str, serde_json::Value); 6] = [
        ("/status", 0x1000.into()),
        ("/status", 0.into()),
        ("/driver_features", u64::MAX.into()),
        ("/queues/0/size", 3.into()),
        ("/queues/0/desc_table", RAM.into()),
        ("/queues/1/used_ring", (!0xfff_u64).into()),
    ];
    for (place, value) in changes {
        let mut changed = state.clone();
        *changed.pointer_mut(place).unwrap() = value;
        assert!(driver.go_on(Box::new(Probe::default()), changed).is_err(), "{place}");
    }
    driver.go_on(Box::new(Probe::default()), state).unwrap();
}
