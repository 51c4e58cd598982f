//! Which device gets which bytes of an access.

use super::*;

/// Each byte reads as its offset; remembers what it was asked.
#[derive(Default)]
struct Echo {
    sizes: Option<AccessSizes>,
    reads: Vec<(u64, usize)>,
    writes: Vec<(u64, Vec<u8>)>,
}

impl BusDevice for Echo {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.reads.push((offset, data.len()));
        (0..).zip(data).for_each(|(n, byte)| *byte = u8::try_from(offset + n).unwrap());
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.writes.push((offset, data.to_vec()));
    }

    fn sizes(&self) -> AccessSizes {
        self.sizes.unwrap_or(AccessSizes::ANY)
    }
}

fn device() -> Shared<Echo> {
    Shared::default()
}

/// A device of 16 bytes at 0x10 that takes `sizes`.
fn sized(sizes: AccessSizes) -> (Bus, Shared<Echo>) {
    let device = Arc::new(Mutex::new(Echo { sizes: Some(sizes), ..Echo::default() }));
    let mut bus = Bus::new();
    bus.insert("sized", (0x10, 0x10), device.clone()).unwrap();
    (bus, device)
}

fn name(taken: Taken<'_>) -> Option<&str> {
    taken.device.map(|name| &**name)
}

#[test]
fn access_reaches_the_device_whose_range_holds_it() {
    let mut bus = Bus::new();
    let (low, high) = (device(), device());
    bus.insert("high", (0x20, 8), high.clone()).unwrap();
    bus.insert("low", (0x10, 8), low.clone()).unwrap();
    let mut data = [0; 2];
    assert_eq!(name(bus.read(0x26, &mut data)), Some("high"));
    assert_eq!(data, [6, 7]);
    assert_eq!(name(bus.write(0x10, &[1])), Some("low"));
    assert_eq!(low.lock().unwrap().writes, [(0, vec![1])]);
    assert!(high.lock().unwrap().writes.is_empty());
}

#[test]
fn nothing_reads_as_all_ones_and_takes_no_write() {
    let mut bus = Bus::new();
    bus.insert("one", (0x10, 8), device()).unwrap();
    let nobody = Taken { nobodys: true, ..Taken::default() };
    for address in [0, 0xf, 0x18, u64::MAX] {
        let mut data = [0; 1];
        assert_eq!(bus.read(address, &mut data), nobody);
        assert_eq!(data, [0xff]);
        assert_eq!(bus.write(address, &[1]), nobody);
    }
    let mut data = [0; 8];
    assert_eq!(bus.read(u64::MAX - 3, &mut data), nobody);
    assert_eq!(data, [0xff; 8]);
}

#[test]
fn access_across_an_edge_goes_to_each_in_part() {
    let mut bus = Bus::new();
    let (low, high) = (device(), device());
    bus.insert("low", (0x10, 2), low.clone()).unwrap();
    bus.insert("high", (0x12, 1), high.clone()).unwrap();
    let mut data = [0; 8];
    let taken = bus.read(0xe, &mut data);
    assert_eq!((name(taken), taken.nobodys), (Some("low"), true));
    assert_eq!(data, [0xff, 0xff, 0, 1, 0, 0xff, 0xff, 0xff]);
    let taken = bus.write(0x11, &[1, 2]);
    assert_eq!((name(taken), taken.nobodys, taken.refused), (Some("low"), false, false));
    assert_eq!(low.lock().unwrap().writes, [(1, vec![1])]);
    assert_eq!(high.lock().unwrap().writes, [(0, vec![2])]);
}

#[test]
fn device_at_the_last_address_is_reached_across_its_edge() {
    let mut bus = Bus::new();
    let last = device();
    bus.insert("last", (u64::MAX, 1), last.clone()).unwrap();
    let mut data = [0; 4];
    assert!(bus.read(u64::MAX - 1, &mut data).nobodys);
    assert_eq!(data, [0xff, 0, 0xff, 0xff]);
    assert!(bus.write(u64::MAX, &[1, 2]).nobodys);
    assert_eq!(last.lock().unwrap().writes, [(0, vec![1])]);
}

/// KVM cuts an access where a page ends, so three bytes are possible.
#[test]
fn odd_lengths_come_in_powers_of_two() {
    let (bus, device) = sized(AccessSizes::ANY);
    bus.write(0x11, &[1, 2, 3]);
    assert_eq!(device.lock().unwrap().writes, [(1, vec![1, 2]), (3, vec![3])]);
    let mut data = [0; 7];
    bus.read(0x11, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(device.lock().unwrap().reads, [(1, 4), (5, 2), (7, 1)]);
}

#[test]
fn wide_access_is_split_low_addresses_first() {
    let (bus, device) = sized(AccessSizes::up_to(Width::Byte));
    bus.write(0x10, &[1, 2, 3, 4]);
    assert_eq!(device.lock().unwrap().writes, [(0, vec![1]), (1, vec![2]), (2, vec![3]), (3, vec![4])]);
    let mut data = [0; 8];
    assert_eq!(name(bus.read(0x13, &mut data)), Some("sized"));
    assert_eq!(data, [3, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn unaligned_access_is_split_into_aligned_ones() {
    let (bus, device) = sized(AccessSizes::up_to(Width::Double));
    let mut data = [0; 8];
    bus.read(0x11, &mut data);
    assert_eq!(data, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(device.lock().unwrap().reads, [(1, 1), (2, 2), (4, 4), (8, 1)]);
    bus.write(0x14, &[4, 5, 6, 7]);
    assert_eq!(device.lock().unwrap().writes, [(4, vec![4, 5, 6, 7])]);
}

#[test]
fn narrow_read_sees_its_bytes_of_the_whole_register() {
    let (bus, device) = sized(AccessSizes::only(Width::Double));
    let mut byte = [0; 1];
    assert!(!bus.read(0x16, &mut byte).nobodys);
    assert_eq!(byte, [6]);
    let mut data = [0; 8];
    bus.read(0x13, &mut data);
    assert_eq!(data, [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(device.lock().unwrap().reads, [(4, 4), (0, 4), (4, 4), (8, 4)]);
}

#[test]
fn narrow_write_is_refused_and_what_fits_is_taken() {
    let (bus, device) = sized(AccessSizes::only(Width::Double));
    let taken = bus.write(0x11, &[1]);
    assert_eq!((name(taken), taken.refused, taken.nobodys), (Some("sized"), true, false));
    assert!(device.lock().unwrap().writes.is_empty());
    assert!(bus.write(0x12, &[2, 3, 4, 5, 6, 7, 8, 9]).refused);
    assert_eq!(device.lock().unwrap().writes, [(4, vec![4, 5, 6, 7])]);
}

#[test]
fn every_access_of_every_device_sees_the_bytes_in_their_places() {
    let widths = [Width::Byte, Width::Word, Width::Double, Width::Quad];
    let all = widths.map(AccessSizes::up_to).into_iter().chain(widths.map(AccessSizes::only));
    for sizes in all.chain([AccessSizes::ANY]) {
        let (bus, _) = sized(sizes);
        for (address, length) in (0..0x30).flat_map(|address| (1..=8).map(move |length| (address, length))) {
            let mut data = vec![0; length];
            bus.read(address, &mut data);
            let expected: Vec<u8> = (address..)
                .take(length)
                .map(|at| if (0x10..0x20).contains(&at) { u8::try_from(at - 0x10).unwrap() } else { 0xff })
                .collect();
            assert_eq!(data, expected, "{length} bytes at {address:#x}, {sizes:?}");
        }
    }
}

#[test]
fn overlap_is_refused_by_name() {
    let mut bus = Bus::new();
    bus.insert("one", (0x10, 8), device()).unwrap();
    for range in [(0x10, 8), (0xf, 2), (0x17, 1), (0, 0x100)] {
        let error = bus.insert("two", range, device()).unwrap_err();
        assert!(matches!(&error, BusError::Overlap { other, .. } if other == "one"), "{error}");
    }
    bus.insert("two", (0x18, 1), device()).unwrap();
    bus.insert("three", (0xf, 1), device()).unwrap();
}

#[test]
fn removed_range_is_nothing_and_can_be_had_again() {
    let mut bus = Bus::new();
    bus.insert("one", (0x10, 8), device()).unwrap();
    assert!(!bus.remove(0x11));
    assert!(bus.remove(0x10));
    assert!(bus.read(0x10, &mut [0]).nobodys);
    bus.insert("two", (0x10, 8), device()).unwrap();
    assert_eq!(name(bus.read(0x10, &mut [0])), Some("two"));
}

#[test]
fn range_without_addresses_or_past_the_end_is_refused() {
    let mut bus = Bus::new();
    assert!(matches!(bus.insert("x", (5, 0), device()), Err(BusError::NoRange { .. })));
    assert!(matches!(bus.insert("x", (u64::MAX, 2), device()), Err(BusError::NoRange { .. })));
    bus.insert("x", (u64::MAX, 1), device()).unwrap();
}

#[test]
fn registers_that_end_past_the_range_are_refused() {
    let wide = Echo { sizes: Some(AccessSizes::only(Width::Double)), ..Echo::default() };
    let error = Bus::new().insert("x", (0x10, 6), Arc::new(Mutex::new(wide))).unwrap_err();
    assert!(matches!(error, BusError::Ragged { width: 4, .. }), "{error}");
}

#[test]
fn place_that_kvm_answers_itself_is_refused_by_name() {
    let mut bus = Bus::new();
    bus.reserve("the PIT", (0x40, 4)).unwrap();
    let error = bus.insert("x", (0x3f, 2), device()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device x at 0x3f would never be seen: the PIT, which KVM itself emulates, is there"
    );
    bus.insert("x", (0x44, 2), device()).unwrap();
    assert!(bus.read(0x40, &mut [0]).nobodys);
}
