//! What a vCPU starts with: CPUID, model-specific registers, local APIC, FPU, and the entry's registers.

use kvm_bindings::{
    CpuId, Msrs, kvm_fpu, kvm_guest_debug, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Kvm, VcpuFd};

use super::cpuid;
use crate::kvm::KvmError;
use crate::layout::{GDT, PAGE_TABLES};

/// `IA32_MISC_ENABLE`, and its bit for fast string operations (Intel SDM, volume 4).
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `MSR_KVM_ASYNC_PF_EN` (Linux, `Documentation/virt/kvm/x86/msr.rst`): zero has KVM forget what it fetches.
const ASYNC_PF_EN: u32 = 0x4b56_4d02;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, memory is write-back by default (Intel SDM, volume 3, §12.11.2.1).
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);
/// The local vector table's LINT0 and LINT1 registers, and the delivery modes a PC gives them.
const LVT_LINT0: (usize, u32) = (0x350, 0b111 << 8);
const LVT_LINT1: (usize, u32) = (0x360, 0b100 << 8);

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// The code, data and task segments' selectors: those of Linux's boot protocol.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// EAX of a kernel that a multiboot loader entered (§3.2).
const MULTIBOOT_LOADED: u64 = 0x2bad_b002;

/// The state that the first vCPU enters the guest in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// As the processor comes out of its reset: real mode, 16 bytes below 4 GiB.
    Reset,
    /// Real mode: CS based at the address, which must be below 1 MiB and on a paragraph; IP zero.
    Real16 {
        /// The first instruction's physical address.
        address: u64,
    },
    /// Protected mode without paging, flat segments.
    Protected32 {
        /// The first instruction.
        address: u64,
        /// EBX: a PVH kernel's `hvm_start_info`.
        ebx: u64,
        /// ESI: the boot parameters of Linux's 32-bit protocol.
        esi: u64,
    },
    /// Protected mode as a multiboot kernel wants it (Multiboot Specification 0.6.96, §3.2).
    Multiboot {
        /// The first instruction.
        address: u64,
        /// EBX: the multiboot information.
        info: u64,
    },
    /// Long mode on the initial page tables.
    Long64 {
        /// The first instruction.
        address: u64,
        /// RSI: the boot parameters of Linux's 64-bit protocol.
        rsi: u64,
    },
}

/// Tells a vCPU what its `CPUID` says.
pub(super) fn processor(
    vcpu: &VcpuFd,
    kvm: &Kvm,
    base: &CpuId,
    (index, cpus): (u32, u32),
) -> Result<(), KvmError> {
    let mut own = base.clone();
    cpuid::adapt(&mut own, kvm, index, cpus)?;
    vcpu.set_cpuid2(&own).map_err(KvmError::refused("KVM_SET_CPUID2"))
}

/// Takes from a vCPU that has run in another machine what no state has: a debugger's breakpoints, and pages that KVM still
/// fetches for its guest, which it would tell the next one of.
pub(super) fn used(vcpu: &VcpuFd) -> Result<(), KvmError> {
    vcpu.set_guest_debug(&kvm_guest_debug::default()).map_err(KvmError::refused("KVM_SET_GUEST_DEBUG"))?;
    let off = [kvm_msr_entry { index: ASYNC_PF_EN, ..kvm_msr_entry::default() }];
    let msrs = Msrs::from_entries(&off).map_err(|_| KvmError::Capability("room for an MSR"))?;
    // A KVM that does not know it fetches none.
    vcpu.set_msrs(&msrs).map_err(KvmError::refused("KVM_SET_MSRS"))?;
    Ok(())
}

/// Sets up what every vCPU has beside that, whatever it enters.
pub(super) fn common(vcpu: &VcpuFd, irqchip: bool) -> Result<(), KvmError> {
    let entries = [MISC_ENABLE, MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Capability("room for two MSRs"))?;
    // KVM stops at one that it does not know; none of the two is needed for a guest to run.
    vcpu.set_msrs(&msrs).map_err(KvmError::refused("KVM_SET_MSRS"))?;
    vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..kvm_fpu::default() })
        .map_err(KvmError::refused("KVM_SET_FPU"))?;
    if irqchip {
        let mut lapic = vcpu.get_lapic().map_err(KvmError::refused("KVM_GET_LAPIC"))?;
        for (register, mode) in [LVT_LINT0, LVT_LINT1] {
            set_delivery_mode(&mut lapic, register, mode);
        }
        vcpu.set_lapic(&lapic).map_err(KvmError::refused("KVM_SET_LAPIC"))?;
    }
    Ok(())
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    const DELIVERY_MODE: u32 = 0b111 << 8;
    const MASKED: u32 = 1 << 16;
    let Some(bytes) = lapic.regs.get_mut(register..register + 4) else { return };
    let mut value = [0; 4];
    for (to, from) in value.iter_mut().zip(&*bytes) {
        *to = from.cast_unsigned();
    }
    let value = u32::from_le_bytes(value) & !DELIVERY_MODE & !MASKED | mode;
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = from.cast_signed();
    }
}

/// Puts the first vCPU where the boot protocol wants it.
pub(super) fn enter(vcpu: &VcpuFd, entry: EntryState) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmError::refused("KVM_GET_SREGS"))?;
    let mut regs = kvm_regs { rflags: 2, ..kvm_regs::default() };
    match entry {
        // KVM made the vCPU so.
        EntryState::Reset => return Ok(()),
        EntryState::Real16 { address } => {
            for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
                (segment.base, segment.selector) = (0, 0);
            }
            sregs.cs.base = address;
            sregs.cs.selector = u16::try_from(address >> 4).unwrap_or(0);
        }
        EntryState::Protected32 { address, ebx, esi } => {
            flat(&mut sregs, false);
            sregs.cr0 = CR0_PE | CR0_ET;
            (regs.rip, regs.rbx, regs.rsi) = (address, ebx, esi);
        }
        EntryState::Multiboot { address, info } => {
            flat(&mut sregs, false);
            sregs.cr0 = CR0_PE | CR0_ET;
            (regs.rip, regs.rax, regs.rbx) = (address, MULTIBOOT_LOADED, info);
        }
        EntryState::Long64 { address, rsi } => {
            flat(&mut sregs, true);
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 |= CR4_PAE;
            sregs.efer |= EFER_LME | EFER_LMA;
            (regs.rip, regs.rsi) = (address, rsi);
        }
    }
    vcpu.set_sregs(&sregs).map_err(KvmError::refused("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs).map_err(KvmError::refused("KVM_SET_REGS"))
}

/// Flat segments, as the GDT in guest memory ([`gdt`]) has them.
fn flat(sregs: &mut kvm_sregs, long: bool) {
    let segment = |selector, type_, s| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        s,
        g: 1,
        ..kvm_segment::default()
    };
    // Execute and read, accessed; read and write, accessed; busy TSS (Intel SDM, volume 3, §3.4.5.1, §3.5).
    let code = kvm_segment { db: u8::from(!long), l: u8::from(long), ..segment(CODE_SELECTOR, 0xb, 1) };
    let data = kvm_segment { db: 1, ..segment(DATA_SELECTOR, 0x3, 1) };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, g: 0, ..segment(TASK_SELECTOR, 0xb, 0) };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 5 * 8 - 1);
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
}

/// The GDT that [`EntryState::Protected32`] and [`EntryState::Long64`] count on at [`GDT`].
#[must_use]
pub(crate) fn gdt(long: bool) -> [u64; 5] {
    let code = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
}
