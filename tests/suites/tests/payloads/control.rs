//! A machine under control: paused, its vCPUs asked, its non-maskable interrupts.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::fixtures::{self, Payload};
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, CPUS_MAX, CpuMode, MachineConfig};
use kiln::vmm::kvm::KvmError;
use kiln::vmm::machine::{Controller, Ended, Machine, MachineError, MachineIo, MachineState, Owner};
use kiln::vmm::outcome::Outcome;

pub(super) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a machine has that is looked at beyond its time.
const GLIMPSE: Duration = Duration::from_millis(100);
/// `KVM_MP_STATE_HALTED`.
const HALTED: u32 = 3;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static CONTROL: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::control::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()) as Came)
    };
    vec![
        case("pause_holds_a_spinning_vcpu_still", pause_holds_a_spinning_vcpu_still),
        case("pause_holds_a_halting_vcpu_still", pause_holds_a_halting_vcpu_still),
        case("machine_held_by_two_goes_on_when_both_have_let_go", machine_held_by_two),
        case("deadline_waits_for_those_who_look_at_a_machine", deadline_waits),
        case("paused_processors_rest", paused_processors_rest),
        case("paused_machine_can_be_stopped", paused_machine_can_be_stopped),
        case("machine_paused_before_its_start_has_not_moved", machine_paused_before_its_start_has_not_moved),
        case("nmi_reaches_a_halting_vcpu", nmi_reaches_a_halting_vcpu),
        case("nmi_of_a_paused_machine_waits_for_its_resume", nmi_of_a_paused_machine_waits_for_its_resume),
        case("nmi_waits_while_the_guest_masks_them", nmi_waits_for_the_guest),
        case("ended_machine_takes_no_work", ended_machine_takes_no_work),
        case("as_many_vcpus_as_there_can_be_answer_and_pause", as_many_vcpus_as_there_can_be),
    ]
};

pub(super) fn payload(name: &str) -> Result<&'static Payload> {
    Ok(fixtures::by_name(name).ok_or_else(|| io::Error::other(format!("no payload {name}")))?)
}

/// The machine for a payload, not yet started.
pub(super) fn machine(name: &str) -> Result<Machine> {
    let super::Staged(config, _) = super::flat(payload(name)?)?;
    build(&config)
}

/// A machine that halts with interrupts on, which no interrupt ever wakes.
fn idle() -> Result<Machine> {
    flat(vec![0xfb, 0xf4, 0xeb, 0xfc]) // sti; hlt; jmp to the start
}

/// The machine for a few bytes of 64-bit code.
pub(super) fn flat(code: Vec<u8>) -> Result<Machine> {
    let boot = Boot::Flat { code, address: 0x10_0000, mode: CpuMode::Long64 };
    build(&MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() })
}

pub(super) fn build(config: &MachineConfig) -> Result<Machine> {
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: Vec::new() };
    Ok(Machine::new(config, io)?)
}

/// Has `body` control the machine while it runs, ends it, and tells how it ended.
pub(super) fn with(machine: Machine, body: impl FnOnce(&Controller) -> Result<()> + Send) -> Result<Ended> {
    let controller = machine.controller();
    let running = machine.start()?;
    std::thread::scope(|scope| {
        let body = scope.spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(|| body(&controller)));
            if !matches!(done, Ok(Ok(()))) {
                controller.stop();
            }
            done.map_err(|_| "the case panicked".to_owned())?.map_err(|error| error.to_string())
        });
        let ended = running.wait(Some(Instant::now() + LIMIT));
        body.join().map_err(|_| "the case panicked")??;
        Ok(ended)
    })
}

fn rax(machine: &Controller) -> Result<u64> {
    Ok(machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??.rax)
}

/// Waits until the counter in RAX has left `from`.
pub(super) fn moved(machine: &Controller, from: u64) -> Result<u64> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match rax(machine)? {
            now if now != from => return Ok(now),
            _ if Instant::now() > deadline => return Err(format!("the counter stands at {from}").into()),
            _ => {}
        }
    }
}

pub(super) fn expect(ended: &Ended, outcome: &Outcome) -> Result<()> {
    if ended.outcome == *outcome { Ok(()) } else { Err(format!("it ended as {:?}", ended.outcome).into()) }
}

fn pause_holds_a_spinning_vcpu_still() -> Result<()> {
    let ended = with(machine("count")?, |machine| {
        let mut last = moved(machine, 0)?;
        for _ in 0..100 {
            machine.pause()?;
            assert_eq!(machine.state(), MachineState::Paused);
            let held = rax(machine)?;
            // Each look is a chance to slip into the guest.
            for _ in 0..20 {
                assert_eq!(rax(machine)?, held);
            }
            assert!(held >= last, "{held} after {last}");
            machine.resume()?;
            assert_eq!(machine.state(), MachineState::Running);
            last = moved(machine, held)?;
        }
        machine.stop();
        Ok(())
    })?;
    expect(&ended, &Outcome::Stopped)
}

/// How often the thread of a vCPU has gone to sleep (proc(5), `status`).
fn sleeps(machine: &Controller, cpu: u32) -> Result<u64> {
    let status = machine.run_on_vcpu(cpu, |_| std::fs::read_to_string("/proc/thread-self/status"))??;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.ok_or("the host does not tell")?.trim().parse()?)
}

fn paused_processors_rest() -> Result<()> {
    let super::Staged(config, _) = super::flat(payload("count")?)?;
    let ended = with(build(&MachineConfig { cpus: 2, ..config })?, |machine| {
        machine.pause()?;
        let before = sleeps(machine, 1)?;
        // For as long as another machine takes for this, two that wake each other do so thousands of times.
        let other = with(self::machine("count")?, |other| {
            let mut last = 0;
            for _ in 0..1000 {
                last = moved(other, last)?;
            }
            other.stop();
            Ok(())
        })?;
        expect(&other, &Outcome::Stopped)?;
        let times = sleeps(machine, 1)? - before;
        assert!(times < 50, "it woke {times} times");
        machine.stop();
        Ok(())
    })?;
    expect(&ended, &Outcome::Stopped)
}

/// Waits until the vCPU halts.
fn halted(machine: &Controller) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while machine.run_on_vcpu(0, |vcpu| vcpu.get_mp_state())??.mp_state != HALTED {
        if Instant::now() > deadline {
            return Err("it does not halt".into());
        }
    }
    Ok(())
}

fn pause_holds_a_halting_vcpu_still() -> Result<()> {
    let ended = with(idle()?, |machine| {
        halted(machine)?;
        for _ in 0..20 {
            machine.pause()?;
            let states = machine
                .run_on_all_vcpus(|cpu, vcpu| vcpu.get_mp_state().map(|state| (cpu, state.mp_state)))?;
            assert_eq!(states, [Ok((0, HALTED))]);
            machine.resume()?;
        }
        machine.stop();
        Ok(())
    })?;
    expect(&ended, &Outcome::Stopped)
}

fn machine_held_by_two() -> Result<()> {
    let (one, two) = (Owner::new("one"), Owner::new("two"));
    let ended = with(machine("count")?, |machine| {
        machine.hold(&one)?;
        machine.hold(&two)?;
        let held = rax(machine)?;
        machine.release(&two)?;
        machine.resume()?;
        assert_eq!((machine.state(), machine.holders()), (MachineState::Paused, vec!["one".to_owned()]));
        assert_eq!(rax(machine)?, held);
        machine.release(&one)?;
        moved(machine, held)?;
        machine.stop();
        Ok(())
    })?;
    expect(&ended, &Outcome::Stopped)
}

/// A machine whose deadline passes while it is held goes on afterwards; one that nobody looks at ends in time. How late
/// whoever waits for it comes makes no difference: it is held from before its deadline was set.
fn deadline_waits() -> Result<()> {
    for (owner, waits) in [(Owner::new("gdb"), true), (Owner::new("ci").with_running_deadline(), false)] {
        let machine = machine("count")?;
        let controller = machine.controller();
        controller.hold(&owner)?;
        let running = machine.start()?;
        let deadline = Instant::now() + GLIMPSE;
        let until = deadline + if waits { 5 * GLIMPSE } else { LIMIT };
        let looker = std::thread::spawn(move || {
            while controller.state() == MachineState::Paused && Instant::now() < until {
                std::thread::yield_now();
            }
            let state = controller.state();
            let _ended = controller.release(&owner);
            state
        });
        expect(&running.wait(Some(deadline)), &Outcome::Stopped)?;
        let state = looker.join().map_err(|_| "the looker panicked")?;
        assert_eq!(state == MachineState::Paused, waits, "{state:?}");
    }
    Ok(())
}

fn paused_machine_can_be_stopped() -> Result<()> {
    let ended = with(machine("count")?, |machine| {
        machine.pause()?;
        machine.stop();
        assert_eq!(machine.state(), MachineState::Stopped);
        Ok(())
    })?;
    expect(&ended, &Outcome::Stopped)
}

fn machine_paused_before_its_start_has_not_moved() -> Result<()> {
    let created = machine("count")?;
    assert_eq!(created.controller().state(), MachineState::Created);
    created.controller().pause()?;
    let ended = with(created, |machine| {
        let regs = machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??;
        assert_eq!((machine.state(), regs.rip, regs.rax), (MachineState::Paused, 0x10_0000, 0));
        machine.resume()?;
        moved(machine, 0)?;
        machine.reset();
        Ok(())
    })?;
    expect(&ended, &Outcome::Reset)
}

/// There is no handler: taking it is a triple fault.
fn nmi_reaches_a_halting_vcpu() -> Result<()> {
    let ended = with(idle()?, |machine| {
        halted(machine)?;
        Ok(machine.nmi(0)?)
    })?;
    expect(&ended, &Outcome::TripleFault { cpu: 0 })
}

fn nmi_of_a_paused_machine_waits_for_its_resume() -> Result<()> {
    let ended = with(machine("count")?, |machine| {
        machine.pause()?;
        machine.nmi(0)?;
        let held = rax(machine)?;
        assert_eq!(rax(machine)?, held);
        assert_eq!(machine.state(), MachineState::Paused);
        Ok(machine.resume()?)
    })?;
    expect(&ended, &Outcome::TripleFault { cpu: 0 })
}

/// A guest that masks NMIs at the clock's index port counts on, whatever comes, until it opens the port again.
fn nmi_waits_for_the_guest() -> Result<()> {
    let code = vec![
        0x31, 0xd2, // xor edx, edx
        0xb0, 0x80, 0xe6, 0x70, // mov al, 0x80; out 0x70, al: masked
        0x48, 0xff, 0xc1, // inc rcx
        0x48, 0x85, 0xd2, // test rdx, rdx
        0x74, 0xf8, // je back to the inc
        0x30, 0xc0, 0xe6, 0x70, // xor al, al; out 0x70, al: open
        0x48, 0xff, 0xc3, 0xeb, 0xfb, // inc rbx, and so on, if nothing comes
    ];
    let boot = Boot::Flat { code, address: 0x10_0000, mode: CpuMode::Long64 };
    let machine = build(&MachineConfig { memory: 16 << 20, rtc: true, boot, ..MachineConfig::default() })?;
    let mask = machine.nmi_mask();
    let ended = with(machine, |machine| {
        let deadline = Instant::now() + LIMIT;
        while !mask.masked() && Instant::now() < deadline {
            machine.run_on_vcpu(0, |_| ())?;
        }
        machine.nmi(0)?;
        machine.nmi(0)?;
        let rcx = || -> Result<u64> { Ok(machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??.rcx) };
        let from = rcx()?;
        while rcx()? < from + 1000 {
            if Instant::now() > deadline {
                return Err("the guest does not count on".into());
            }
        }
        let open = |vcpu: &mut kiln::vmm::kvm_ioctls::VcpuFd| {
            let mut regs = vcpu.get_regs()?;
            regs.rdx = 1;
            vcpu.set_regs(&regs)
        };
        Ok(machine.run_on_vcpu(0, open)??)
    })?;
    assert!(!mask.masked());
    // There is no handler: taking it is a triple fault.
    expect(&ended, &Outcome::TripleFault { cpu: 0 })
}

fn ended_machine_takes_no_work() -> Result<()> {
    let pass = machine("pass")?;
    let controller = pass.controller();
    assert_eq!(controller.nmi(0).unwrap_err().to_string(), "the machine has not been started");
    let ended = with(pass, |_| Ok(()))?;
    assert_eq!(controller.state(), MachineState::Stopped);
    for error in [controller.pause(), controller.resume(), controller.nmi(0)] {
        assert_eq!(error.unwrap_err().to_string(), "the machine has ended");
    }
    expect(&ended, &Outcome::DebugExit { value: 0 })
}

/// All but the first wait for their start-up interrupt, which never comes: they answer all the same.
fn as_many_vcpus_as_there_can_be() -> Result<()> {
    let super::Staged(mut config, _) = super::flat(payload("count")?)?;
    config.cpus = CPUS_MAX;
    let io = || MachineIo { serial: Box::new(io::sink()), console: None, ports: Vec::new() };
    let machine = match Machine::new(&config, io()) {
        Err(MachineError::Kvm(KvmError::Vcpus { most, .. })) => {
            config.cpus = u32::try_from(most)?;
            Machine::new(&config, io())?
        }
        other => other?,
    };
    let cpus = config.cpus;
    let ended = with(machine, |machine| {
        moved(machine, 0)?;
        let names =
            machine.run_on_all_vcpus(|cpu, _| (cpu, std::thread::current().name().map(str::to_owned)))?;
        assert_eq!(names, (0..cpus).map(|cpu| (cpu, Some(format!("vcpu{cpu}")))).collect::<Vec<_>>());
        for _ in 0..3 {
            machine.pause()?;
            let held = rax(machine)?;
            assert_eq!((machine.dump()?.len(), rax(machine)?), (usize::try_from(cpus)?, held));
            machine.resume()?;
            moved(machine, held)?;
        }
        let error = machine.nmi(cpus).unwrap_err().to_string();
        assert_eq!(error, format!("there is no vCPU {cpus}: the machine has {cpus}, counted from 0"));
        machine.stop();
        Ok(())
    })?;
    assert_eq!(ended.dumps.len(), usize::try_from(cpus)?);
    expect(&ended, &Outcome::Stopped)
}
