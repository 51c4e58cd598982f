//! A debugger on a Linux guest, as its stub sees it.

use std::path::Path;

use kiln::agent::Client;
use kiln::cases::Guest;
use kiln::vm_test;
use kiln::vmm::gdb::{self, GdbAddress};
use kiln::vmm::machine::MachineState;
use kiln_suites::rsp::Rsp;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What every program that opens a file comes by.
const FUNCTION: &str = "__x64_sys_openat";
/// The kernel's half of the address space.
const KERNEL: u64 = 1 << 63;

fn read(client: &Client, path: &str) -> Result<String> {
    let mut bytes = Vec::new();
    client.get(path, &mut bytes)?;
    Ok(String::from_utf8(bytes)?)
}

fn address(client: &Client, function: &str) -> Result<u64> {
    let symbols = read(client, "/proc/kallsyms")?;
    let words = symbols.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = words.into_iter().find(|words| words.get(2) == Some(&function)).ok_or("no such function")?;
    Ok(u64::from_str_radix(found.first().ok_or("no address")?, 16)?)
}

#[vm_test(cpus = 2)]
fn debugger_stops_linux_in_a_function_and_leaves_it_as_it_was(guest: &mut Guest) -> Result {
    let (agent, machine) = (guest.client().clone(), guest.machine().clone());
    let function = address(&agent, FUNCTION)?;
    assert!(function >= KERNEL, "{function:#x}");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("gdb");
    let served = gdb::serve(machine.clone(), &GdbAddress::Unix(path.clone()))?;
    let original = debug(&path, function, &agent)?;
    // The guest is as it was: its memory, and its programs.
    assert_eq!(machine.state(), MachineState::Running);
    let mut later = Rsp::connect(&path)?;
    assert_eq!(later.read(function, 16)?, original);
    assert_eq!(later.ask("D")?, "OK");
    drop(served);
    assert!(read(&agent, "/proc/version")?.starts_with("Linux"));
    Ok(())
}

/// Breaks at `function`, which the agent comes by, looks around, steps and leaves; returns the function's first bytes.
fn debug(path: &Path, function: u64, agent: &Client) -> Result<Vec<u8>> {
    let mut client = Rsp::connect(path)?;
    let original = client.read(function, 16)?;
    assert_eq!((client.ask("qfThreadInfo")?.as_str(), original.len()), ("m01,02", 16));
    for round in 0..3 {
        assert_eq!(client.ask(&format!("Z0,{function:x},1"))?, "OK");
        client.send("vCont;c")?;
        let agent = agent.clone();
        let reader = std::thread::spawn(move || read(&agent, "/proc/version").map_err(|e| e.to_string()));
        let stop = client.receive()?;
        let thread = stop.strip_prefix("T05thread:").and_then(|rest| rest.strip_suffix(";swbreak:;"));
        let thread = thread.ok_or_else(|| format!("round {round}: {stop}"))?.to_owned();
        assert_eq!(client.register(16)?, function);
        assert_eq!(client.read(function, 16)?, original, "breakpoints are hidden");
        // The caller's address is on the stack, and both vCPUs can be looked at.
        let stack = client.register(7)?;
        let caller = client.read(stack, 8)?.try_into().map_err(|_| "no stack")?;
        assert!(u64::from_le_bytes(caller) >= KERNEL);
        for other in ["01", "02", &thread] {
            assert_eq!(client.ask(&format!("Hg{other}"))?, "OK");
            assert_ne!(client.register(16)?, 0);
        }
        assert_eq!(client.ask(&format!("z0,{function:x},1"))?, "OK");
        let mut last = function;
        for _ in 0..10 {
            assert_eq!(client.ask(&format!("vCont;s:{thread}"))?, format!("T05thread:{thread};"));
            let rip = client.register(16)?;
            // No interrupt, and no other vCPU, comes between.
            assert!(rip != last && rip >= KERNEL, "{rip:#x} after {last:#x}");
            last = rip;
        }
        client.send("vCont;c")?;
        let read = reader.join().map_err(|_| "the reader panicked")??;
        assert!(read.starts_with("Linux"), "{read}");
        client.raw(b"\x03")?;
        let stop = client.receive()?;
        assert!(stop.starts_with("T02thread:"), "{stop}");
    }
    assert_eq!(client.ask(&format!("Z0,{function:x},1"))?, "OK");
    assert_eq!(client.ask("D")?, "OK");
    assert!(client.ends());
    Ok(original)
}
