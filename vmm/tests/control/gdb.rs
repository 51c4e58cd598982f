//! A debugger that comes to a machine which runs already, by the machine's name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use kiln::cases::{CASES, Case, linkme};
use kiln::vmm::control::protocol::{Request, Status};
use kiln::vmm::machine::MachineState;

use super::rsp::Rsp;
use super::vm::{COUNT, LIMIT, Result, Runtime, Vm, case, wait_for};

/// Between the two instructions of [`COUNT`].
const AT: u64 = 0x10_0003;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static GDB: fn() -> Vec<Case> = || {
    vec![
        case("control::gdb::machine_that_runs_is_opened_once_and_debugged", debugged),
        case("control::gdb::paused_machine_is_opened_and_stays_paused", paused),
        case("control::gdb::debugger_is_told_of_the_end_and_the_door_goes_with_the_machine", end),
        case("control::gdb::door_of_the_command_line_is_the_one_that_is_answered", command_line),
        case("control::gdb::tcp_port_and_other_socket_are_opened_on_request", elsewhere),
        case("control::gdb::bad_address_is_refused_in_words", bad_address),
    ]
};

fn status(vm: &Vm) -> Result<Status> {
    Ok(vm.client()?.ask_for(Request::Status {})?)
}

/// Opens the machine `vm`, and tells where.
fn open(runtime: &Runtime, arguments: &[&str]) -> Result<String> {
    let said = runtime.vmm(&[&["gdb", "vm"], arguments].concat())?;
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    let address = said.out.strip_prefix("target remote ").and_then(|rest| rest.strip_suffix('\n'));
    Ok(address.ok_or_else(|| format!("it said {:?}", said.out))?.to_owned())
}

fn debugged() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let path = runtime.path().join("kiln/vm.gdb");
    assert_eq!(open(&runtime, &[])?, path.to_string_lossy());
    // Asked again, it is the same.
    assert_eq!(runtime.json(&["gdb", "vm"])?, serde_json::json!({ "address": path }));
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    for _ in 0..2 {
        // One that has left may not have been missed yet.
        let mut session = None;
        wait_for("it is served", || {
            session = Rsp::connect(&path).ok();
            Ok(session.is_some())
        })?;
        let mut gdb = session.ok_or("no session")?;
        assert_eq!(gdb.ask(&format!("Z0,{AT:x},1"))?, "OK");
        let mut last = None;
        for _ in 0..3 {
            assert_eq!(gdb.ask("vCont;c")?, "T05thread:01;swbreak:;");
            let (rax, rip) = (gdb.register(0)?, gdb.register(16)?);
            assert!(rip == AT && last.is_none_or(|last| rax == last + 1), "{rip:#x}: {rax} after {last:?}");
            last = Some(rax);
            // As gdb steps over a breakpoint.
            assert_eq!(gdb.ask(&format!("z0,{AT:x},1"))?, "OK");
            assert_eq!(gdb.ask("vCont;s:1")?, "T05thread:01;");
            assert_eq!(gdb.ask(&format!("Z0,{AT:x},1"))?, "OK");
        }
        let now = status(&vm)?;
        assert_eq!((now.state, now.holders), (MachineState::Paused, vec!["gdb".to_owned()]));
        assert_eq!((gdb.read(0x10_0000, 5)?.as_slice(), gdb.ask("D")?.as_str()), (COUNT, "OK"));
        wait_for("it goes on", || Ok(status(&vm)?.state == MachineState::Running))?;
    }
    Ok(())
}

fn paused() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    runtime.vmm(&["pause", "vm"])?;
    let mut client = vm.client()?;
    let held = vm.rax(&mut client)?;
    let mut gdb = Rsp::connect(open(&runtime, &[])?.as_ref())?;
    let rax = format!("{:#x}", gdb.register(0)?);
    assert!(
        held == rax || held.trim_start_matches("0x").trim_start_matches('0') == &rax[2..],
        "{held}, {rax}"
    );
    assert_eq!(gdb.ask("D")?, "OK");
    wait_for("it is held by its own holder alone", || Ok(status(&vm)?.holders == ["control"]))?;
    assert_eq!(vm.rax(&mut client)?, held);
    Ok(())
}

fn end() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let path = open(&runtime, &[])?;
    let mut gdb = Rsp::connect(path.as_ref())?;
    gdb.send("vCont;c")?;
    let stopped = runtime.vmm(&["stop", "vm"])?;
    assert_eq!(stopped.status, Some(0), "{}", stopped.err);
    assert_eq!(
        (gdb.receive()?.as_str(), gdb.said.as_str()),
        ("X0f", "kiln: the machine was ended from outside\n")
    );
    assert!(gdb.ends());
    // The name is free, and what was there for it is gone.
    assert_eq!(std::fs::read_dir(runtime.path().join("kiln"))?.count(), 0);
    assert_eq!(vm.ended()?.code(), Some(124));
    // What a machine leaves that was killed is the next one's.
    let killed = runtime.start("vm", COUNT, &[])?;
    open(&runtime, &[])?;
    killed.signal(9)?;
    killed.ended()?;
    assert!(std::path::Path::new(&path).exists());
    let _again = runtime.start("vm", COUNT, &[])?;
    assert!(!std::path::Path::new(&path).exists());
    Rsp::connect(open(&runtime, &[])?.as_ref())?;
    Ok(())
}

fn command_line() -> Result {
    let runtime = Runtime::new()?;
    let own = runtime.path().join("own");
    let given = format!("unix:{}", own.display());
    let _vm = runtime.start("vm", COUNT, &["--gdb", &given])?;
    assert_eq!(open(&runtime, &[])?, own.to_string_lossy());
    assert_eq!(open(&runtime, &[&given])?, own.to_string_lossy());
    let said = runtime.vmm(&["gdb", "vm", "tcp:0"])?;
    let line = format!("error: the machine is open to gdb already: target remote {}\n", own.display());
    assert_eq!((said.status, said.err), (Some(125), line));
    Rsp::connect(&own)?;
    Ok(())
}

fn elsewhere() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let address = open(&runtime, &["tcp:0"])?;
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    assert_eq!([open(&runtime, &["tcp:0"])?, open(&runtime, &[])?], [address.clone(), address.clone()]);
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"$?#3f")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"+$T05thr");
    drop((stream, vm));
    let _vm = runtime.start("vm", COUNT, &[])?;
    let path = runtime.path().join("elsewhere");
    assert_eq!(open(&runtime, &[&format!("unix:{}", path.display())])?, path.to_string_lossy());
    Rsp::connect(&path)?;
    Ok(())
}

fn bad_address() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    for (address, why) in [
        ("tcp:0.0.0.0:1", "can be reached from other hosts"),
        ("1234", "write unix:PATH"),
        ("unix:a/b", "begins at no /"),
    ] {
        let error = vm.client()?.ask(Request::Gdb { address: Some(address.to_owned()) }).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    // Where nothing can be.
    let said = runtime.vmm(&["gdb", "vm", "unix:/proc/none"])?;
    assert!(
        said.status == Some(125) && said.err.starts_with("error: gdb can't be listened for on /proc/none: "),
        "{}",
        said.err
    );
    // It can be opened all the same.
    Rsp::connect(open(&runtime, &[])?.as_ref())?;
    Ok(())
}
