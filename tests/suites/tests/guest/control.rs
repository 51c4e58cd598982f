//! A Linux guest under the host's control: paused, interrupted, its processors looked at.

use std::time::{Duration, Instant};

use kiln::agent::Command;
use kiln::cases::Guest;
use kiln::vm_test;
use kiln::vmm::machine::{Controller, MachineState};
use kiln::vmm::trace::ExitKind;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// Has both processors busy: one talks on the UART, and so counts in exits, the other only runs.
fn keep_busy(guest: &Guest) -> Result {
    let script = "while :; do :; done & while :; do echo counting; done > /dev/ttyS0";
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    // It goes with the guest.
    let _process = guest.client().exec(Command { argv, ..Command::default() })?;
    Ok(())
}

/// How many bytes the guest has written to ports.
fn written(machine: &Controller) -> Result<u64> {
    let trace = machine.trace()?;
    Ok(trace.vcpus.iter().filter_map(|vcpu| vcpu.exits.get(&ExitKind::IoOut)).sum())
}

/// Where each vCPU is, and what is in its registers.
fn registers(machine: &Controller) -> Result<Vec<[u64; 4]>> {
    let all = machine.run_on_all_vcpus(|_, vcpu| vcpu.get_regs().map(|r| [r.rip, r.rsp, r.rax, r.rcx]))?;
    Ok(all.into_iter().collect::<std::result::Result<_, _>>()?)
}

fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("it never came that {what}").into());
        }
    }
    Ok(())
}

#[vm_test(cpus = 2)]
fn pause_holds_busy_processors_still_and_resume_goes_on(guest: &mut Guest) -> Result {
    keep_busy(guest)?;
    let machine = guest.machine();
    for _ in 0..100 {
        let before = written(machine)?;
        wait_for("the counter goes on", || Ok(written(machine)? > before))?;
        machine.pause()?;
        assert_eq!(machine.state(), MachineState::Paused);
        let held = (written(machine)?, registers(machine)?);
        for _ in 0..10 {
            assert_eq!((written(machine)?, registers(machine)?), held);
        }
        machine.resume()?;
    }
    Ok(())
}

#[vm_test(cpus = 2)]
fn pause_holds_idle_processors_and_resume_goes_on(guest: &mut Guest) -> Result {
    for _ in 0..20 {
        guest.machine().pause()?;
        let held = registers(guest.machine())?;
        assert_eq!(registers(guest.machine())?, held);
        guest.machine().resume()?;
        assert_eq!(guest.run(&["/bin/echo", "awake"])?.stdout, b"awake\n");
    }
    Ok(())
}

/// The counts in the line of `/proc/interrupts` for non-maskable interrupts, a processor each.
fn nmis(guest: &Guest) -> Result<Vec<u64>> {
    let text = String::from_utf8(guest.run(&["/bin/cat", "/proc/interrupts"])?.stdout)?;
    let line =
        text.lines().find_map(|line| line.trim_start().strip_prefix("NMI:")).ok_or("no line for NMIs")?;
    Ok(line.split_whitespace().map_while(|word| word.parse().ok()).collect())
}

#[vm_test(cpus = 2)]
fn nmi_is_counted_by_the_processor_that_it_is_for(guest: &mut Guest) -> Result {
    let before = nmis(guest)?;
    assert_eq!(before.len(), 2, "{before:?}");
    guest.machine().nmi(1)?;
    wait_for("processor 1 counts one", || Ok(nmis(guest)?.get(1) > before.get(1)))?;
    assert_eq!(nmis(guest)?.first(), before.first());
    guest.machine().nmi(0)?;
    wait_for("processor 0 counts one", || Ok(nmis(guest)?.first() > before.first()))?;
    Ok(())
}

#[vm_test(cpus = 4)]
fn every_processor_tells_where_it_is_while_it_runs(guest: &mut Guest) -> Result {
    keep_busy(guest)?;
    let machine = guest.machine();
    for _ in 0..20 {
        let rips = machine.run_on_all_vcpus(|cpu, vcpu| vcpu.get_regs().map(|regs| (cpu, regs.rip)))?;
        for (expected, rip) in (0..).zip(&rips) {
            assert!(matches!(rip, Ok((cpu, rip)) if *cpu == expected && *rip != 0), "{rips:?}");
        }
        assert_eq!((rips.len(), machine.state()), (4, MachineState::Running));
    }
    Ok(())
}
