//! A dump for people.

use std::fmt;

use super::{VcpuDump, WalkEnd};
use crate::vcpu::state::Segment;

/// How many words of a stack without a single name are shown: nobody reads more.
const BARE_WORDS: usize = 8;

impl fmt::Display for VcpuDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (r, s) = (&self.registers, &self.special);
        writeln!(f, "vCPU {} ({}): {}", self.index, self.mp_state, self.why)?;
        let name = self.symbol.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        writeln!(f, "  RIP {:04x}:{:016x}{name} RFLAGS {:08x}", s.cs.selector, r.rip, r.rflags)?;
        let named = [
            [("RAX", r.rax), ("RBX", r.rbx), ("RCX", r.rcx), ("RDX", r.rdx)],
            [("RSI", r.rsi), ("RDI", r.rdi), ("RBP", r.rbp), ("RSP", r.rsp)],
            [("R8 ", r.r8), ("R9 ", r.r9), ("R10", r.r10), ("R11", r.r11)],
            [("R12", r.r12), ("R13", r.r13), ("R14", r.r14), ("R15", r.r15)],
            [("CR0", s.cr0), ("CR2", s.cr2), ("CR3", s.cr3), ("CR4", s.cr4)],
        ];
        for line in named {
            write!(f, " ")?;
            for (name, value) in line {
                write!(f, " {name} {value:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "  CR8 {:x} EFER {:x} APIC base {:x}", s.cr8, s.efer, s.apic_base)?;
        let segments =
            [("CS", &s.cs), ("DS", &s.ds), ("ES", &s.es), ("FS", &s.fs), ("GS", &s.gs), ("SS", &s.ss)];
        for (name, segment) in segments.into_iter().chain([("TR", &s.tr), ("LDT", &s.ldt)]) {
            self::segment(f, name, segment)?;
        }
        let (gdt, idt) = (&s.gdt, &s.idt);
        writeln!(
            f,
            "  GDT {:x}, limit {:x}; IDT {:x}, limit {:x}",
            gdt.base, gdt.limit, idt.base, idt.limit
        )?;
        self.walk(f)?;
        self.code(f)?;
        self.stack(f)
    }
}

fn segment(f: &mut fmt::Formatter<'_>, name: &str, segment: &Segment) -> fmt::Result {
    let Segment { selector, base, limit, kind, dpl, .. } = segment;
    let flags = [
        (segment.unusable, " unusable"),
        (!segment.present, " not present"),
        (segment.long, " 64-bit"),
        (segment.big, " 32-bit"),
    ];
    let flags: String = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).collect();
    writeln!(f, "  {name:3} {selector:04x} base {base:x} limit {limit:x} type {kind:x} DPL {dpl}{flags}")
}

impl VcpuDump {
    fn walk(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  page walk of {:x}:", self.walk.linear)?;
        for entry in &self.walk.entries {
            write!(f, " {} at {:x} is {:x},", entry.table, entry.address, entry.value)?;
        }
        match &self.walk.end {
            WalkEnd::Mapped { physical } => writeln!(f, " physical {physical:x}"),
            WalkEnd::NotPresent => writeln!(f, " not present"),
            WalkEnd::NotRam { physical } => writeln!(f, " the next table, at {physical:x}, is not in RAM"),
            WalkEnd::NotCanonical => writeln!(f, " not canonical"),
        }
    }

    /// As Linux has it: the byte that RIP points at in angle brackets.
    fn code(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.from.is_empty() {
            return writeln!(f, "  code: there is none in RAM");
        }
        write!(f, "  code:")?;
        for byte in &self.code.before {
            write!(f, " {byte:02x}")?;
        }
        for (index, byte) in self.code.from.iter().enumerate() {
            if index == 0 { write!(f, " <{byte:02x}>")? } else { write!(f, " {byte:02x}")? }
        }
        writeln!(f)
    }

    fn stack(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named = self.stack.iter().filter(|word| word.symbol.is_some()).peekable();
        if named.peek().is_some() {
            writeln!(f, "  code addresses on the stack, not all of them callers:")?;
            for word in named {
                let name = word.symbol.as_deref().unwrap_or_default();
                writeln!(f, "    {:x}: {:016x} {name}", word.address, word.value)?;
            }
            return Ok(());
        }
        write!(f, "  stack:")?;
        for word in self.stack.iter().take(BARE_WORDS) {
            write!(f, " {:x}", word.value)?;
        }
        writeln!(f, "{}", if self.stack.is_empty() { " there is none in RAM" } else { "" })
    }
}
