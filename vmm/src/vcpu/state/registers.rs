//! General, segment and control registers as typed values (`KVM_GET_REGS`, `KVM_GET_SREGS`).

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use serde::{Deserialize, Serialize};

use super::hex;

/// CR0: paging.
pub(crate) const CR0_PG: u64 = 1 << 31;
/// CR4: pages of 4 MiB in 32-bit paging.
pub(crate) const CR4_PSE: u64 = 1 << 4;
/// CR4: entries of eight bytes.
pub(crate) const CR4_PAE: u64 = 1 << 5;
/// CR4: five levels of tables in long mode.
pub(crate) const CR4_LA57: u64 = 1 << 12;
/// EFER: long mode is active.
pub(crate) const EFER_LMA: u64 = 1 << 10;

macro_rules! registers {
    ($(#[$meta:meta])* $name:ident from $kvm:ident: $($field:ident)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the processor's own names")]
        pub struct $name { $(#[serde(with = "hex")] pub $field: u64,)* }

        impl From<kvm_regs> for $name {
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

registers! {
    /// The general registers.
    Registers from kvm_regs:
    rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags
}

/// A segment register, with what it has loaded of its descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins.
    #[serde(with = "hex")]
    pub base: u64,
    /// Its last offset, in bytes.
    pub limit: u32,
    /// The selector that was loaded.
    pub selector: u16,
    /// The descriptor's type (Intel SDM, volume 3, §3.4.5.1).
    pub kind: u8,
    /// The descriptor's privilege level.
    pub dpl: u8,
    /// Whether it is present.
    pub present: bool,
    /// Whether it is code or data, and not a system segment.
    pub code_or_data: bool,
    /// Whether operands and addresses have 32 bits by default.
    pub big: bool,
    /// Whether it is 64-bit code.
    pub long: bool,
    /// Whether the limit counts in pages.
    pub pages: bool,
    /// The bit that is the system's own.
    pub available: bool,
    /// Whether a null selector is in it.
    pub unusable: bool,
}

impl From<kvm_segment> for Segment {
    fn from(kvm: kvm_segment) -> Self {
        Self {
            base: kvm.base,
            limit: kvm.limit,
            selector: kvm.selector,
            kind: kvm.type_,
            dpl: kvm.dpl,
            present: kvm.present != 0,
            code_or_data: kvm.s != 0,
            big: kvm.db != 0,
            long: kvm.l != 0,
            pages: kvm.g != 0,
            available: kvm.avl != 0,
            unusable: kvm.unusable != 0,
        }
    }
}

impl From<Segment> for kvm_segment {
    fn from(own: Segment) -> Self {
        Self {
            base: own.base,
            limit: own.limit,
            selector: own.selector,
            type_: own.kind,
            dpl: own.dpl,
            present: own.present.into(),
            s: own.code_or_data.into(),
            db: own.big.into(),
            l: own.long.into(),
            g: own.pages.into(),
            avl: own.available.into(),
            unusable: own.unusable.into(),
            padding: 0,
        }
    }
}

/// Where a descriptor table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its first byte.
    #[serde(with = "hex")]
    pub base: u64,
    /// Its last offset.
    pub limit: u16,
}

impl From<kvm_dtable> for Table {
    fn from(kvm: kvm_dtable) -> Self {
        Self { base: kvm.base, limit: kvm.limit }
    }
}

impl From<Table> for kvm_dtable {
    fn from(own: Table) -> Self {
        Self { base: own.base, limit: own.limit, ..Self::default() }
    }
}

/// Segment, table and control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the processor's own names")]
pub struct SpecialRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    #[serde(with = "hex")]
    pub cr0: u64,
    #[serde(with = "hex")]
    pub cr2: u64,
    #[serde(with = "hex")]
    pub cr3: u64,
    #[serde(with = "hex")]
    pub cr4: u64,
    #[serde(with = "hex")]
    pub cr8: u64,
    #[serde(with = "hex")]
    pub efer: u64,
    #[serde(with = "hex")]
    pub apic_base: u64,
    /// The interrupts that KVM has accepted and not yet injected, a bit each; at most one.
    #[serde(with = "hex::array")]
    pub interrupt_bitmap: [u64; 4],
}

macro_rules! special {
    ($($same:ident)*; $($converted:ident)*) => {
        impl From<kvm_sregs> for SpecialRegisters {
            fn from(kvm: kvm_sregs) -> Self {
                Self { $($same: kvm.$same,)* $($converted: kvm.$converted.into(),)* }
            }
        }

        impl From<SpecialRegisters> for kvm_sregs {
            fn from(own: SpecialRegisters) -> Self {
                Self { $($same: own.$same,)* $($converted: own.$converted.into(),)* }
            }
        }
    };
}

special! { cr0 cr2 cr3 cr4 cr8 efer apic_base interrupt_bitmap; cs ds es fs gs ss tr ldt gdt idt }

impl SpecialRegisters {
    /// The linear address of `offset` in `segment`: in 64-bit code only FS and GS have a base.
    pub(crate) fn linear(&self, segment: &Segment, offset: u64) -> u64 {
        if self.efer & EFER_LMA != 0 && self.cs.long {
            return offset;
        }
        segment.base.wrapping_add(offset) & u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_from_json_and_from_kvm() {
        let own = Registers { rax: u64::MAX, rip: 0xffff_ffff_8100_0000, ..Registers::default() };
        let text = serde_json::to_string(&own).unwrap();
        assert!(text.contains(r#""rip":"0xffffffff81000000""#), "{text}");
        assert_eq!(serde_json::from_str::<Registers>(&text).unwrap(), own);
        assert_eq!(Registers::from(kvm_regs::from(own)), own);
        assert!(serde_json::from_str::<Registers>(&text.replace("0x", "")).is_err());
    }

    #[test]
    fn special_registers_come_back_from_json_and_from_kvm() {
        let cs = Segment { base: 0xffff_0000, selector: 0xf000, present: true, ..Segment::default() };
        let own =
            SpecialRegisters { cs, cr3: 0x9000, interrupt_bitmap: [1, 0, 0, 1 << 63], ..Default::default() };
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<SpecialRegisters>(&text).unwrap(), own);
        assert_eq!(SpecialRegisters::from(kvm_sregs::from(own)), own);
    }

    #[test]
    fn linear_address_has_the_segments_base_but_in_64_bit_code() {
        let mut special = SpecialRegisters::default();
        special.cs.base = 0xffff_0000;
        assert_eq!(special.linear(&special.cs, 0xfff0), 0xffff_fff0);
        assert_eq!(special.linear(&special.cs, 0x1_fff0), 0xfff0);
        (special.efer, special.cs.long) = (EFER_LMA, true);
        assert_eq!(special.linear(&special.cs, 0xffff_ffff_8100_0000), 0xffff_ffff_8100_0000);
    }
}
