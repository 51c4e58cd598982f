//! The instruction trace, and stops that a debugger is told of.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, linkme};
use kiln::gate::Needs;
use kiln::vmm::machine::{Controller, DebugRequest, Ended, MachineState, Owner, VcpuStop};
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
        case("stop_pauses_the_machine_and_a_debugger_is_told", told),
        case("stop_that_nobody_wants_ends_the_machine", unwanted),
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

/// Has KVM stop the vCPU after each instruction, as a debugger would. (QEMU's emulator, which the lab is made of, has no
/// breakpoints of the hardware's for nested guests.)
fn step(machine: &Controller) -> Result<()> {
    Ok(machine.set_debug_requests(vec![DebugRequest { step: true, ..DebugRequest::default() }])?)
}

fn told() -> Result<()> {
    with(machine("count")?, |machine| {
        moved(machine, 0)?;
        let (stops, told) = mpsc::channel();
        let owner = Owner::new("debugger");
        machine.attach_debugger(&owner, move |stop| stops.send(stop.clone()).is_ok())?;
        assert!(machine.attach_debugger(&owner, |_| true).is_err(), "one at a time");
        step(machine)?;
        let mut last = None;
        for _ in 0..20 {
            let VcpuStop::Debug(stop) = told.recv_timeout(LIMIT)? else { return Err("no step".into()) };
            machine.hold(&owner)?;
            let rip = machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??.rip;
            assert_eq!((stop.cpu, stop.exception, stop.pc), (0, 1, rip));
            assert!([0x10_0002, 0x10_0005].contains(&rip) && last != Some(rip), "{last:x?}, {rip:#x}");
            assert_eq!(machine.state(), MachineState::Paused);
            assert!(told.try_recv().is_err(), "a stop each time that it goes on");
            last = Some(rip);
            machine.release(&owner)?;
        }
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn unwanted() -> Result<()> {
    let ended = with(machine("count")?, |machine| {
        moved(machine, 0)?;
        step(machine)
    })?;
    let exit = |rip: u64| Outcome::UnexpectedExit { cpu: 0, exit: format!("KVM_EXIT_DEBUG at {rip:#x}") };
    expect(&ended, &exit(0x10_0002)).or_else(|_| expect(&ended, &exit(0x10_0005)))
}
