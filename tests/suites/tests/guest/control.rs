//! A Linux guest under the host's control: paused, interrupted, its processors looked at.

use std::time::{Duration, Instant};

use kiln::agent::{Command, Process};
use kiln::cases::Guest;
use kiln::vmm::control::protocol::{Dump, Request, Stats, Status};
use kiln::vmm::machine::{Controller, MachineState};
use kiln::{fixtures, vm_test};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);
/// Where a program that counts is put in the guest.
const PROGRAM: &str = "/tmp/count";

/// Has `count` processors busy: each counts in RAX, in user mode. They go on as long as what is returned lives.
fn keep_busy(guest: &Guest, count: usize) -> Result<Vec<Process>> {
    let program = fixtures::by_name("count").ok_or("no payload of that name")?;
    guest.client().put(PROGRAM, 0o755, &mut program.elf().as_slice())?;
    let command = || Command { argv: vec![PROGRAM.to_owned()], ..Command::default() };
    (0..count).map(|_| Ok(guest.client().exec(command())?)).collect()
}

/// Where each vCPU is, and what is in its registers.
fn registers(machine: &Controller) -> Result<Vec<[u64; 4]>> {
    let all = machine.run_on_all_vcpus(|_, vcpu| vcpu.get_regs().map(|r| [r.rip, r.rsp, r.rax, r.rcx]))?;
    Ok(all.into_iter().collect::<std::result::Result<_, _>>()?)
}

/// The counter of the program that runs, if one does on some vCPU.
fn counter(registers: &[[u64; 4]]) -> Option<u64> {
    let program = fixtures::by_name("count")?;
    let code = program.address..program.address + u64::try_from(program.code.len()).ok()?;
    registers.iter().filter(|[rip, ..]| code.contains(rip)).map(|[_, _, rax, _]| *rax).max()
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
fn pause_holds_a_counter_still_and_resume_goes_on(guest: &mut Guest) -> Result {
    let _busy = keep_busy(guest, 1)?;
    let machine = guest.machine();
    let mut last = 0;
    for _ in 0..100 {
        wait_for("the counter goes on", || {
            // A pause right after a resume may leave a processor no time at all: the answer says that it had some.
            read(guest, "/proc/uptime")?;
            machine.pause()?;
            let held = registers(machine)?;
            let goes_on = counter(&held).filter(|now| *now > last);
            if goes_on.is_none() {
                machine.resume()?;
            }
            last = goes_on.unwrap_or(last);
            Ok(goes_on.is_some())
        })?;
        assert_eq!(machine.state(), MachineState::Paused);
        let held = registers(machine)?;
        assert_eq!(counter(&held), Some(last));
        for _ in 0..10 {
            assert_eq!(registers(machine)?, held);
        }
        machine.resume()?;
    }
    Ok(())
}

#[vm_test(control = true)]
fn sysrq_over_the_control_socket_is_obeyed_by_the_console(guest: &mut Guest) -> Result {
    let mut control = guest.control()?;
    let level = |guest: &Guest| -> Result<Option<String>> {
        Ok(read(guest, "/proc/sys/kernel/printk")?.split_whitespace().next().map(str::to_owned))
    };
    for key in ['7', '4'] {
        control.ask(Request::Sysrq { key })?;
        wait_for("the console's level is what was asked for", || Ok(level(guest)? == Some(key.to_string())))?;
    }
    Ok(())
}

#[vm_test(cpus = 2, control = true)]
fn clients_pause_dump_and_resume_a_guest(guest: &mut Guest) -> Result {
    let _busy = keep_busy(guest, 1)?;
    let mut control = guest.control()?;
    control.ask(Request::Pause { owner: None })?;
    let held = registers(guest.machine())?;
    let dump: Dump = control.ask_for(Request::Dump {})?;
    assert_eq!(dump.vcpus.len(), 2);
    let rips: Vec<u64> = dump.vcpus.iter().map(|vcpu| vcpu.registers.rip).collect();
    assert_eq!(rips, held.iter().map(|[rip, ..]| *rip).collect::<Vec<_>>());
    assert_eq!(registers(guest.machine())?, held);
    let stats: Stats = control.ask_for(Request::Stats {})?;
    assert!(stats.devices.contains_key("COM1") && stats.vcpus.iter().all(|exits| *exits > 0), "{stats:?}");
    control.ask(Request::Resume { owner: None })?;
    assert!(read(guest, "/proc/version")?.starts_with("Linux"));
    let status: Status = control.ask_for(Request::Status {})?;
    assert_eq!((status.state, status.cpus, status.memory), (MachineState::Running, 2, 256 << 20));
    Ok(())
}

#[vm_test(cpus = 2)]
fn pause_holds_idle_processors_and_resume_goes_on(guest: &mut Guest) -> Result {
    for _ in 0..20 {
        guest.machine().pause()?;
        let held = registers(guest.machine())?;
        assert_eq!(registers(guest.machine())?, held);
        guest.machine().resume()?;
        assert!(read(guest, "/proc/version")?.starts_with("Linux"));
    }
    Ok(())
}

fn read(guest: &Guest, path: &str) -> Result<String> {
    let mut bytes = Vec::new();
    guest.client().get(path, &mut bytes)?;
    Ok(String::from_utf8(bytes)?)
}

/// The counts in the line of `/proc/interrupts` for non-maskable interrupts, a processor each.
fn nmis(guest: &Guest) -> Result<Vec<u64>> {
    let text = read(guest, "/proc/interrupts")?;
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
    let _busy = keep_busy(guest, 2)?;
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

#[vm_test(cpus = 2)]
fn state_of_a_processor_read_and_written_back_changes_nothing(guest: &mut Guest) -> Result {
    let _busy = keep_busy(guest, 1)?;
    let machine = guest.machine();
    for _ in 0..10 {
        machine.pause()?;
        let before = machine.vcpu_states()?;
        machine.set_vcpu_states(before.clone())?;
        let after = machine.vcpu_states()?;
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.differences(before), [""; 0]);
        }
        machine.resume()?;
        assert!(read(guest, "/proc/version")?.starts_with("Linux"));
    }
    Ok(())
}
