//! The VM's table of interrupt routes: what each number (GSI) leads to.
//!
//! `KVM_SET_GSI_ROUTING` replaces all of it, and nothing reads it back: the routes that KVM begins with are made anew
//! here, as its `default_routing` has them (Linux, arch/x86/kvm/irq_comm.c).

use std::collections::BTreeMap;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Target,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};

use super::Msi;

/// How many pins an I/O APIC has (82093AA data sheet, §1.0): messages' numbers begin behind them.
const PINS: u32 = 24;
/// How many pins a PIC has (8259A data sheet).
const PIC_PINS: u32 = 8;

/// What the table is made of: the pins' routes, which never change, and messages.
pub(crate) struct Routes {
    /// Numbers end here: `KVM_CAP_IRQ_ROUTING`.
    limit: u32,
    /// The numbers that are taken; none: with no message yet.
    messages: BTreeMap<u32, Option<Msi>>,
}

impl Routes {
    /// The table that KVM begins with, with room for numbers below `limit`.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, messages: BTreeMap::new() }
    }

    /// Takes the lowest number that is free.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let gsi = (PINS..self.limit).find(|gsi| !self.messages.contains_key(gsi))?;
        self.messages.insert(gsi, None);
        Some(gsi)
    }

    /// Gives a number back. Nothing may raise it any more.
    pub(crate) fn free(&mut self, gsi: u32) {
        self.messages.remove(&gsi);
    }

    /// Has the number `gsi`, if it is taken, lead to `msi`; tells what it led to.
    pub(crate) fn set(&mut self, gsi: u32, msi: Option<Msi>) -> Option<Msi> {
        self.messages.get_mut(&gsi).and_then(|slot| std::mem::replace(slot, msi))
    }

    /// The table, as `KVM_SET_GSI_ROUTING` takes it.
    pub(crate) fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let mut entries = Vec::new();
        for gsi in 0..PINS {
            // A pin of the I/O APIC, and below 16 one of a PIC: an interrupt reaches whichever listens.
            let pic = if gsi < PIC_PINS { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
            if gsi < 2 * PIC_PINS {
                entries.push(pin(gsi, pic, gsi % PIC_PINS));
            }
            entries.push(pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        }
        let messages = self.messages.iter().filter_map(|(gsi, msi)| Some(message(*gsi, (*msi)?)));
        entries.extend(messages);
        entries
    }
}

fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let u = Target { irqchip: kvm_irq_routing_irqchip { irqchip, pin } };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..kvm_irq_routing_entry::default() }
}

fn message(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let half = |address: u64| u32::try_from(address & u64::from(u32::MAX)).unwrap_or_default();
    let (address_lo, address_hi) = (half(msi.address), half(msi.address >> 32));
    let msi =
        kvm_irq_routing_msi { address_lo, address_hi, data: msi.data, ..kvm_irq_routing_msi::default() };
    let u = Target { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..kvm_irq_routing_entry::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, chip and pin of those that lead to a pin.
    #[allow(unsafe_code)]
    fn pins(routes: &Routes) -> Vec<(u32, u32, u32)> {
        let pins = routes.entries().into_iter().filter(|entry| entry.type_ == KVM_IRQ_ROUTING_IRQCHIP);
        pins.map(|entry| {
            // SAFETY: of this type it is the union's valid member.
            let target = unsafe { entry.u.irqchip };
            (entry.gsi, target.irqchip, target.pin)
        })
        .collect()
    }

    /// Number, address and data of those that are messages.
    #[allow(unsafe_code)]
    fn messages(routes: &Routes) -> Vec<(u32, u64, u32)> {
        let messages = routes.entries().into_iter().filter(|entry| entry.type_ == KVM_IRQ_ROUTING_MSI);
        messages
            .map(|entry| {
                // SAFETY: of this type it is the union's valid member.
                let msi = unsafe { entry.u.msi };
                (entry.gsi, u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo), msi.data)
            })
            .collect()
    }

    #[test]
    fn pins_are_routed_as_kvm_begins_with_them() {
        let pins = pins(&Routes::new(4096));
        assert_eq!(pins.len(), 16 + 24);
        for expected in
            [(0, 0, 0), (0, 2, 0), (7, 0, 7), (8, 1, 0), (10, 1, 2), (10, 2, 10), (15, 1, 7), (23, 2, 23)]
        {
            assert!(pins.contains(&expected), "{expected:?}");
        }
        assert!(!pins.iter().any(|(gsi, chip, _)| *gsi >= 16 && *chip != KVM_IRQCHIP_IOAPIC));
    }

    #[test]
    fn messages_come_behind_the_pins_and_stay_until_they_are_freed() {
        let mut routes = Routes::new(26);
        assert_eq!([routes.allocate(), routes.allocate(), routes.allocate()], [Some(24), Some(25), None]);
        assert!(messages(&routes).is_empty());
        let msi = Msi { address: 0x1_fee0_1000, data: 0x41 };
        assert_eq!(routes.set(25, Some(msi)), None);
        assert_eq!(messages(&routes), [(25, 0x1_fee0_1000, 0x41)]);
        routes.free(25);
        assert!(messages(&routes).is_empty());
        assert_eq!(routes.set(25, Some(msi)), None);
        assert!(messages(&routes).is_empty(), "what is not taken leads nowhere");
        assert_eq!(routes.allocate(), Some(25));
        assert_eq!(pins(&routes).len(), 40);
    }
}
