//! The map told to listeners that write down what they hear.

use super::*;
use crate::bus::BusDevice;
use crate::memory::on_bus::BusListener;
use crate::memory::region::{Doorbell, Window, Zone};
use crate::memory::table::Piece;
use crate::memory::{Readable, allocate};

/// Writes down the steps, and refuses those with the words of `refuses`.
#[derive(Default)]
struct Scribe {
    steps: Mutex<Vec<String>>,
    refuses: Mutex<Vec<&'static str>>,
}

impl Scribe {
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.steps.lock().unwrap())
    }
}

impl Listener for Scribe {
    fn apply(&self, change: &Change) -> Result<(), MapError> {
        let (sign, piece) = match change {
            Change::Add(piece) => ('+', piece),
            Change::Remove(piece) => ('-', piece),
        };
        let what = match piece {
            Piece::Slot(slot) => format!("slot {} {:#x}", slot.number, slot.base),
            Piece::Range { name, base, .. } => format!("range {name} {base:#x}"),
            Piece::Doorbell { address, value, .. } => format!("bell {address:#x}={value}"),
            Piece::Zone { address, .. } => format!("zone {address:#x}"),
        };
        let step = format!("{sign}{what}");
        if self.refuses.lock().unwrap().iter().any(|words| step == *words) {
            return Err(MapError::Rom(std::io::Error::other(step)));
        }
        self.steps.lock().unwrap().push(step);
        Ok(())
    }
}

/// Reads as a byte that is its own.
struct Answer(u8);

impl BusDevice for Answer {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

fn map(slots: u32) -> (MemoryMap, Arc<Scribe>, Arc<BusListener>) {
    let (scribe, bus) = (Arc::<Scribe>::default(), Arc::<BusListener>::default());
    let mut table = Table::new(slots, 36);
    table.reserve("KVM", (0xfffb_c000, 0x4000));
    let listeners: Vec<Arc<dyn Listener>> = vec![scribe.clone(), bus.clone()];
    let map = MemoryMap::new(table, allocate(1 << 20).unwrap(), listeners).unwrap();
    assert_eq!(scribe.heard(), ["+slot 0 0x0"]);
    (map, scribe, bus)
}

fn window(answer: u8) -> Window {
    Window::new(0x1000, Arc::new(Mutex::new(Answer(answer))))
}

fn with_bells(map: &MemoryMap, values: &[u32]) -> (Window, Arc<Mover>) {
    let event = Arc::new(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
    let bell = |value: &u32| Doorbell { offset: 0x10, value: *value, event: event.clone() };
    let (doorbells, mover) = (values.iter().map(bell).collect(), map.mover());
    (Window { doorbells, mover: Some(mover.clone()), ..window(7) }, mover)
}

fn put(map: &MemoryMap, base: u64, window: Window) -> Result<RegionId, MapError> {
    map.change(|table| Ok(table.window("dev", Some(base), window)))
}

fn byte(bus: &BusListener, address: u64) -> u8 {
    let mut data = [0];
    bus.published().now().read(address, &mut data);
    data[0]
}

#[test]
fn regions_that_overlap_or_lie_nowhere_are_refused_by_name_and_change_nothing() {
    let (map, scribe, bus) = map(8);
    put(&map, 0xd000_0000, window(1)).unwrap();
    scribe.heard();
    for (base, words) in [
        (0x0, "RAM"),
        (0xf_f001, "RAM"),
        (0xcfff_f001, "dev at 0xcffff001 would overlap dev"),
        (0xd000_0fff, "overlap dev"),
        (0xfffb_b001, "KVM"),
        (0xfffb_f000, "KVM"),
        (0xf_ffff_f001, "no range"),
        (u64::MAX, "no range"),
    ] {
        let error = put(&map, base, window(2)).unwrap_err().to_string();
        assert!(error.contains(words), "{base:#x}: {error}");
    }
    assert!(scribe.heard().is_empty());
    put(&map, 0xf_ffff_f000, window(3)).unwrap();
    assert_eq!((byte(&bus, 0xd000_0000), byte(&bus, 0xf_ffff_ffff)), (1, 3));
}

#[test]
fn rom_takes_a_free_slot_is_read_by_the_view_and_leaves_the_slot_to_the_next() {
    let (map, scribe, _) = map(3);
    let first = map.add_rom("first", 0xe000_0000, &[1; 0x1000]).unwrap();
    map.add_rom("second", 0xe100_0000, &[2; 0x2000]).unwrap();
    assert!(matches!(map.add_rom("third", 0xe200_0000, &[3; 0x1000]), Err(MapError::Slots { most: 3 })));
    assert!(matches!(map.add_rom("odd", 0xe200_0000, &[3; 0x1001]), Err(MapError::NotPages { .. })));
    assert!(matches!(map.add_rom("none", 0xe200_0000, &[]), Err(MapError::NotPages { .. })));
    assert!(matches!(map.add_rom("odd", 0xe200_0800, &[3; 0x1000]), Err(MapError::NotPages { .. })));
    let mut bytes = [0; 4];
    assert!(map.view().read_at(0xe100_1ffc, &mut bytes) && bytes == [2; 4]);
    assert!(!map.view().read_at(0xe100_1ffd, &mut bytes), "past its end");
    map.change(|table| table.remove(first)).unwrap();
    assert!(!map.view().read_at(0xe000_0000, &mut bytes));
    map.add_rom("third", 0xe200_0000, &[3; 0x1000]).unwrap();
    assert_eq!(
        scribe.heard(),
        [
            "+slot 1 0xe0000000",
            "+range first 0xe0000000",
            "+slot 2 0xe1000000",
            "+range second 0xe1000000",
            "-slot 1 0xe0000000",
            "-range first 0xe0000000",
            "+slot 1 0xe2000000",
            "+range third 0xe2000000",
        ]
    );
    assert!(matches!(map.change(|table| table.remove(first)), Err(MapError::NoRegion)));
}

#[test]
fn doorbells_and_zones_go_where_their_window_goes() {
    let (map, scribe, bus) = map(1);
    let (movable, mover) = with_bells(&map, &[5]);
    put(&map, 0xd000_0000, Window { zones: vec![Zone { offset: 0x800, size: 4 }], ..movable }).unwrap();
    scribe.heard();
    assert!(!map.is_asked());
    mover.ask(Some(0xd100_0000));
    assert!(map.is_asked());
    map.settle(|| {}).unwrap();
    assert!(!map.is_asked() && !mover.refused());
    assert_eq!(
        scribe.heard(),
        [
            "-range dev 0xd0000000",
            "+range dev 0xd1000000",
            "+bell 0xd1000010=5",
            "+zone 0xd1000800",
            "-bell 0xd0000010=5",
            "-zone 0xd0000800",
        ]
    );
    assert_eq!((byte(&bus, 0xd000_0000), byte(&bus, 0xd100_0000)), (0xff, 7));
    mover.ask(None);
    map.settle(|| {}).unwrap();
    assert_eq!(scribe.heard().len(), 3);
    assert_eq!(byte(&bus, 0xd100_0000), 0xff);
    // Over half of where it was, and with a collision of doorbells: the old ones go first.
    mover.ask(Some(0xd100_0000));
    map.settle(|| {}).unwrap();
    mover.ask(Some(0xd100_0800));
    map.settle(|| {}).unwrap();
    assert_eq!((byte(&bus, 0xd100_07ff), byte(&bus, 0xd100_17ff)), (0xff, 7));
}

#[test]
fn doorbell_comes_to_a_place_that_another_one_has_just_left() {
    let (map, scribe, _) = map(1);
    let event = Arc::new(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
    let bell = |offset| Doorbell { offset, value: 1, event: event.clone() };
    let mover = map.mover();
    let doorbells = vec![bell(0x10), bell(0x810)];
    put(&map, 0xd000_0000, Window { doorbells, mover: Some(mover.clone()), ..window(1) }).unwrap();
    scribe.heard();
    mover.ask(Some(0xd000_0800));
    map.settle(|| {}).unwrap();
    let heard = scribe.heard();
    let at = |step: &str| heard.iter().position(|heard| heard == step).unwrap();
    assert!(at("-bell 0xd0000810=1") < at("+bell 0xd0000810=1"), "{heard:?}");
}

#[test]
fn move_that_cannot_be_is_refused_and_the_window_stays() {
    let (map, scribe, bus) = map(1);
    let (movable, mover) = with_bells(&map, &[1, 2]);
    put(&map, 0xd000_0000, movable).unwrap();
    scribe.heard();
    for base in [0, 0xfffb_c000, u64::MAX] {
        mover.ask(Some(base));
        map.settle(|| {}).unwrap();
        assert!(mover.refused() && scribe.heard().is_empty(), "{base:#x}");
    }
    // KVM refuses the second doorbell: the first one goes again, the old ones stay.
    scribe.refuses.lock().unwrap().push("+bell 0xd1000010=2");
    mover.ask(Some(0xd100_0000));
    map.settle(|| {}).unwrap();
    assert!(mover.refused());
    let heard = scribe.heard();
    assert_eq!(
        heard,
        [
            "-range dev 0xd0000000",
            "+range dev 0xd1000000",
            "+bell 0xd1000010=1",
            "-bell 0xd1000010=1",
            "-range dev 0xd1000000",
            "+range dev 0xd0000000",
        ]
    );
    assert_eq!((byte(&bus, 0xd000_0000), byte(&bus, 0xd100_0000)), (7, 0xff));
    mover.ask(Some(0xd200_0000));
    map.settle(|| {}).unwrap();
    assert!(!mover.refused() && byte(&bus, 0xd200_0000) == 7);
}

#[test]
fn change_that_cannot_be_undone_breaks_the_map() {
    let (map, scribe, _) = map(1);
    let (movable, mover) = with_bells(&map, &[1, 2]);
    put(&map, 0xd000_0000, movable).unwrap();
    scribe.refuses.lock().unwrap().extend(["+bell 0xd1000010=2", "-bell 0xd1000010=1"]);
    mover.ask(Some(0xd100_0000));
    let error = map.settle(|| {}).unwrap_err().to_string();
    assert!(error.contains("broken") && error.contains("-bell 0xd1000010=1"), "{error}");
}

#[test]
fn requests_that_come_while_others_are_seen_to_are_not_lost() {
    let (map, ..) = map(1);
    let (movable, mover) = with_bells(&map, &[]);
    put(&map, 0xd000_0000, movable).unwrap();
    mover.ask(Some(0xd100_0000));
    // By a device that sees a write that was collected.
    map.settle(|| mover.ask(Some(0xd200_0000))).unwrap();
    assert!(!map.is_asked() && !mover.refused());
}

#[test]
fn pages_that_devices_write_are_fetched_once() {
    use vm_memory::{Bytes, GuestAddress};
    let (map, ..) = map(1);
    map.ram().write_obj(1u8, GuestAddress(0x1000)).unwrap();
    map.log_start().unwrap();
    assert_eq!(map.log_take().unwrap().count(), 0);
    map.ram().write_slice(&[1; 0x1001], GuestAddress(0x3fff)).unwrap();
    assert_eq!(map.log_take().unwrap().addresses().collect::<Vec<_>>(), [0x3000, 0x4000]);
    assert_eq!(map.log_take().unwrap().count(), 0);
    map.log_stop().unwrap();
    map.ram().write_obj(1u8, GuestAddress(0x1000)).unwrap();
    assert_eq!(map.log_take().unwrap().count(), 0);
}
