//! The chip as a driver sees it.

use std::sync::atomic::AtomicI64;

use super::*;
use crate::snapshot::Persist;

/// 2024-02-29 13:05:09 UTC, a Thursday.
const MOMENT: i64 = 1_709_211_909;

struct Bench {
    chip: Rtc,
    now: Arc<AtomicI64>,
    mask: NmiMask,
}

fn bench() -> Bench {
    let (now, mask) = (Arc::new(AtomicI64::new(MOMENT)), NmiMask::default());
    let clock = now.clone();
    let clock = Box::new(move || clock.load(Ordering::Relaxed));
    Bench { chip: Rtc::with_clock((0xd000_0000, 1 << 30), mask.clone(), clock), now, mask }
}

impl Bench {
    fn get(&mut self, register: u8) -> u8 {
        self.chip.write(0, &[register]);
        let mut data = [0];
        self.chip.read(1, &mut data);
        data[0]
    }

    fn set(&mut self, register: u8, value: u8) {
        self.chip.write(0, &[register]);
        self.chip.write(1, &[value]);
    }

    fn clock(&mut self) -> [u8; 8] {
        [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|register| self.get(register))
    }
}

#[test]
fn rtc_tells_the_time_in_bcd_and_24_hours() {
    assert_eq!(bench().clock(), [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x05, 0x09]);
}

#[test]
fn rtc_tells_the_time_in_binary_and_12_hours_if_asked() {
    let mut bench = bench();
    bench.set(STATUS_B, B_BINARY);
    assert_eq!(bench.clock(), [20, 24, 2, 29, 5, 0x80 | 1, 5, 9]);
    bench.now.fetch_sub(13 * 3600, Ordering::Relaxed);
    assert_eq!(bench.get(4), 12);
}

#[test]
fn rtc_set_by_the_guest_goes_on_from_there() {
    let mut bench = bench();
    bench.set(STATUS_B, B_SET | B_24_HOURS);
    for (register, value) in
        [(CENTURY, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)]
    {
        bench.set(register, value);
    }
    bench.now.fetch_add(100, Ordering::Relaxed);
    assert_eq!(bench.get(0), 0x58, "a clock that is being set stands still");
    bench.set(STATUS_B, B_24_HOURS);
    bench.now.fetch_add(3, Ordering::Relaxed);
    assert_eq!(bench.clock(), [0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x01]);
}

#[test]
fn rtc_promises_no_interrupts_and_no_update_in_progress() {
    let mut bench = bench();
    bench.set(STATUS_B, !B_SET);
    bench.set(STATUS_A, 0xff);
    bench.set(STATUS_C, 0xff);
    bench.set(STATUS_D, 0);
    assert_eq!(bench.get(STATUS_B) & 0x78, 0);
    assert_eq!((bench.get(STATUS_A) & A_UPDATING, bench.get(STATUS_C), bench.get(STATUS_D)), (0, 0, D_VALID));
}

#[test]
fn cmos_tells_how_much_memory_there_is() {
    let mut bench = bench();
    let mut word = |register| u32::from(bench.get(register)) | u32::from(bench.get(register + 1)) << 8;
    assert_eq!((word(0x15), word(0x17), word(0x30)), (640, 0xffff, 0xffff));
    assert_eq!(word(0x34), (0xd000_0000 - (16 << 20)) >> 16);
    assert_eq!(word(0x5b), (1 << 30) >> 16);
}

#[test]
fn cmos_small_memory_is_told_exactly() {
    let mut chip = Rtc::new((9 << 20, 0), NmiMask::default());
    let mut get = |register: u8| {
        chip.write(0, &[register]);
        let mut data = [0];
        chip.read(1, &mut data);
        data[0]
    };
    assert_eq!(u16::from_le_bytes([get(0x17), get(0x18)]), 8 * 1024);
    assert_eq!(u16::from_le_bytes([get(0x34), get(0x35)]), 0);
}

#[test]
fn cmos_ram_keeps_what_was_written() {
    let mut bench = bench();
    bench.set(0x0f, 0x5a);
    assert_eq!((bench.get(0x0f), bench.get(0x7f)), (0x5a, 0));
}

#[test]
fn nmi_mask_follows_the_index_port() {
    let mut bench = bench();
    bench.chip.write(0, &[0x80 | 0x0f]);
    assert!(bench.mask.masked());
    bench.chip.write(1, &[0x11]);
    bench.chip.write(0, &[0x0f]);
    assert!(!bench.mask.masked());
    assert_eq!(bench.get(0x0f), 0x11, "the mask bit is no part of the index");
}

#[test]
fn clock_counts_days_as_the_calendar_does() {
    for (seconds, clock) in [
        (0, [0x19, 0x70, 0x01, 0x01, 5, 0, 0, 0]),
        (951_782_400, [0x20, 0x00, 0x02, 0x29, 3, 0, 0, 0]),
        (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]),
    ] {
        let mut bench = bench();
        bench.now.store(seconds, Ordering::Relaxed);
        assert_eq!(bench.clock(), clock);
        assert_eq!(Time::at(seconds).seconds(), seconds);
    }
}

#[test]
fn clock_goes_on_in_another_chip_with_the_nmis_that_wait() {
    let mut bench = bench();
    bench.set(0x0f, 0x5a);
    bench.set(STATUS_B, B_SET | B_24_HOURS);
    bench.set(9, 0x99);
    bench.set(STATUS_B, B_24_HOURS);
    bench.chip.write(0, &[0x80 | 0x0f]);
    assert!(bench.mask.keeps(1) && bench.mask.keeps(3));
    let state = bench.chip.save().unwrap();

    let mut other = self::bench();
    let given = Arc::new(Mutex::new(Vec::new()));
    let gave = given.clone();
    other.mask.connect(move |cpu| gave.lock().unwrap().push(cpu));
    other.chip.restore(state.clone()).unwrap();
    assert!(other.mask.masked() && given.lock().unwrap().is_empty());
    assert_eq!((other.get(0x0f), other.get(9)), (0x5a, 0x99));
    assert_eq!(*given.lock().unwrap(), [1, 3], "the first index without the mask lets them through");

    let mut open = state;
    open["nmi_masked"] = false.into();
    assert!(other.chip.restore(open).is_err());
}
