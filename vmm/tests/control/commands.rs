//! `kiln-vmm list`, `status`, `pause` and their like, as whoever types them sees them.

use std::os::unix::process::ExitStatusExt;

use kiln::cases::{CASES, Case, linkme};
use kiln::vmm::control::protocol::{Event, Request, Stats, Status};
use kiln::vmm::machine::MachineState;

use super::rsp::Rsp;
use super::vm::{COUNT, IDLE, POST, Result, Runtime, case, wait_for};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static COMMANDS: fn() -> Vec<Case> = || {
    vec![
        case("control::commands::machine_is_listed_with_what_it_is_and_does", listed),
        case("control::commands::paused_machine_stands_still_until_all_have_resumed_it", paused),
        case("control::commands::timeout_stands_still_while_a_machine_is_paused", timeout_stands),
        case("control::commands::stop_and_reset_end_a_machine_and_free_its_name", ends),
        case("control::commands::nmi_reaches_the_guest_and_wait_tells_its_end", nmi),
        case("control::commands::stats_and_trace_show_what_the_guest_did", seeing),
        case("control::commands::taken_name_is_refused_with_its_process", duplicate),
        case("control::commands::name_of_a_killed_machine_is_reclaimed", reclaimed),
        case("control::commands::unknown_machine_is_one_line_with_the_names_there_are", unknown),
        case("control::commands::signal_ends_the_machine_in_order", signals),
    ]
};

fn listed() -> Result {
    let runtime = Runtime::new()?;
    let one = runtime.start("one", COUNT, &[])?;
    let _two = runtime.start("two", IDLE, &[])?;
    runtime.vmm(&["pause", "two"])?;
    let list = runtime.vmm(&["list"])?;
    assert_eq!(list.status, Some(0), "{}", list.err);
    // Machines of other runtime folders may be there, too.
    let line = |name: &str| {
        let line = list.out.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap_or_default()
    };
    assert!(list.out.starts_with("NAME"), "{}", list.out);
    let pid = one.pid().to_string();
    assert_eq!(
        line("one").get(..6),
        Some(&["one", &pid, "running", "1", "16", "MiB"].map(str::to_owned)[..])
    );
    assert_eq!(line("two").get(2).map(String::as_str), Some("paused"), "{}", list.out);
    assert_eq!(line("two").last().map(String::as_str), Some("control"), "{}", list.out);
    let json = runtime.json(&["list"])?;
    let machines = json["machines"].as_array().ok_or("no machines")?;
    let one = machines.iter().find(|machine| machine["name"] == "one").ok_or("no machine one")?;
    assert_eq!((&one["status"]["state"], &one["status"]["memory"]), (&"running".into(), &(16 << 20).into()));
    let status = runtime.vmm(&["status", "one"])?;
    assert!(
        status.out.contains("state    running\n") && status.out.contains("memory   16 MiB\n"),
        "{}",
        status.out
    );
    Ok(())
}

fn paused() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut client = vm.client()?;
    let said = runtime.vmm(&["pause", "vm"])?;
    assert_eq!((said.status, said.out.as_str()), (Some(0), "paused, held by control\n"), "{}", said.err);
    assert_eq!(runtime.vmm(&["pause", "vm", "--owner", "me"])?.out, "paused, held by control, me\n");
    let held = vm.rax(&mut client)?;
    for _ in 0..10 {
        assert_eq!(vm.rax(&mut client)?, held);
    }
    assert_eq!(runtime.vmm(&["resume", "vm"])?.out, "paused, held by me\n");
    assert_eq!(vm.rax(&mut client)?, held);
    let status = runtime.json(&["status", "vm"])?;
    assert_eq!((&status["state"], &status["deadline_stands"]), (&"paused".into(), &true.into()));
    assert_eq!(runtime.json(&["resume", "vm", "--owner", "me"])?["state"], "running");
    wait_for("the counter goes on", || Ok(vm.rax(&mut client)? != held))?;
    let dump = runtime.vmm(&["dump", "vm"])?;
    assert!(dump.out.contains("vCPU 0") && dump.out.to_lowercase().contains("rip"), "{}", dump.out);
    Ok(())
}

fn timeout_stands() -> Result {
    let runtime = Runtime::new()?;
    let door = runtime.path().join("gdb");
    let address = format!("unix:{}", door.display());
    // Held before its first instruction, it waits for us, however long we take.
    let options = ["--timeout", "1", "--gdb", &address, "--gdb-wait"];
    let vm = runtime.spawn("vm", COUNT, &options)?;
    wait_for("it waits for its debugger", || {
        let Ok(mut client) = vm.client() else { return Ok(false) };
        Ok(client.ask_for::<Status>(Request::Status {})?.state == MachineState::Paused)
    })?;
    assert_eq!(runtime.vmm(&["pause", "vm"])?.out, "paused, held by gdb, control\n");
    assert_eq!(Rsp::connect(&door)?.ask("D")?, "OK");
    wait_for("it is held by the pause alone", || {
        Ok(runtime.json(&["status", "vm"])?["holders"] == serde_json::json!(["control"]))
    })?;
    let before = runtime.json(&["status", "vm"])?["uptime_ms"].as_u64().unwrap_or_default();
    wait_for("more than its time passes", || {
        let status = runtime.json(&["status", "vm"])?;
        assert_eq!(status["state"], "paused");
        Ok(status["uptime_ms"].as_u64() > Some(before + 1500))
    })?;
    runtime.vmm(&["resume", "vm"])?;
    assert_eq!(vm.ended()?.code(), Some(124));
    Ok(())
}

fn ends() -> Result {
    let runtime = Runtime::new()?;
    for (command, status, word) in [("stop", 124, "ended from outside"), ("reset", 1, "the guest reset")] {
        let vm = runtime.start("vm", COUNT, &[])?;
        let said = runtime.vmm(&[command, "vm"])?;
        assert_eq!((said.status, said.out), (Some(0), format!("vm: {word}\n")), "{}", said.err);
        // The name is free at once, whatever the process still does.
        assert!(!vm.socket.exists());
        assert_eq!(vm.ended()?.code(), Some(status));
    }
    // A paused machine can be stopped, too.
    let vm = runtime.start("vm", COUNT, &[])?;
    runtime.vmm(&["pause", "vm"])?;
    assert_eq!(runtime.vmm(&["stop", "vm"])?.status, Some(0));
    assert_eq!(vm.ended()?.code(), Some(124));
    assert_eq!(std::fs::read_dir(runtime.path().join("kiln"))?.count(), 0);
    Ok(())
}

/// There is no handler: taking it is a triple fault.
fn nmi() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", IDLE, &[])?;
    let refused = runtime.vmm(&["nmi", "vm", "--cpu", "1"])?;
    let line = "error: there is no vCPU 1: the machine has 1, counted from 0\n";
    assert_eq!((refused.status, refused.err.as_str()), (Some(125), line));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| runtime.vmm(&["wait", "vm"]).map_err(|error| error.to_string()));
        let mut client = vm.client()?;
        client.ask(Request::Events {})?;
        assert_eq!(runtime.vmm(&["nmi", "vm"])?.status, Some(0));
        assert!(matches!(client.next_event()?, Event::Ended(_)));
        let said = waits.join().map_err(|_| "the waiter panicked")??;
        // Too late to wait for it is a machine that is not there.
        if said.status != Some(125) {
            assert_eq!((said.status, said.out.as_str()), (Some(1), "vm: triple fault of vCPU 0\n"));
        }
        Result::Ok(())
    })?;
    assert_eq!(vm.ended()?.code(), Some(1));
    Ok(())
}

fn seeing() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", POST, &[])?;
    wait_for("the guest has written", || {
        Ok(runtime.json(&["stats", "vm"])?["devices"]["POST"]["writes"].as_u64() > Some(20))
    })?;
    let stats = runtime.vmm(&["stats", "vm"])?;
    assert!(stats.out.contains("KVM_EXIT_IO") && stats.out.contains("POST"), "{}", stats.out);
    let trace = runtime.json(&["trace", "vm", "--last", "3"])?;
    let accesses = trace["vcpus"][0]["accesses"].as_array().ok_or("no accesses")?;
    assert_eq!(accesses.len(), 3);
    for access in accesses {
        assert_eq!((&access["device"], &access["value"]), (&"POST".into(), &42.into()));
    }
    let trace = runtime.vmm(&["trace", "vm", "--last", "2"])?;
    let lines: Vec<&str> = trace.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", trace.out);
    assert!(lines[2].contains("POST    port write     0x80      1   0x2a"), "{}", trace.out);
    let before = runtime.json(&["status", "vm"])?["exits"].as_u64();
    wait_for("exits are counted on", || Ok(runtime.json(&["status", "vm"])?["exits"].as_u64() > before))?;
    drop(vm);
    Ok(())
}

fn duplicate() -> Result {
    let runtime = Runtime::new()?;
    let first = runtime.start("vm", COUNT, &[])?;
    // Not even its kernel is looked at.
    let second = runtime.vmm(&["run", "--name", "vm", env!("CARGO_BIN_EXE_kiln-vmm")])?;
    let line = format!("error: the name vm is taken by a machine of process {}\n", first.pid());
    assert_eq!((second.status, second.err), (Some(125), line));
    assert_eq!(runtime.json(&["status", "vm"])?["pid"], first.pid());
    let bad = runtime.vmm(&["run", "--name", "../vm", env!("CARGO_BIN_EXE_kiln-vmm")])?;
    assert!(bad.status == Some(125) && bad.err.starts_with("error: name \"../vm\""), "{}", bad.err);
    Ok(())
}

fn reclaimed() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    vm.signal(9)?;
    let socket = vm.socket.clone();
    assert_eq!(vm.ended()?.signal(), Some(9));
    assert!(socket.exists());
    assert!(!runtime.vmm(&["list"])?.out.contains("vm "));
    let said = runtime.vmm(&["status", "vm"])?;
    assert!(
        said.status == Some(125) && said.err.starts_with("error: no machine is called vm: "),
        "{}",
        said.err
    );
    let again = runtime.start("vm", COUNT, &[])?;
    assert_eq!(runtime.json(&["status", "vm"])?["pid"], again.pid());
    Ok(())
}

fn unknown() -> Result {
    let runtime = Runtime::new()?;
    let _one = runtime.start("one", IDLE, &[])?;
    for command in [&["status", "none"][..], &["stop", "none"], &["sysrq", "none", "h"], &["wait", "none"]] {
        let said = runtime.vmm(command)?;
        assert_eq!((said.status, said.out.as_str(), said.err.lines().count()), (Some(125), "", 1));
        assert!(said.err.starts_with("error: no machine is called none: there is "), "{}", said.err);
        assert!(said.err.contains("one"), "{}", said.err);
    }
    let said = runtime.vmm(&["sysrq", "one", "é"])?;
    assert!(said.status == Some(125) && said.err.contains("letter or a digit"), "{}", said.err);
    Ok(())
}

fn signals() -> Result {
    let runtime = Runtime::new()?;
    let trace = runtime.path().join("trace.json");
    for signal in [2, 15] {
        let vm = runtime.start("vm", POST, &["--trace", &trace.to_string_lossy()])?;
        let mut client = vm.client()?;
        wait_for("the guest writes", || {
            Ok(client.ask_for::<Stats>(Request::Stats {})?.devices.contains_key("POST"))
        })?;
        client.ask(Request::Events {})?;
        vm.signal(signal)?;
        let Event::Ended(end) = client.next_event()? else { return Err("no end came".into()) };
        assert_eq!(end.outcome, kiln::vmm::outcome::Outcome::Stopped);
        let socket = vm.socket.clone();
        assert_eq!(vm.ended()?.signal(), Some(signal));
        assert!(!socket.exists());
        assert!(std::fs::read_to_string(&trace)?.contains("POST"));
        std::fs::remove_file(&trace)?;
    }
    Ok(())
}
