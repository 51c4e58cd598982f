//! The guest's physical address space as a table: what is where, in which of KVM's slots, and what must be done to get from one
//! table to another.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::map::MapError;
use super::region::{self, Rom, RomOnBus, SlotMemory, Window};
use super::{GuestMemory, PAGE};
use crate::bus::{BusDevice, Shared};

/// A region of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionId(u32);

#[derive(Clone)]
enum Kind {
    /// RAM or a ROM, in that slot.
    Slot(u32, SlotMemory),
    Window(Arc<Window>),
}

#[derive(Clone)]
struct Region {
    id: RegionId,
    name: Arc<str>,
    /// Nowhere for the time being, if none.
    base: Option<u64>,
    kind: Kind,
}

impl Region {
    fn size(&self) -> u64 {
        match &self.kind {
            Kind::Slot(_, memory) => memory.host().1,
            Kind::Window(window) => window.size,
        }
    }
}

/// One of KVM's slots in use.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) base: u64,
    pub(crate) memory: SlotMemory,
}

/// What a listener puts in place or takes away.
#[derive(Clone)]
pub(crate) enum Piece {
    /// Memory that the guest reaches with no exit.
    Slot(Slot),
    /// Addresses whose accesses reach a device.
    Range { name: Arc<str>, base: u64, size: u64, device: Shared<dyn BusDevice> },
    /// A write that is counted in an eventfd.
    Doorbell { address: u64, value: u32, event: Arc<EventFd> },
    /// Addresses whose writes are collected.
    Zone { address: u64, size: u32 },
}

/// A step of a transaction.
#[derive(Clone)]
pub(crate) enum Change {
    Add(Piece),
    Remove(Piece),
}

impl Change {
    /// What undoes it.
    pub(crate) fn undo(&self) -> Self {
        match self {
            Self::Add(piece) => Self::Remove(piece.clone()),
            Self::Remove(piece) => Self::Add(piece.clone()),
        }
    }
}

/// The table. A clone is one that can be changed apart.
#[derive(Clone)]
pub(crate) struct Table {
    regions: Vec<Region>,
    next: u32,
    /// How many slots KVM has.
    slots: u32,
    /// The last address.
    last: u64,
    /// First and last addresses of what is KVM's own.
    reserved: Vec<(u64, u64, &'static str)>,
}

impl Table {
    /// An empty one of addresses with so many `bits`, on a KVM with so many `slots`.
    pub(crate) fn new(slots: u32, bits: u32) -> Self {
        let last = 1u64.checked_shl(bits).map_or(u64::MAX, |end| end - 1);
        Self { regions: Vec::new(), next: 0, slots, last, reserved: Vec::new() }
    }

    /// Keeps everything off the `size` bytes from `base`, which are KVM's own.
    pub(crate) fn reserve(&mut self, owner: &'static str, (base, size): (u64, u64)) {
        self.reserved.push((base, base.saturating_add(size.saturating_sub(1)), owner));
    }

    /// Puts RAM where it says that it is.
    pub(crate) fn ram(&mut self, memory: &GuestMemory) -> Result<(), MapError> {
        for (base, memory) in region::ram(memory) {
            self.slot("RAM", base, memory)?;
        }
        Ok(())
    }

    /// Puts a ROM at `base`.
    pub(crate) fn rom(&mut self, name: &str, base: u64, rom: Arc<Rom>) -> Result<RegionId, MapError> {
        self.slot(name, base, SlotMemory::Rom(rom))
    }

    fn slot(&mut self, name: &str, base: u64, memory: SlotMemory) -> Result<RegionId, MapError> {
        let size = memory.host().1;
        if !base.is_multiple_of(PAGE) || !size.is_multiple_of(PAGE) {
            return Err(MapError::NotPages { name: name.to_owned(), base, size });
        }
        let taken = |number: &u32| {
            self.regions.iter().any(|region| matches!(&region.kind, Kind::Slot(its, _) if its == number))
        };
        let number =
            (0..self.slots).find(|number| !taken(number)).ok_or(MapError::Slots { most: self.slots })?;
        Ok(self.add(name, Some(base), Kind::Slot(number, memory)))
    }

    /// Puts a device's window at `base`, or nowhere yet.
    pub(crate) fn window(&mut self, name: &str, base: Option<u64>, window: Window) -> RegionId {
        self.add(name, base, Kind::Window(Arc::new(window)))
    }

    fn add(&mut self, name: &str, base: Option<u64>, kind: Kind) -> RegionId {
        let id = RegionId(self.next);
        self.next = self.next.wrapping_add(1);
        self.regions.push(Region { id, name: name.into(), base, kind });
        id
    }

    /// Moves a window.
    pub(crate) fn place(&mut self, id: RegionId, base: Option<u64>) {
        if let Some(region) = self.regions.iter_mut().find(|region| region.id == id)
            && matches!(region.kind, Kind::Window(_))
        {
            region.base = base;
        }
    }

    /// Takes a ROM or a window away; its slot is free again. RAM stays.
    pub(crate) fn remove(&mut self, id: RegionId) -> Result<(), MapError> {
        let stays = |region: &Region| matches!(&region.kind, Kind::Slot(_, SlotMemory::Ram(..)));
        let index = self.regions.iter().position(|region| region.id == id && !stays(region));
        index.map(|index| drop(self.regions.remove(index))).ok_or(MapError::NoRegion)
    }

    /// Takes all away but RAM, and what is to stay.
    pub(crate) fn strip(&mut self) {
        self.regions.retain(|region| match &region.kind {
            Kind::Slot(_, SlotMemory::Rom(rom)) => rom.stays(),
            Kind::Slot(_, SlotMemory::Ram(..)) => true,
            Kind::Window(_) => false,
        });
    }

    /// The windows that may move.
    pub(crate) fn movable(&self) -> Vec<(RegionId, Arc<Window>)> {
        let window = |region: &Region| match &region.kind {
            Kind::Window(window) if window.mover.is_some() => Some((region.id, window.clone())),
            _ => None,
        };
        self.regions.iter().filter_map(window).collect()
    }

    /// The slots of RAM, by address.
    pub(crate) fn ram_slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.slots_in_use().filter(|slot| !slot.memory.read_only()).collect();
        slots.sort_by_key(|slot| slot.base);
        slots
    }

    /// The ROMs, and where they are.
    pub(crate) fn roms(&self) -> Vec<(u64, Arc<Rom>)> {
        let rom = |slot: Slot| match slot.memory {
            SlotMemory::Rom(rom) => Some((slot.base, rom)),
            SlotMemory::Ram(..) => None,
        };
        self.slots_in_use().filter_map(rom).collect()
    }

    fn slots_in_use(&self) -> impl Iterator<Item = Slot> + '_ {
        self.regions.iter().filter_map(|region| match (&region.kind, region.base) {
            (Kind::Slot(number, memory), Some(base)) => {
                Some(Slot { number: *number, base, memory: memory.clone() })
            }
            _ => None,
        })
    }

    /// Looks whether all of it can be: no two regions at one address, none where KVM is, none past the last address.
    pub(crate) fn check(&self) -> Result<(), MapError> {
        let mut taken: Vec<(u64, u64, &str)> = self.reserved.clone();
        for region in &self.regions {
            let Some(base) = region.base else { continue };
            let (name, size) = (&*region.name, region.size());
            let last = size.checked_sub(1).and_then(|rest| base.checked_add(rest));
            let last = last.filter(|last| *last <= self.last).ok_or_else(|| MapError::NoRange {
                name: name.to_owned(),
                base,
                size,
            })?;
            if let Some((.., other)) = taken.iter().find(|(from, to, _)| *from <= last && base <= *to) {
                return Err(MapError::Overlap { name: name.to_owned(), base, other: (*other).to_owned() });
            }
            taken.push((base, last, name));
        }
        Ok(())
    }

    /// The steps from this table to `new`, in their order.
    ///
    /// What is away before the new is there would be missed by vCPUs that run: a doorbell comes at its new place first, unless
    /// another's is still there. Slots and ranges can't: two at one address are refused. Ranges show all at once, at the end.
    pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
        let (mut gone, mut come) = (self.pieces_not_in(new), new.pieces_not_in(self));
        let quiet = |piece: &Piece| matches!(piece, Piece::Doorbell { .. } | Piece::Zone { .. });
        let quiet_gone: Vec<Piece> = gone.extract_if(.., |piece| quiet(piece)).collect();
        let quiet_come: Vec<Piece> = come.extract_if(.., |piece| quiet(piece)).collect();
        let collide = quiet_come.iter().any(|new| quiet_gone.iter().any(|old| old.collides(new)));
        let mut steps: Vec<Change> = gone.into_iter().map(Change::Remove).collect();
        steps.extend(come.into_iter().map(Change::Add));
        let (adds, removals) =
            (quiet_come.into_iter().map(Change::Add), quiet_gone.into_iter().map(Change::Remove));
        if collide {
            steps.extend(removals.chain(adds));
        } else {
            steps.extend(adds.chain(removals));
        }
        steps
    }

    /// The pieces of the regions that are not, or elsewhere, in `other`.
    fn pieces_not_in(&self, other: &Self) -> Vec<Piece> {
        let there = |region: &&Region| {
            !other.regions.iter().any(|other| other.id == region.id && other.base == region.base)
        };
        self.regions.iter().filter(there).flat_map(Region::pieces).collect()
    }
}

impl Region {
    fn pieces(&self) -> Vec<Piece> {
        let Some(base) = self.base else { return Vec::new() };
        let range = |size, device| Piece::Range { name: self.name.clone(), base, size, device };
        match &self.kind {
            Kind::Slot(number, memory) => {
                let slot = Piece::Slot(Slot { number: *number, base, memory: memory.clone() });
                match memory {
                    SlotMemory::Ram(..) => vec![slot],
                    SlotMemory::Rom(rom) => {
                        let device = Arc::new(std::sync::Mutex::new(RomOnBus(rom.clone())));
                        vec![slot, range(self.size(), device)]
                    }
                }
            }
            Kind::Window(window) => {
                let mut pieces = vec![range(window.size, window.device.clone())];
                pieces.extend(window.doorbells.iter().map(|bell| Piece::Doorbell {
                    address: base.saturating_add(bell.offset),
                    value: bell.value,
                    event: bell.event.clone(),
                }));
                pieces.extend(
                    window.zones.iter().map(|zone| Piece::Zone {
                        address: base.saturating_add(zone.offset),
                        size: zone.size,
                    }),
                );
                pieces
            }
        }
    }
}

impl Piece {
    /// Whether KVM would refuse one while the other is there, or take the one for the other.
    fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Doorbell { address, .. }, Self::Doorbell { address: other, .. }) => address == other,
            (Self::Zone { address, size }, Self::Zone { address: other, size: others }) => {
                let end = |address: u64, size: u32| address.saturating_add(size.into());
                *address < end(*other, *others) && *other < end(*address, *size)
            }
            _ => false,
        }
    }
}
