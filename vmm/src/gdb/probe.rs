//! What this host's KVM stops a guest at: one that emulates code does not at watchpoints and `int3`, one that is itself under
//! an emulator at no debug register. Silence would look like a guest that never comes by.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use gdbstub::target::ext::breakpoints::WatchKind;

use super::breakpoints::Breakpoints;
use crate::config::{Boot, CpuMode, MachineConfig};
use crate::layout::HIGH_MEMORY;
use crate::machine::{Machine, MachineIo, Owner};
use crate::outcome::Outcome;
use crate::vcpu::{DebugRequest, Trap, VcpuStop};

/// Longer than the probe takes on the slowest of hosts.
const LIMIT: Duration = Duration::from_secs(10);
/// The probe's data: conventional memory.
const DATA: u64 = 0x8_0000;
/// Where in the probe the watched instruction ends.
const AFTER: u64 = 7;

/// The instruction before it, and in its place.
const NOP: u8 = 0x90;
const INT3: u8 = 0xcc;

/// What a host's KVM stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Support {
    /// Debug registers stop at instructions.
    pub(crate) execute: bool,
    /// Debug registers stop at accesses to data.
    pub(crate) watch: bool,
    /// The instruction for breakpoints in memory.
    pub(crate) trap: Trap,
}

/// Tries it on the KVM at `node`, once a process, with a payload of a few instructions; some milliseconds.
pub(crate) fn support(node: &Path) -> Support {
    static FOUND: Mutex<BTreeMap<PathBuf, Support>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    *found.entry(node.to_owned()).or_insert_with(|| {
        let (mut execute, mut watch) = (Breakpoints::new(Trap::Int3), Breakpoints::new(Trap::Int3));
        execute.add_execute(HIGH_MEMORY + AFTER);
        watch.add_watch(DATA, 4, WatchKind::Write);
        let registers = |breakpoints: &Breakpoints| DebugRequest {
            hardware: breakpoints.registers(),
            ..DebugRequest::default()
        };
        let software = DebugRequest { software: Some(Trap::Int3), ..DebugRequest::default() };
        Support {
            execute: stop(node, registers(&execute), NOP)
                .is_some_and(|stop| matches!(stop, VcpuStop::Debug(_))),
            watch: stop(node, registers(&watch), NOP).is_some_and(|stop| matches!(stop, VcpuStop::Debug(_))),
            trap: match stop(node, software, INT3) {
                Some(VcpuStop::Debug(_)) => Trap::Int3,
                Some(VcpuStop::Fatal { outcome: Outcome::InternalError { .. }, .. }) => Trap::Emulated,
                _ => Trap::Out,
            },
        }
    })
}

/// What the probe, with this instruction in it, stops for first; what can't be tried does not.
fn stop(node: &Path, request: DebugRequest, instruction: u8) -> Option<VcpuStop> {
    let [low, high, ..] = DATA.to_le_bytes();
    // mov [DATA], eax; the instruction; xor eax, eax; out 0xf4, al; hlt
    let code = vec![0x89, 0x04, 0x25, low, high, 8, 0, instruction, 0x31, 0xc0, 0xe6, 0xf4, 0xf4];
    let config = MachineConfig {
        memory: 2 << 20,
        boot: Boot::Flat { code, address: HIGH_MEMORY, mode: CpuMode::Long64 },
        probe: false,
        virtio_console: false,
        ..MachineConfig::default()
    };
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: Vec::new() };
    let machine = Machine::new_on(node, &config, io).ok()?;
    let (controller, owner) = (machine.controller(), Owner::new("probe"));
    let (stops, stopped) = mpsc::channel();
    let stopper = controller.clone();
    let told = move |stop: &VcpuStop| {
        let _nobody_waits = stops.send(stop.clone());
        stopper.stop();
        true
    };
    let begun = controller.hold(&owner).is_ok() && controller.attach_debugger(&owner, told).is_ok();
    let running = machine.start().ok()?;
    if begun && controller.set_debug_requests(vec![request]).is_ok() && controller.release(&owner).is_ok() {
        drop(running.wait(Some(Instant::now() + LIMIT)));
    }
    stopped.try_recv().ok()
}
