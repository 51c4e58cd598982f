//! The instruction trace, and breakpoints told to a debugger.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, linkme};
use kiln::gate::Needs;
use kiln::vmm::kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug, kvm_regs};
use kiln::vmm::machine::{Controller, Ended, MachineState};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::trace::ExitKind;

use super::control::{Result, expect, machine, moved, with};

/// Far more than a few hundred steps take on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static STEPS: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::steps::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("every_instruction_is_traced_from_the_first_to_the_limit", traced),
        case("trace_that_is_ended_lets_the_guest_run", ended),
        case("trace_ends_with_the_machine", to_the_end),
        case("breakpoint_pauses_the_machine_and_is_told", breakpoint),
        case("breakpoint_that_nobody_wants_ends_the_machine", unwanted),
    ]
};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

/// Where the payload `count` goes: past the first instruction, then round and round.
fn expected(count: usize) -> Vec<String> {
    let rips = [0x10_0000].into_iter().chain([0x10_0002, 0x10_0005].into_iter().cycle());
    rips.take(count).map(|rip: u64| format!("0 {rip:016x}")).collect()
}

/// Starts the payload `name` with a trace from its first instruction on.
fn from_the_start(
    name: &str,
    limit: u64,
    body: impl FnOnce(&Controller, &Sink) -> Result<()> + Send,
) -> Result<Ended> {
    let machine = machine(name)?;
    machine.controller().pause()?;
    let sink = Sink::default();
    with(machine, |machine| {
        machine.trace_instructions(limit, Box::new(sink.clone()))?;
        machine.resume()?;
        body(machine, &sink)
    })
}

fn traced() -> Result<()> {
    let ended = from_the_start("count", 500, |machine, sink| {
        let deadline = Instant::now() + LIMIT;
        while sink.lines().len() < 500 && Instant::now() < deadline {
            machine.run_on_vcpu(0, |_| ())?;
        }
        // It goes on, untraced.
        moved(machine, moved(machine, 0)?)?;
        machine.stop();
        assert_eq!(sink.lines(), expected(500));
        Ok(())
    })?;
    assert_eq!(ended.trace.exits(ExitKind::Debug), 499);
    expect(&ended, &Outcome::Stopped)
}

fn ended() -> Result<()> {
    from_the_start("count", u64::MAX, |machine, sink| {
        moved(machine, 0)?;
        machine.end_instruction_trace()?;
        let lines = sink.lines();
        assert!(lines.len() > 2 && lines == expected(lines.len()), "{lines:?}");
        moved(machine, moved(machine, 0)?)?;
        assert_eq!(sink.lines().len(), lines.len());
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn to_the_end() -> Result<()> {
    let (sinks, sink) = mpsc::channel();
    let ended = from_the_start("pass", u64::MAX, move |_, sink| Ok(sinks.send(sink.clone())?))?;
    let last = sink.recv()?.lines().pop().unwrap_or_default();
    let code = kiln::fixtures::by_name("pass").ok_or("no payload")?.code;
    // `out %eax, $0xf4`.
    let out = code.windows(2).position(|bytes| bytes == [0xe7, 0xf4]).ok_or("no out")?;
    let at = u64::try_from(out)? + 0x10_0000;
    assert!(last == format!("0 {at:016x}") || last == format!("0 {:016x}", at + 2), "{last}");
    expect(&ended, &Outcome::DebugExit { value: 0 })
}

/// Has KVM stop the vCPU where the payload `count` jumps back.
fn break_at_the_jump(machine: &Controller) -> Result<()> {
    let mut debug =
        kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, ..Default::default() };
    // DR0, DR6, DR7: the first breakpoint, on execution.
    (debug.arch.debugreg[0], debug.arch.debugreg[7]) = (0x10_0005, 0x402);
    Ok(machine.run_on_vcpu(0, move |vcpu| vcpu.set_guest_debug(&debug))??)
}

fn breakpoint() -> Result<()> {
    with(machine("count")?, |machine| {
        moved(machine, 0)?;
        let (stops, told) = mpsc::channel();
        machine.set_debugger(Some(move |stop| stops.send(stop).unwrap_or_default()));
        break_at_the_jump(machine)?;
        let mut last = 0;
        for _ in 0..10 {
            let stop = told.recv_timeout(LIMIT)?;
            machine.pause()?;
            let regs = machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??;
            assert_eq!((stop.cpu, stop.exception, stop.pc, regs.rip), (0, 1, 0x10_0005, 0x10_0005));
            assert_eq!(machine.state(), MachineState::Paused);
            assert!(last == 0 || regs.rax == last + 1, "{last} and {}: once a round", regs.rax);
            last = regs.rax;
            // Past the breakpoint, as a debugger would: where the jump leads.
            machine.run_on_vcpu(0, move |vcpu| vcpu.set_regs(&kvm_regs { rip: 0x10_0002, ..regs }))??;
            machine.resume()?;
        }
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn unwanted() -> Result<()> {
    let ended = with(machine("count")?, |machine| {
        moved(machine, 0)?;
        break_at_the_jump(machine)
    })?;
    expect(&ended, &Outcome::UnexpectedExit { cpu: 0, exit: "KVM_EXIT_DEBUG at 0x100005".to_owned() })
}
