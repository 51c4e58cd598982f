//! KVM's interrupt controllers and timer as typed values (`KVM_GET_IRQCHIP`, `KVM_GET_PIT2`).

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state, kvm_irqchip,
    kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use crate::kvm::{KvmError, Vm};

/// The controllers that all vCPUs share, and the interval timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interrupts {
    /// The two 8259A, the master first.
    pub pics: [Pic; 2],
    /// The I/O APIC.
    pub ioapic: IoApic,
    /// The 8254.
    pub pit: Pit,
}

macro_rules! fields {
    ($(#[$meta:meta])* $name:ident from $kvm:ident: $($field:ident $type:ty,)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "KVM's own names")]
        pub struct $name { $(pub $field: $type,)* }

        impl From<$kvm> for $name {
            fn from(kvm: $kvm) -> Self {
                Self { $($field: kvm.$field,)* }
            }
        }

        impl From<$name> for $kvm {
            fn from(own: $name) -> Self {
                Self { $($field: own.$field,)* }
            }
        }
    };
}

fields! {
    /// An 8259A.
    Pic from kvm_pic_state:
    last_irr u8, irr u8, imr u8, isr u8, priority_add u8, irq_base u8, read_reg_select u8, poll u8, special_mask u8,
    init_state u8, auto_eoi u8, rotate_on_auto_eoi u8, special_fully_nested_mode u8, init4 u8, elcr u8, elcr_mask u8,
}

fields! {
    /// A channel of the 8254. `count_load_time` is a moment of the host's; KVM loads the count anew.
    PitChannel from kvm_pit_channel_state:
    count u32, latched_count u16, count_latched u8, status_latched u8, status u8, read_state u8, write_state u8,
    write_latch u8, rw_mode u8, mode u8, bcd u8, gate u8, count_load_time i64,
}

/// The 8254.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pit {
    /// Its channels.
    pub channels: [PitChannel; 3],
    /// `KVM_PIT_FLAGS_*`.
    pub flags: u32,
}

/// The I/O APIC (82093AA data sheet, §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApic {
    /// Where its registers are.
    pub base: u64,
    /// The register select register.
    pub select: u32,
    /// Its ID.
    pub id: u32,
    /// Which pins have an interrupt that waits.
    pub irr: u32,
    /// The redirection table.
    pub redirections: [u64; 24],
}

impl Interrupts {
    /// Reads them from KVM. No line may be on its way to them any more ([`Vm::disconnect`]).
    pub(crate) fn get(vm: &Vm) -> Result<Self, KvmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            vm.fd().get_irqchip(&mut chip).map_err(KvmError::refused("KVM_GET_IRQCHIP"))?;
            Ok::<_, KvmError>(chip)
        };
        let pit = vm.fd().get_pit2().map_err(KvmError::refused("KVM_GET_PIT2"))?;
        Ok(Self {
            pics: [pic(&chip(KVM_IRQCHIP_PIC_MASTER)?), pic(&chip(KVM_IRQCHIP_PIC_SLAVE)?)],
            ioapic: ioapic(&chip(KVM_IRQCHIP_IOAPIC)?),
            pit: Pit { channels: pit.channels.map(PitChannel::from), flags: pit.flags },
        })
    }

    /// Has KVM take them on. Every local APIC must have its state by then: what waits in the I/O APIC goes on to them.
    pub(crate) fn set(&self, vm: &Vm) -> Result<(), KvmError> {
        let set =
            |chip: kvm_irqchip| vm.fd().set_irqchip(&chip).map_err(KvmError::refused("KVM_SET_IRQCHIP"));
        for (chip_id, own) in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE].into_iter().zip(self.pics) {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            chip.chip.pic = own.into();
            set(chip)?;
        }
        let mut state = kvm_ioapic_state {
            base_address: self.ioapic.base,
            ioregsel: self.ioapic.select,
            id: self.ioapic.id,
            irr: self.ioapic.irr,
            ..kvm_ioapic_state::default()
        };
        for (to, from) in state.redirtbl.iter_mut().zip(self.ioapic.redirections) {
            to.bits = from;
        }
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..kvm_irqchip::default() };
        chip.chip.ioapic = state;
        set(chip)?;
        let channels = self.pit.channels.map(kvm_pit_channel_state::from);
        let pit = kvm_pit_state2 { channels, flags: self.pit.flags, ..kvm_pit_state2::default() };
        vm.fd().set_pit2(&pit).map_err(KvmError::refused("KVM_SET_PIT2"))
    }
}

fn pic(chip: &kvm_irqchip) -> Pic {
    // SAFETY: KVM filled the structure for a PIC, and any bytes are one.
    #[allow(unsafe_code)]
    unsafe { chip.chip.pic }.into()
}

fn ioapic(chip: &kvm_irqchip) -> IoApic {
    // SAFETY: KVM filled the structure for an I/O APIC, and any bytes are one.
    #[allow(unsafe_code)]
    let state = unsafe { chip.chip.ioapic };
    // SAFETY: an entry is eight bytes whichever way it is looked at.
    #[allow(unsafe_code)]
    let redirections = state.redirtbl.map(|entry| unsafe { entry.bits });
    IoApic { base: state.base_address, select: state.ioregsel, id: state.id, irr: state.irr, redirections }
}
