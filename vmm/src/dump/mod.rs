//! A vCPU laid open: registers, the instruction, the way to it through the page tables, the stack; with names where
//! the kernel has symbols. Taken of every vCPU when a machine ends badly, and on demand.

mod symbols;
mod text;
mod walk;

use std::path::Path;

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

pub use walk::{PageWalk, WalkEnd, WalkEntry};

use crate::memory::{MemoryView, Readable};
use crate::vcpu::state::{MpState, Registers, SpecialRegisters, hex};

/// How many bytes before and from RIP on are shown.
const CODE_BEFORE: u64 = 32;
const CODE_FROM: usize = 32;
/// How many words of the stack are shown.
const STACK_WORDS: usize = 64;

/// One vCPU, laid open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuDump {
    /// Which vCPU.
    pub index: u32,
    /// What made it leave the guest for the last time, or why it was looked at.
    pub why: String,
    /// What it is doing: running, halted, waiting to be started.
    pub mp_state: MpState,
    /// RIP by name (`function+0xoffset`), if the kernel's symbols tell.
    pub symbol: Option<String>,
    /// The general registers.
    pub registers: Registers,
    /// Segment, table and control registers.
    pub special: SpecialRegisters,
    /// The way to the instruction.
    pub walk: PageWalk,
    /// The bytes around it.
    pub code: Code,
    /// The last words on the stack.
    pub stack: Vec<StackWord>,
}

/// The bytes around an instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Those before RIP, as many as are mapped.
    #[serde(with = "hex::bytes")]
    pub before: Vec<u8>,
    /// Those from RIP on, as many as are mapped: none if RIP is where nothing is.
    #[serde(with = "hex::bytes")]
    pub from: Vec<u8>,
}

/// A word on the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackWord {
    /// Where it is: a linear address.
    #[serde(with = "hex")]
    pub address: u64,
    /// What it is.
    #[serde(with = "hex")]
    pub value: u64,
    /// Its name, where it is an address in code.
    pub symbol: Option<String>,
}

impl VcpuDump {
    /// Looks at a vCPU that is out of the guest.
    ///
    /// # Errors
    /// KVM does not tell its registers.
    pub(crate) fn take(
        vcpu: &VcpuFd,
        index: u32,
        why: String,
        memory: &(impl Readable + ?Sized),
    ) -> Result<Self, kvm_ioctls::Error> {
        let registers = Registers::from(vcpu.get_regs()?);
        let special = SpecialRegisters::from(vcpu.get_sregs()?);
        // A machine without interrupt controllers has no such state: its vCPU is never but running.
        let mp_state = vcpu.get_mp_state().map_or(MpState::Runnable, MpState::from);
        let linear = special.linear(&special.cs, registers.rip);
        let lost = if is_reset(&registers, &special) { LOST } else { "" };
        Ok(Self {
            index,
            why: format!("{why}{lost}"),
            mp_state,
            symbol: None,
            registers,
            special,
            walk: PageWalk::new(memory, &special, linear),
            code: code(memory, &special, linear),
            stack: stack(memory, &special, registers.rsp),
        })
    }
}

/// Said of a vCPU that stands where it was before its first instruction: KVM resets it at a shutdown on AMD's processors,
/// which leave its state undefined then.
const LOST: &str = "; it stands at its reset vector: if KVM reset it, as it does at a shutdown on AMD's processors, where it stood is lost";

/// Whether the registers are those of a reset (Intel SDM, volume 3, table 10-1).
fn is_reset(registers: &Registers, special: &SpecialRegisters) -> bool {
    (special.cs.base, special.cs.selector, registers.rip) == (0xffff_0000, 0xf000, 0xfff0)
}

fn code(memory: &(impl Readable + ?Sized), special: &SpecialRegisters, linear: u64) -> Code {
    let from = walk::read(memory, special, linear, CODE_FROM);
    // What is before may lie on a page that is not there.
    let within_page = linear % 4096;
    let far = linear.saturating_sub(CODE_BEFORE);
    let length = |start: u64| usize::try_from(linear - start).unwrap_or(0);
    let mut before = walk::read(memory, special, far, length(far));
    if before.len() != length(far) {
        let near = linear - within_page.min(CODE_BEFORE);
        before = walk::read(memory, special, near, length(near));
    }
    Code { before, from }
}

/// The words from the stack pointer up, of the width that the code has.
fn stack(memory: &(impl Readable + ?Sized), special: &SpecialRegisters, rsp: u64) -> Vec<StackWord> {
    let width: usize = match (special.cs.long, special.cs.big) {
        (true, _) => 8,
        (_, true) => 4,
        _ => 2,
    };
    let start = special.linear(&special.ss, if width == 2 { rsp & 0xffff } else { rsp });
    let bytes = walk::read(memory, special, start, STACK_WORDS * width);
    let word = |(index, chunk): (u64, &[u8])| {
        let mut value = [0; 8];
        value.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        let address = start.wrapping_add(index * u64::try_from(width).unwrap_or(8));
        StackWord { address, value: u64::from_le_bytes(value), symbol: None }
    };
    (0..).zip(bytes.chunks_exact(width)).map(word).collect()
}

/// Names what can be named in `dumps`, by the symbols of `kernel`.
pub(crate) fn name(dumps: &mut [VcpuDump], kernel: &Path) {
    let addresses: Vec<u64> = dumps
        .iter()
        .flat_map(|dump| std::iter::once(dump.registers.rip).chain(dump.stack.iter().map(|word| word.value)))
        .collect();
    let mut names = symbols::names(kernel, &addresses).into_iter();
    for dump in dumps {
        dump.symbol = names.next().flatten();
        for word in &mut dump.stack {
            word.symbol = names.next().flatten();
        }
    }
}

/// Reads guest memory at linear addresses, as the vCPU whose registers these are sees them; fewer bytes where the
/// mapping, or RAM, ends.
#[must_use]
pub fn read_linear(
    memory: &(impl Readable + ?Sized),
    special: &SpecialRegisters,
    linear: u64,
    length: usize,
) -> Vec<u8> {
    walk::read(memory, special, linear, length)
}

/// Writes guest RAM at linear addresses, by the tables in `view`; tells how many bytes it wrote before the mapping, or RAM,
/// ended. Rights of pages are not looked at: a debugger's breakpoints go into read-only code.
#[must_use]
pub fn write_linear(view: &MemoryView, special: &SpecialRegisters, linear: u64, bytes: &[u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let Some(at) = u64::try_from(done).ok().and_then(|done| linear.checked_add(done)) else { break };
        let Some(physical) = PageWalk::new(view, special, at).physical() else { break };
        let room = usize::try_from(4096 - at % 4096).unwrap_or(0).min(rest.len());
        let Some(piece) = rest.get(..room) else { break };
        if view.ram().write_slice(piece, GuestAddress(physical)).is_err() {
            break;
        }
        done += room;
    }
    done
}

#[cfg(test)]
mod tests;
