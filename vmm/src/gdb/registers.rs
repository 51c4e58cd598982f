//! Registers as gdb knows them: x86-64's core and SSE, the bases of FS and GS, and the system's own.
//!
//! The same description serves all modes: a processor in 16- or 32-bit code shows its registers in 64 bits.

use std::fmt::Write;
use std::sync::LazyLock;

use gdbstub::arch::{Arch, Registers};
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

/// `IA32_KERNEL_GS_BASE` (Intel SDM, volume 4).
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// How many bytes the core's and SSE's registers are.
const CORE: usize = 0x218;
/// gdb's own name for two, then names of ours.
const SYSTEM: [&str; 9] = ["fs_base", "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer"];

/// x86-64, as this stub describes it.
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = VcpuRegisters;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        static DESCRIPTION: LazyLock<String> = LazyLock::new(description);
        Some(&DESCRIPTION)
    }
}

/// All registers of a vCPU that gdb sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VcpuRegisters {
    core: X86_64CoreRegs,
    system: [u64; SYSTEM.len()],
}

impl Registers for VcpuRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        self.system.iter().flat_map(|value| value.to_le_bytes()).for_each(|byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, system) = bytes.split_at_checked(CORE).ok_or(())?;
        self.core.gdb_deserialize(core)?;
        let (words, rest) = system.as_chunks();
        if words.len() != self.system.len() || !rest.is_empty() {
            return Err(());
        }
        for (value, word) in self.system.iter_mut().zip(words) {
            *value = u64::from_le_bytes(*word);
        }
        Ok(())
    }
}

impl VcpuRegisters {
    /// Reads those of a vCPU that is out of the guest.
    pub(super) fn read(vcpu: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let (regs, sregs, fpu) = (vcpu.get_regs()?, vcpu.get_sregs()?, vcpu.get_fpu()?);
        let mut msrs = kernel_gs_base(0)?;
        vcpu.get_msrs(&mut msrs)?;
        let kernel_gs = msrs.as_slice().first().map_or(0, |entry| entry.data);
        let segments = X86SegmentRegs {
            cs: sregs.cs.selector.into(),
            ss: sregs.ss.selector.into(),
            ds: sregs.ds.selector.into(),
            es: sregs.es.selector.into(),
            fs: sregs.fs.selector.into(),
            gs: sregs.gs.selector.into(),
        };
        let mut core = X86_64CoreRegs {
            regs: general(&regs),
            // The upper half is reserved (Intel SDM, volume 1, §3.4.3).
            eflags: low(regs.rflags),
            rip: regs.rip,
            segments,
            fpu: x87(&fpu),
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
            ..X86_64CoreRegs::default()
        };
        for (to, from) in core.st.iter_mut().zip(&fpu.fpr) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        let kvm_sregs { fs, gs, cr0, cr2, cr3, cr4, cr8, efer, .. } = sregs;
        Ok(Self { core, system: [fs.base, gs.base, kernel_gs, cr0, cr2, cr3, cr4, cr8, efer] })
    }

    /// Writes those that differ from the vCPU's own: what gdb did not mean to change stays as KVM has it. Selectors are
    /// loaded by the guest alone, with what their descriptors say: a change of one is `EINVAL`.
    pub(super) fn write(&self, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let now = Self::read(vcpu)?;
        let (new, old) = (&self.core, &now.core);
        if new.segments != old.segments {
            return Err(kvm_ioctls::Error::new(libc::EINVAL));
        }
        if self.system != now.system {
            let [fs, gs, kernel_gs, cr0, cr2, cr3, cr4, cr8, efer] = self.system;
            let mut sregs = vcpu.get_sregs()?;
            (sregs.fs.base, sregs.gs.base) = (fs, gs);
            (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer) =
                (cr0, cr2, cr3, cr4, cr8, efer);
            vcpu.set_sregs(&sregs)?;
            if now.system.get(2) != Some(&kernel_gs) {
                vcpu.set_msrs(&kernel_gs_base(kernel_gs)?)?;
            }
        }
        if (new.regs, new.rip, new.eflags) != (old.regs, old.rip, old.eflags) {
            let mut regs = vcpu.get_regs()?;
            set_general(&mut regs, new.regs);
            (regs.rip, regs.rflags) = (new.rip, new.eflags.into());
            vcpu.set_regs(&regs)?;
        }
        if (&new.st, &new.xmm, new.mxcsr) != (&old.st, &old.xmm, old.mxcsr) || new.fpu != old.fpu {
            let mut fpu = vcpu.get_fpu()?;
            for (to, from) in fpu.fpr.iter_mut().zip(&new.st) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            fpu.xmm = new.xmm.map(u128::to_le_bytes);
            fpu.mxcsr = new.mxcsr;
            set_x87(&mut fpu, &new.fpu);
            vcpu.set_fpu(&fpu)?;
        }
        Ok(())
    }
}

fn kernel_gs_base(data: u64) -> Result<Msrs, kvm_ioctls::Error> {
    let entry = kvm_msr_entry { index: KERNEL_GS_BASE, data, ..kvm_msr_entry::default() };
    Msrs::from_entries(&[entry]).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))
}

/// In gdb's order.
fn general(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ]
}

fn set_general(r: &mut kvm_regs, values: [u64; 16]) {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ] = values;
}

/// The low half of a register.
fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

/// KVM keeps a bit for each x87 register that is in use, gdb wants the tag word: 0 for one in use, 3 for an empty one.
fn x87(fpu: &kvm_fpu) -> X87FpuInternalRegs {
    let tag = |bit: u32| if fpu.ftwx >> bit & 1 == 0 { 3 << (2 * bit) } else { 0 };
    X87FpuInternalRegs {
        fctrl: fpu.fcw.into(),
        fstat: fpu.fsw.into(),
        ftag: (0..8).map(tag).sum(),
        fiseg: low(fpu.last_ip >> 32) & 0xffff,
        fioff: low(fpu.last_ip),
        foseg: low(fpu.last_dp >> 32) & 0xffff,
        fooff: low(fpu.last_dp),
        fop: fpu.last_opcode.into(),
    }
}

/// What can be told apart again: control, status, tags.
fn set_x87(fpu: &mut kvm_fpu, new: &X87FpuInternalRegs) {
    let half = |value: u32| u16::try_from(value & 0xffff).unwrap_or(0);
    (fpu.fcw, fpu.fsw) = (half(new.fctrl), half(new.fstat));
    let used = |bit: u32| if new.ftag >> (2 * bit) & 3 == 3 { 0 } else { 1u8 << bit };
    fpu.ftwx = (0..8).map(used).sum();
}

/// The target description (gdb's manual, appendix G): what is in the `g` packet, in order.
fn description() -> String {
    let mut xml = String::from(
        r#"<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0"><architecture>i386:x86-64</architecture><feature name="org.gnu.gdb.i386.core"><flags id="i386_eflags" size="4">"#,
    );
    let flags = ["CF", "", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF", "NT", "RF", "VM", "AC"];
    for (name, bit) in flags.iter().zip([0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 14, 16, 17, 18]) {
        put(&mut xml, format_args!(r#"<field name="{name}" start="{bit}" end="{bit}"/>"#));
    }
    xml.push_str("</flags>");
    for name in ["rax", "rbx", "rcx", "rdx", "rsi", "rdi"] {
        register(&mut xml, name, 64, "int64");
    }
    register(&mut xml, "rbp", 64, "data_ptr");
    register(&mut xml, "rsp", 64, "data_ptr");
    for number in 8..16 {
        register(&mut xml, &format!("r{number}"), 64, "int64");
    }
    register(&mut xml, "rip", 64, "code_ptr");
    register(&mut xml, "eflags", 32, "i386_eflags");
    for name in ["cs", "ss", "ds", "es", "fs", "gs"] {
        register(&mut xml, name, 32, "int32");
    }
    for number in 0..8 {
        register(&mut xml, &format!("st{number}"), 80, "i387_ext");
    }
    for name in ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"] {
        put(&mut xml, format_args!(r#"<reg name="{name}" bitsize="32" type="int" group="float"/>"#));
    }
    xml.push_str(r#"</feature><feature name="org.gnu.gdb.i386.sse">"#);
    let vectors =
        [("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16), ("v8i16", "int16", 8)];
    for (id, kind, count) in vectors.into_iter().chain([("v4i32", "int32", 4), ("v2i64", "int64", 2)]) {
        put(&mut xml, format_args!(r#"<vector id="{id}" type="{kind}" count="{count}"/>"#));
    }
    xml.push_str(
        r#"<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>"#,
    );
    for number in 0..16 {
        register(&mut xml, &format!("xmm{number}"), 128, "vec128");
    }
    put(&mut xml, format_args!(r#"<reg name="mxcsr" bitsize="32" type="int" group="vector"/></feature>"#));
    xml.push_str(r#"<feature name="org.gnu.gdb.i386.segments">"#);
    for (index, name) in SYSTEM.iter().enumerate() {
        if index == 2 {
            xml.push_str(r#"</feature><feature name="kiln.x86.system">"#);
        }
        register(&mut xml, name, 64, if index < 2 { "int" } else { "uint64" });
    }
    xml.push_str("</feature></target>");
    xml
}

fn register(xml: &mut String, name: &str, bits: u32, kind: &str) {
    put(xml, format_args!(r#"<reg name="{name}" bitsize="{bits}" type="{kind}"/>"#));
}

fn put(xml: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes all.
    let _taken = xml.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(registers: &VcpuRegisters) -> Vec<u8> {
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.push(byte.unwrap()));
        bytes
    }

    #[test]
    fn registers_come_back_from_a_packet_of_their_size_alone() {
        let mut own = VcpuRegisters::default();
        own.core.rip = 0xffff_ffff_8100_0000;
        own.system = [1, 2, 3, 4, 5, 6, 7, 8, u64::MAX];
        let packet = bytes(&own);
        let mut back = VcpuRegisters::default();
        back.gdb_deserialize(&packet).unwrap();
        assert_eq!(back, own);
        for length in [0, CORE - 1, CORE, packet.len() - 1] {
            assert_eq!(back.gdb_deserialize(&packet[..length]), Err(()), "{length}");
        }
        assert_eq!(back.gdb_deserialize(&[&packet[..], &[0]].concat()), Err(()));
    }

    #[test]
    fn description_has_as_many_bits_as_a_packet() {
        let xml = description();
        let bits = xml.split(r#"bitsize=""#).skip(1).map(|rest| {
            let end = rest.find('"').unwrap();
            rest[..end].parse::<usize>().unwrap()
        });
        assert_eq!(bits.sum::<usize>() / 8, bytes(&VcpuRegisters::default()).len());
    }

    #[test]
    fn tag_word_comes_back() {
        let fpu = kvm_fpu { fcw: 0x37f, ftwx: 0b1010_0001, ..kvm_fpu::default() };
        let shown = x87(&fpu);
        assert_eq!(shown.ftag, 0b00_11_00_11_11_11_11_00);
        let mut back = kvm_fpu::default();
        set_x87(&mut back, &shown);
        assert_eq!((back.fcw, back.ftwx), (0x37f, 0b1010_0001));
    }
}
