//! A library's machine on its control socket: a vCPU that is held up holds up no client but those who wait for it.

use std::sync::mpsc;
use std::time::Duration;

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::evidence::RunDirectory;
use kiln::fixtures;
use kiln::gate::Needs;
use kiln::run::{Plan, Task, TaskIo, execute};
use kiln::verdict::Verdict;
use kiln::vmm::config::Backend;
use kiln::vmm::control::Client;
use kiln::vmm::control::protocol::{Held, Request, Status};
use kiln::vmm::machine::{Machine, MachineIo, MachineState};
use kiln::vmm::outcome::Outcome;

use super::control::{Result, expect, with};

/// Far more than any of these takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static SOCKET: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::socket::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()) as Came)
    };
    vec![
        case("vcpu_that_is_held_up_holds_up_no_other_client", held_up),
        case("two_machines_of_one_name_are_refused_in_one_process", one_process),
        case("output_that_is_lost_is_an_event_of_the_run", lost_output),
        case("failed_run_is_held_until_somebody_ends_its_machine", failed_run_is_held),
    ]
};

fn named(name: &str) -> Result<Machine> {
    let payload = fixtures::by_name("count").ok_or("no payload of that name")?;
    let super::Staged(mut config, _) = super::flat(payload)?;
    config.name = Some(name.to_owned());
    Ok(Machine::new(
        &config,
        MachineIo { serial: Box::new(std::io::sink()), console: None, ports: Vec::new() },
    )?)
}

/// A name that no other process has.
fn name(what: &str) -> String {
    format!("{what}-{}", std::process::id())
}

fn client(name: &str) -> Result<Client> {
    let client = Client::connect(name)?;
    client.set_limit(Some(LIMIT))?;
    Ok(client)
}

fn held_up() -> Result<()> {
    let name = name("held-up");
    let ended = with(named(&name)?, |machine| {
        let (let_go, holds) = mpsc::channel::<()>();
        let (there, is_there) = mpsc::channel();
        let busy = machine.clone();
        std::thread::scope(|scope| {
            // As a device would that takes its time.
            let slow = scope.spawn(move || {
                busy.run_on_vcpu(0, move |_| {
                    let _told = there.send(());
                    let _let_go = holds.recv();
                })
            });
            is_there.recv()?;
            let (mut first, mut second) = (client(&name)?, client(&name)?);
            let pausing = scope.spawn(move || first.ask_for::<Held>(Request::Pause { owner: None }));
            loop {
                let status: Status = second.ask_for(Request::Status {})?;
                assert_eq!(status.exits, None);
                if status.state == MachineState::Paused {
                    assert_eq!(status.holders, ["control"]);
                    break;
                }
            }
            assert!(!pausing.is_finished() && !slow.is_finished());
            drop(let_go);
            assert_eq!(pausing.join().map_err(|_| "the client panicked")??.state, MachineState::Paused);
            slow.join().map_err(|_| "the slow one panicked")??;
            let status: Status = second.ask_for(Request::Status {})?;
            assert!(status.exits.is_some());
            second.ask(Request::Stop {})?;
            Ok(())
        })
    })?;
    expect(&ended, &Outcome::Stopped)
}

fn one_process() -> Result<()> {
    let name = name("twice");
    let first = named(&name)?;
    let second = named(&name).err().ok_or("it has the name, too")?.to_string();
    assert_eq!(second, format!("the name {name} is taken by a machine of process {}", std::process::id()));
    // It can be asked before it runs.
    let status: Status = client(&name)?.ask_for(Request::Status {})?;
    assert_eq!((status.state, status.exits), (MachineState::Created, Some(0)));
    drop(first);
    drop(named(&name)?);
    assert!(client(&name).is_err());
    Ok(())
}

fn lost_output() -> Result<()> {
    let payload = fixtures::by_name("serial-hello").ok_or("no payload of that name")?;
    let super::Staged(mut machine, _) = super::flat(payload)?;
    machine.virtio_console = false;
    machine.com1 = Backend::File { path: "/dev/full".into() };
    let plan = Plan {
        machine,
        timeout: LIMIT,
        task: Task::Watch,
        show_console: false,
        allow_warning: false,
        hold: false,
    };
    let runs = tempfile::tempdir()?;
    let directory = std::sync::Arc::new(RunDirectory::begin(runs.path(), "payloads", "lost")?);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line: None };
    let _verdict = execute(&plan, &directory, io);
    let events = std::fs::read_to_string(directory.path().join("run.jsonl"))?;
    let told = events.lines().find(|line| line.contains("COM1 lost 21 bytes of output: No space left"));
    assert!(told.is_some_and(|line| line.contains("\"warning\"")), "{events}");
    Ok(())
}

/// The guest never ends; after the run's limit the machine is still there, until a client ends it.
fn failed_run_is_held() -> Result<()> {
    let payload = fixtures::by_name("count").ok_or("no payload of that name")?;
    let super::Staged(mut machine, _) = super::flat(payload)?;
    machine.virtio_console = false;
    let name = name("held-run");
    machine.name = Some(name.clone());
    let limit = Duration::from_millis(200);
    let plan = Plan {
        machine,
        timeout: limit,
        task: Task::Watch,
        show_console: false,
        allow_warning: false,
        hold: true,
    };
    let runs = tempfile::tempdir()?;
    let directory = std::sync::Arc::new(RunDirectory::begin(runs.path(), "payloads", "held")?);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            execute(
                &plan,
                &directory,
                TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line: None },
            )
        });
        let status = loop {
            let Ok(mut client) = client(&name) else { continue };
            let status: Status = client.ask_for(Request::Status {})?;
            if status.uptime_ms > 3 * 200 {
                break status;
            }
        };
        assert_eq!((status.state, status.deadline_stands), (MachineState::Running, true));
        assert!(!run.is_finished());
        client(&name)?.ask(Request::Stop {})?;
        let report = run.join().map_err(|_| "the run panicked")?;
        assert!(matches!(report.verdict, Verdict::Hang | Verdict::Timeout), "{:?}", report.verdict);
        Ok(())
    })
}
