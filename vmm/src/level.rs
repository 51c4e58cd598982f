//! What a host's KVM can run: nothing, bare-metal payloads, or Linux.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::chain;
use crate::config::{Boot, CpuMode, MachineConfig};
use crate::kvm;
use crate::layout::{DEBUG_EXIT, HIGH_MEMORY};
use crate::machine::{Machine, MachineError, MachineIo};
use crate::outcome::Outcome;
use crate::vcpu::CODE_SELECTOR;

/// A host's level of KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    /// Linux runs.
    Linux,
    /// Bare-metal payloads run.
    Payload {
        /// Why Linux does not.
        reason: String,
    },
    /// Nothing runs.
    None {
        /// Why.
        reason: String,
    },
}

impl Level {
    /// The name that reports and scripts use.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Payload { .. } => "payload",
            Self::None { .. } => "none",
        }
    }
}

/// Longer than the probe takes on the slowest of hosts.
const LIMIT: Duration = Duration::from_secs(10);
/// What the probe writes to the debug-exit port once the interrupt has returned.
const RETURNED: u8 = 0;
/// Where in the probe its interrupt descriptor table is.
const IDT: u8 = 0x40;
/// Where in the probe its breakpoint handler is.
const HANDLER: u8 = 0x30;
/// The breakpoint exception's vector (Intel SDM, volume 3, table 6-1).
const BREAKPOINT: usize = 3;

/// Finds out what `node` can run, by running a payload that takes an exception and comes back from it.
///
/// Where KVM emulates supervisor-mode code, that is where it ends: Linux takes its first exception early. It takes
/// some milliseconds.
#[must_use]
pub fn probe(node: &Path) -> Level {
    if let Err(error) = kvm::open(node) {
        return Level::None { reason: chain(&error) };
    }
    match run(node) {
        Ok(Outcome::DebugExit { value }) if value == u32::from(RETURNED) => Level::Linux,
        Ok(Outcome::InternalError { suberror, .. }) => Level::Payload {
            reason: format!(
                "KVM can't run an exception handler: it emulates supervisor-mode code (KVM_EXIT_INTERNAL_ERROR, suberror {suberror})"
            ),
        },
        Ok(Outcome::TripleFault { .. } | Outcome::Halted) => {
            Level::Payload { reason: "KVM does not deliver exceptions to a payload's handler".to_owned() }
        }
        Ok(other) => Level::None { reason: format!("a payload could not run: {other:?}") },
        Err(error) => Level::None { reason: chain(&error) },
    }
}

fn run(node: &Path) -> Result<Outcome, MachineError> {
    let config = MachineConfig {
        memory: 2 << 20,
        boot: Boot::Flat { code: code(), address: HIGH_MEMORY, mode: CpuMode::Long64 },
        probe: false,
        virtio_console: false,
        ..MachineConfig::default()
    };
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: Vec::new() };
    let running = Machine::new_on(node, &config, io)?.start()?;
    Ok(running.wait(Some(Instant::now() + LIMIT)).outcome)
}

/// The probe: 64-bit code, a handler, an IDT up to the breakpoint's gate and the table's descriptor.
fn code() -> Vec<u8> {
    const GATE: usize = 16;
    let descriptor = usize::from(IDT) + (BREAKPOINT + 1) * GATE;
    let mut code = vec![0; descriptor + 10];
    let address = |offset: usize| HIGH_MEMORY + offset as u64;
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in code.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    let mut start = vec![0x48, 0xbc]; // mov rsp, imm64: anywhere in conventional memory
    start.extend(0x8_0000u64.to_le_bytes());
    start.extend([0x48, 0xb8]); // mov rax, imm64: the table's descriptor
    start.extend(address(descriptor).to_le_bytes());
    start.extend([0x0f, 0x01, 0x18]); // lidt [rax]
    start.push(0xcc); // int3
    start.extend([0xb0, RETURNED]); // mov al, RETURNED
    start.extend([0xe6, u8::try_from(DEBUG_EXIT).unwrap_or(0)]); // out DEBUG_EXIT, al
    start.push(0xf4); // hlt
    put(0, &start);
    put(usize::from(HANDLER), &[0x48, 0xcf]); // iretq
    // An interrupt gate, present (Intel SDM, volume 3, §6.14.1).
    let handler = address(usize::from(HANDLER)).to_le_bytes();
    let selector = CODE_SELECTOR.to_le_bytes();
    let gate = [
        handler[0],
        handler[1],
        selector[0],
        selector[1],
        0,
        0x8e,
        handler[2],
        handler[3],
        handler[4],
        handler[5],
    ];
    put(usize::from(IDT) + BREAKPOINT * GATE, &gate);
    let limit = u16::try_from((BREAKPOINT + 1) * GATE - 1).unwrap_or(0);
    put(descriptor, &limit.to_le_bytes());
    put(descriptor + 2, &address(usize::from(IDT)).to_le_bytes());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_is_no_level() {
        let Level::None { reason } = probe(Path::new("/dev/no-such-kvm")) else { panic!("a level") };
        assert!(reason.contains("/dev/no-such-kvm does not exist"), "{reason}");
    }

    #[test]
    fn file_that_is_no_kvm_is_no_level() {
        assert!(matches!(probe(Path::new("/dev/null")), Level::None { .. }));
    }

    #[test]
    fn parts_of_the_probe_do_not_overlap() {
        let code = code();
        assert_eq!(code.iter().take(usize::from(HANDLER)).rposition(|byte| *byte == 0xf4), Some(28));
        assert_eq!(code.get(usize::from(HANDLER)..usize::from(HANDLER) + 2), Some(&[0x48, 0xcf][..]));
    }
}
