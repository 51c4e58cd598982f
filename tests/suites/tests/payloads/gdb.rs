//! A debugger on a payload, and clients that are none.

use std::path::Path;
use std::time::{Duration, Instant};

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures;
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, CpuMode, MachineConfig};
use kiln::vmm::gdb::{self, GdbAddress, Server};
use kiln::vmm::machine::{Controller, Ended, Machine, MachineState};
use kiln::vmm::outcome::Outcome;
use kiln_suites::rsp::Rsp;

use super::control::{Result, build, expect, flat, machine, moved, with};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static GDB: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::gdb::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("breakpoint_stops_before_its_instruction_in_every_mode", every_mode),
        case("step_goes_one_instruction_on", step),
        case("hardware_breakpoint_stops_or_is_refused", hardware),
        case("watchpoint_stops_or_is_refused", watchpoint),
        case("interrupt_stops_and_detach_lets_the_guest_run", interrupt),
        case("client_that_vanishes_leaves_a_guest_as_it_was", vanishes),
        case("packets_of_no_debugger_cost_the_session_alone", hostile),
        case("second_client_is_turned_away_and_a_later_one_is_served", second),
        case("machine_that_waits_begins_when_it_is_let_go_and_its_end_is_told", waits),
        case("machine_that_can_not_go_on_is_looked_at_before_it_ends", fatal),
        case("kill_ends_the_machine", kill),
        case("monitor_tells_what_gdb_does_not_ask_for", monitor),
        case("memory_and_registers_are_read_and_written", memory),
        case("rom_is_read_and_refuses_software_breakpoints_in_words", rom),
        case("guests_write_to_the_breakpoints_port_is_its_own", own_port),
    ]
};

/// Far more than a session takes to end on a busy host.
const LIMIT: Duration = Duration::from_secs(60);
/// Where `count` goes round, between two instructions.
const LOOP: [u64; 2] = [0x10_0002, 0x10_0005];

/// Has a debugger at a machine that runs.
fn debugged(
    machine: Machine,
    body: impl FnOnce(&Controller, &mut Rsp, &Path) -> Result<()> + Send,
) -> Result<Ended> {
    with(machine, |machine| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("gdb");
        let served = gdb::serve(machine.clone(), &GdbAddress::Unix(path.clone()))?;
        let mut client = Rsp::connect(&path)?;
        body(machine, &mut client, &path)?;
        drop(client);
        // It is over when all is as it was.
        drop(served);
        machine.stop();
        Ok(())
    })
}

fn every_mode() -> Result<()> {
    // inc; a nop of two bytes; jmp to the start
    let long = (CpuMode::Long64, 0x10_0000, vec![0x48, 0xff, 0xc0, 0x66, 0x90, 0xeb, 0xf9], 3);
    let protected = (CpuMode::Protected32, 0x10_0000, vec![0x40, 0x66, 0x90, 0xeb, 0xfb], 1);
    let real = (CpuMode::Real16, 0x1_0000, vec![0x40, 0x66, 0x90, 0xeb, 0xfb], 1);
    for (mode, address, code, offset) in [long, protected, real] {
        let boot = Boot::Flat { code: code.clone(), address, mode };
        let machine = build(&MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() })?;
        debugged(machine, |machine, client, _| {
            assert_eq!(client.ask("?")?, "T05thread:01;");
            let at = address + offset;
            let set = client.ask(&format!("Z0,{at:x},1"))?;
            if mode == CpuMode::Real16 && client.monitor("breakpoints")?.contains("but in real mode") {
                assert_eq!(set, "E16");
                return Ok(());
            }
            assert_eq!(set, "OK");
            let mut last = None;
            for _ in 0..3 {
                assert_eq!(client.ask("vCont;c")?, "T05thread:01;swbreak:;");
                let rip = if mode == CpuMode::Real16 { offset } else { at };
                assert_eq!((client.register(16)?, machine.state()), (rip, MachineState::Paused));
                assert_eq!(client.read(address, code.len())?, code, "breakpoints are hidden");
                let rax = client.register(0)?;
                assert!(last.is_none_or(|last: u64| rax & 0xffff == (last + 1) & 0xffff), "{last:?}, {rax}");
                last = Some(rax);
                // As gdb steps over a breakpoint.
                assert_eq!(client.ask(&format!("z0,{at:x},1"))?, "OK");
                assert_eq!(client.ask("vCont;s:1")?, "T05thread:01;");
                assert_eq!(client.register(16)?, rip + 2);
                assert_eq!(client.ask(&format!("Z0,{at:x},1"))?, "OK");
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn step() -> Result<()> {
    debugged(machine("count")?, |_, client, _| {
        let mut last = client.register(16)?;
        for _ in 0..20 {
            assert_eq!(client.ask("vCont;s:1;c")?, "T05thread:01;");
            let rip = client.register(16)?;
            assert!(LOOP.contains(&rip) && rip != last, "{rip:#x} after {last:#x}");
            last = rip;
        }
        Ok(())
    })
    .map(drop)
}

/// Whether this host has what `what` names, by the word of the stub.
fn has(client: &mut Rsp, what: &str) -> Result<bool> {
    let text = client.monitor("breakpoints")?;
    let line = text.lines().find(|line| line.starts_with(what)).ok_or_else(|| text.clone())?;
    Ok(line.ends_with("four"))
}

fn hardware() -> Result<()> {
    debugged(machine("count")?, |_, client, _| {
        let set = client.ask("Z1,100005,1")?;
        if !has(client, "hbreak")? {
            assert_eq!(set, "E16");
            return Ok(());
        }
        assert_eq!((set.as_str(), client.ask("vCont;c")?.as_str()), ("OK", "T05thread:01;hwbreak:;"));
        assert_eq!(client.register(16)?, 0x10_0005);
        let more = ["Z1,1,1", "Z1,2,1", "Z1,3,1", "Z1,4,1"].map(|packet| client.ask(packet).ok());
        assert_eq!(more.map(|answer| answer == Some("OK".to_owned())), [true, true, true, false]);
        assert_eq!(client.ask("z1,100005,1")?, "OK");
        Ok(())
    })
    .map(drop)
}

fn watchpoint() -> Result<()> {
    // inc rax; mov [0x80000], eax; jmp to the start
    let code = vec![0x48, 0xff, 0xc0, 0x89, 0x04, 0x25, 0, 0, 8, 0, 0xeb, 0xf4];
    debugged(flat(code)?, |_, client, _| {
        let set = client.ask("Z2,80000,4")?;
        if !has(client, "watch")? {
            assert_eq!(set, "E16");
            return Ok(());
        }
        assert_eq!((set.as_str(), client.ask("vCont;c")?.as_str()), ("OK", "T05thread:01;watch:080000;"));
        assert_eq!(client.register(16)?, 0x10_000a);
        Ok(())
    })
    .map(drop)
}

fn interrupt() -> Result<()> {
    debugged(machine("count")?, |machine, client, _| {
        client.send("vCont;c")?;
        moved(machine, moved(machine, 0)?)?;
        client.raw(b"\x03")?;
        assert_eq!((client.receive()?.as_str(), machine.state()), ("T02thread:01;", MachineState::Paused));
        assert_eq!(client.ask("Z0,100005,1")?, "OK");
        assert_eq!(client.ask("D")?, "OK");
        // Past the breakpoint, and round again.
        let from = moved(machine, 0)?;
        moved(machine, moved(machine, from)?)?;
        Ok(())
    })
    .map(drop)
}

/// Connects once the one before has been missed.
fn next(path: &Path) -> Result<Rsp> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Rsp::connect(path) {
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => {}
            Ok(client) => return Ok(client),
        }
    }
}

fn vanishes() -> Result<()> {
    debugged(machine("count")?, |machine, first, path| {
        assert_eq!(first.ask("D")?, "OK");
        for running in [false, true] {
            let mut client = next(path)?;
            assert_eq!(client.ask("Z0,300000,1")?, "OK");
            if running {
                client.send("vCont;c")?;
            }
            drop(client);
            moved(machine, moved(machine, 0)?)?;
        }
        Ok(())
    })
    .map(drop)
}

fn hostile() -> Result<()> {
    let long = format!("$m{}", "1".repeat(20_000));
    let rubbish: &[&str] = &[
        "GET / HTTP/1.1\r\n\r\n",
        "$#00",
        "$g#00",
        "-",
        "$vCont;s#b8",
        "$vCont;t:1#c9",
        "$H#48",
        "$Hg99999999999999999999#xx",
        "$Zz#d4",
        "$qRcmd,zz#xx",
        "$qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff#xx",
        "$P0=#xx",
        "$X0,ffffffffffffffff:}#xx",
        &long,
    ];
    debugged(machine("count")?, |machine, first, path| {
        assert_eq!(first.ask("D")?, "OK");
        for bytes in rubbish {
            let mut client = next(path)?;
            // With the sum that it should have, so that it is looked at.
            match bytes.strip_prefix('$').and_then(|rest| rest.strip_suffix("#xx")) {
                Some(body) => client.send(body)?,
                // A stub that has heard enough may be gone before the last of it.
                None => drop(client.raw(bytes.as_bytes())),
            }
            drop(client);
            moved(machine, moved(machine, 0)?)?;
        }
        let mut client = next(path)?;
        // Questions out of all bounds are answered within them.
        assert_eq!(client.read(0x10_0000, 1 << 40)?.len(), 0x1f00);
        assert!(client.read(u64::MAX, usize::MAX)?.is_empty());
        assert_eq!(client.ask("g")?.len() % 16, 0);
        for packet in
            ["T99", "Z0,ffffffffffffffff,1", "z0,1,1", "M100000000,1:00", "Z9,1,1", "vMustReplyEmpty"]
        {
            let answer = client.ask(packet)?;
            assert!(answer.is_empty() || answer.starts_with('E'), "{packet}: {answer}");
        }
        Ok(())
    })
    .map(drop)
}

fn second() -> Result<()> {
    debugged(machine("count")?, |machine, client, path| {
        assert!(Rsp::connect(path).is_err(), "it finds its connection ended");
        assert!(LOOP.contains(&client.register(16)?));
        assert!(
            gdb::serve(machine.clone(), &GdbAddress::Unix(path.to_owned())).is_err(),
            "the path is taken"
        );
        assert_eq!(client.ask("D")?, "OK");
        moved(machine, 0)?;
        let mut later = next(path)?;
        assert!(LOOP.contains(&later.register(16)?));
        Ok(())
    })
    .map(drop)
}

/// A machine that does not begin before a debugger has come; what its end was to the debugger.
fn from_the_start(name: &str, end: &str, words: &str, outcome: &Outcome) -> Result<()> {
    let machine = machine(name)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("gdb");
    let server = Server::bind(machine.controller(), &GdbAddress::Unix(path.clone()), true)?;
    let ended = with(machine, |machine| {
        assert_eq!(machine.state(), MachineState::Paused);
        let _served = server.start()?;
        let mut client = Rsp::connect(&path)?;
        assert_eq!(client.register(16)?, 0x10_0000);
        assert_eq!((client.ask("vCont;c")?.as_str(), client.said.as_str()), (end, words));
        assert!(client.ends());
        Ok(())
    })?;
    expect(&ended, outcome)
}

fn waits() -> Result<()> {
    from_the_start("pass", "W00", "kiln: the guest passed\n", &Outcome::DebugExit { value: 0 })?;
    let exited = "kiln: the guest exited with 21\n";
    from_the_start("exit-status", "W2b", exited, &Outcome::DebugExit { value: 21 })?;
    let halted = "kiln: every vCPU halted with interrupts off\n";
    from_the_start("halt", "W01", halted, &Outcome::Halted)
}

fn fatal() -> Result<()> {
    let machine = machine("triple-fault")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("gdb");
    let server = Server::bind(machine.controller(), &GdbAddress::Unix(path.clone()), true)?;
    let ended = with(machine, |machine| {
        let _served = server.start()?;
        let mut client = Rsp::connect(&path)?;
        assert_eq!(client.ask("vCont;c")?, "T0bthread:01;");
        assert_eq!(machine.state(), MachineState::Paused);
        assert!(client.ask("g")?.len() > 17 * 16);
        assert_eq!(client.ask("vCont;c")?, "X0b");
        assert_eq!(client.said, "kiln: triple fault of vCPU 0\n");
        Ok(())
    })?;
    expect(&ended, &Outcome::TripleFault { cpu: 0 })
}

fn kill() -> Result<()> {
    let ended = debugged(machine("count")?, |_, client, _| Ok(client.send("k")?))?;
    expect(&ended, &Outcome::Stopped)
}

fn monitor() -> Result<()> {
    debugged(machine("count")?, |_, client, _| {
        let help = client.monitor("help")?;
        for command in ["breakpoints", "dump", "nmi", "trace"] {
            assert!(help.contains(&format!("monitor {command}")), "{help}");
        }
        assert!(client.monitor("dump")?.contains("  RIP 0010:0000000000100"));
        assert!(client.monitor("trace")?.starts_with("vCPU 0:\n  KVM_EXIT_INTR "));
        assert_eq!(client.monitor("nmi 7")?, "there is no vCPU 7: the machine has 1, counted from 0\n");
        assert_eq!(client.monitor("nmi x")?, "say which vCPU by its number\n");
        assert_eq!(client.monitor("sudo")?, "no such command; monitor help lists them\n");
        Ok(())
    })
    .map(drop)
}

fn memory() -> Result<()> {
    debugged(machine("count")?, |machine, client, _| {
        assert_eq!(client.ask("M200000,4:01020304")?, "OK");
        assert_eq!(client.read(0x20_0000, 4)?, [1, 2, 3, 4]);
        // The machine's RAM ends there: what there is, is told.
        assert_eq!(client.read(0xff_fffe, 4)?.len(), 2);
        assert!(client.read(0x100_0000, 4)?.is_empty());
        let mut all = client.ask("g")?;
        all.replace_range(0..16, "8877665544332211");
        assert_eq!(client.ask(&format!("G{all}"))?, "OK");
        assert_eq!(machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??.rax, 0x1122_3344_5566_7788);
        // CS: what a selector loads is the guest's affair.
        all.replace_range(17 * 16 + 8..17 * 16 + 10, "08");
        assert_eq!(client.ask(&format!("G{all}"))?, "E16");
        let description = client.ask("qXfer:features:read:target.xml:0,3000")?;
        for name in ["rip", "fs_base", "k_gs_base", "cr3", "efer"] {
            assert!(description.contains(&format!("\"{name}\"")), "{name}");
        }
        Ok(())
    })
    .map(drop)
}

/// A machine whose guest counts in a ROM.
fn rom() -> Result<()> {
    // inc rax; jmp to the start
    const COUNT: [u8; 5] = [0x48, 0xff, 0xc0, 0xeb, 0xfb];
    let [a, b, c, d, ..] = fixtures::memory::ROM.to_le_bytes();
    // mov edx, ROM; jmp rdx
    let machine = flat(vec![0xba, a, b, c, d, 0xff, 0xe2])?;
    let mut bytes = [0x90; 4096];
    bytes[..COUNT.len()].copy_from_slice(&COUNT);
    let at = fixtures::memory::ROM;
    machine.controller().add_rom("ROM", at, &bytes)?;
    debugged(machine, |machine, client, _| {
        let in_rom = at..at + 5;
        client.send("vCont;c")?;
        let deadline = Instant::now() + LIMIT;
        while !in_rom.contains(&machine.run_on_vcpu(0, |vcpu| vcpu.get_regs())??.rip) {
            assert!(Instant::now() < deadline, "it does not come to the ROM");
        }
        client.raw(b"\x03")?;
        assert_eq!(client.receive()?, "T02thread:01;");
        assert!(in_rom.contains(&client.register(16)?));
        assert_eq!(client.read(at, COUNT.len())?, COUNT);
        let refused = client.ask(&format!("Z0,{:x},1", at + 3))?;
        let words =
            format!("E.{:#x} is in a ROM, where no software breakpoint can be put: use hbreak", at + 3);
        assert_eq!(refused, words);
        let written = client.ask(&format!("M{at:x},1:cc"))?;
        assert_eq!(written, format!("E.{at:#x} is in a ROM, which can't be written"));
        assert_eq!(client.read(at, COUNT.len())?, COUNT);
        // Other refusals are told as ever.
        assert_eq!(client.ask("Z0,ffffffffffffffff,1")?, "E0e");
        let hardware = client.ask(&format!("Z1,{:x},1", at + 3))?;
        if has(client, "hbreak")? {
            assert_eq!(
                (hardware.as_str(), client.ask("vCont;c")?.as_str()),
                ("OK", "T05thread:01;hwbreak:;")
            );
            assert_eq!(client.register(16)?, at + 3);
        }
        let dump = machine.dump()?.pop().ok_or("no dump")?;
        assert!(in_rom.contains(&dump.registers.rip) && !dump.code.from.is_empty(), "{dump}");
        assert_eq!(dump.walk.physical(), Some(dump.registers.rip));
        Ok(())
    })
    .map(drop)
}

/// Breakpoints may be writes to a port that nobody has; so may be what the guest does by itself.
fn own_port() -> Result<()> {
    // inc rax; out 0xcc, al; a nop of two bytes; jmp to the start
    let code = vec![0x48, 0xff, 0xc0, 0xe6, 0xcc, 0x66, 0x90, 0xeb, 0xf7];
    debugged(flat(code)?, |machine, client, _| {
        assert_eq!(client.ask("Z0,300000,1")?, "OK");
        client.send("vCont;c")?;
        let from = moved(machine, moved(machine, 0)?)?;
        client.raw(b"\x03")?;
        assert_eq!(client.receive()?, "T02thread:01;");
        let nothing = machine.trace()?.vcpus.first().map(|vcpu| vcpu.nothing.writes);
        assert!(
            nothing.is_some_and(|writes| writes.abs_diff(client.register(0).unwrap_or(0)) <= 1 && from > 0)
        );
        assert_eq!(client.ask("Z0,100005,1")?, "OK");
        for _ in 0..3 {
            assert_eq!(client.ask("vCont;c")?, "T05thread:01;swbreak:;");
            assert_eq!(client.register(16)?, 0x10_0005);
            assert_eq!(client.ask("z0,100005,1")?, "OK");
            assert_eq!(client.ask("vCont;s:1")?, "T05thread:01;");
            assert_eq!(client.ask("Z0,100005,1")?, "OK");
        }
        Ok(())
    })
    .map(drop)
}
