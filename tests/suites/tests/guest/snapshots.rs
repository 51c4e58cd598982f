//! A Linux guest that is saved once it has said hello, and goes on in forks.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln::agent::{Client, Command, Process, ProcessEvent, Status};
use kiln::cases::{CASES, Case, linkme, machine_for};
use kiln::gate::Needs;
use kiln::guest_test;
use kiln::vmm::config::{Boot, DiskConfig};
use kiln::vmm::machine::{Machine, MachineIo, ReservedDisk, RestoreIo, Running};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::vcpu::state::MpState;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than a guest in the lab takes for anything here.
const LIMIT: Duration = Duration::from_secs(600);
/// What a kernel says of time that jumped, and of interrupts that were lost.
const COMPLAINTS: [&str; 5] = ["soft lockup", "rcu: INFO", "hung task", "I/O error", "WARNING:"];
/// Two clocks that differ by so many nanoseconds after half a second: time jumped by what a machine was saved for, and more. A busy
/// emulator is held up between a look at the one and at the other, and its guest, which minds a millisecond, says so.
const SKEW_MAX: u64 = 50_000_000;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static SNAPSHOTS: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("guest::snapshots::{name}");
        Case::host(&path, Needs::Linux, move || body().map_err(|error| kiln::vmm::chain(&*error)))
    };
    vec![
        case("forks_of_a_guest_with_one_processor_go_on", || forks(1)),
        case("forks_of_a_guest_with_two_processors_go_on", || forks(2)),
        case("processor_that_was_never_started_or_was_stopped_starts_in_a_fork", processor_that_waits),
    ]
};

/// A guest's console.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the guest half of another case of this binary.
fn case(client: &Client, name: &str) -> Result<()> {
    let argv = vec![std::env::current_exe()?.to_string_lossy().into_owned()];
    let env = vec![("KILN_GUEST_CASE".to_owned(), name.to_owned())];
    let mut process = client.exec(Command { argv, env, ..Command::default() })?;
    let mut said = Vec::new();
    loop {
        match process.next_event()? {
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => said.extend(bytes),
            ProcessEvent::Exited(Status::Code(0)) => return Ok(()),
            ProcessEvent::Exited(_) => return Err(String::from_utf8_lossy(&said).into_owned().into()),
            _ => {}
        }
    }
}

/// Reads all of the disk: what is in the middle of it when a guest is saved.
#[guest_test(disk = scratch("4M"))]
fn disk_is_read_to_its_end() -> std::io::Result<()> {
    let mut disk = std::fs::File::open("/dev/vda")?;
    println!("ready");
    let read = std::io::copy(&mut disk, &mut std::io::sink())?;
    assert!(read.is_multiple_of(1 << 20), "{read} bytes");
    Ok(())
}

/// Has a program read all of the disk, and comes back when it is about to.
fn begin_to_read(client: &Client) -> Result<Process> {
    let argv = vec![std::env::current_exe()?.to_string_lossy().into_owned()];
    let env = vec![("KILN_GUEST_CASE".to_owned(), "snapshots::disk_is_read_to_its_end".to_owned())];
    let mut process = client.exec(Command { argv, env, ..Command::default() })?;
    let mut said = Vec::new();
    while said != b"ready\n" {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => said.extend(bytes),
            other => return Err(format!("it was to say that it is ready: {other:?}").into()),
        }
    }
    Ok(process)
}

fn file(client: &Client, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.get(path, &mut bytes)?;
    Ok(bytes)
}

/// The guest's uptime, in seconds.
fn uptime(client: &Client) -> Result<f64> {
    let text = String::from_utf8(file(client, "/proc/uptime")?)?;
    Ok(text.split_whitespace().next().ok_or("no uptime")?.parse()?)
}

/// Has the second processor be `on` or off line, and see to it that it is.
fn switch(on: bool) -> std::io::Result<()> {
    std::fs::write("/sys/devices/system/cpu/cpu1/online", if on { "1" } else { "0" })?;
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    assert_eq!(online.trim(), if on { "0-1" } else { "0" });
    Ok(())
}

#[guest_test(cpus = 2)]
fn second_processor_stops_and_starts() -> std::io::Result<()> {
    // Where a fork of a guest with one processor on line runs it, it begins with the second half.
    if std::fs::read_to_string("/sys/devices/system/cpu/online")?.trim() == "0-1" {
        switch(false)?;
    }
    switch(true)
}

#[guest_test(cpus = 2)]
fn second_processor_stops() -> std::io::Result<()> {
    switch(false)
}

/// A fork that answers, and its console.
struct Fork {
    running: Running,
    client: Client,
    said: Said,
}

fn fork(at: &Path, first: &Client, reserved: Option<&Path>) -> Result<Fork> {
    let (near, far) = UnixStream::pair()?;
    let said = Said::default();
    let machine = Machine::restore(
        at,
        RestoreIo {
            name: None,
            serial: Box::new(said.clone()),
            console: None,
            ports: vec![far],
            reserved_disk: reserved.map(|disk| ReservedDisk::Block(disk.to_owned())),
        },
    )?;
    let client = Client::of_fork(near, first.hello().clone(), first.last_request())?;
    Ok(Fork { running: machine.start()?, client, said })
}

impl Fork {
    /// What went wrong in it, and what its kernel said.
    fn failed(&self, index: u8, error: &dyn std::error::Error) -> String {
        format!("fork {index}: {}; its console:\n{}", kiln::vmm::chain(error), self.said.text())
    }
}

/// Has a fork write to memory and to its disk what is its own.
fn write(Fork { client, .. }: &Fork, index: u8) -> Result<()> {
    assert_eq!(file(client, "/tmp/shared")?, b"before", "what a sibling wrote is not here");
    client.put("/tmp/shared", 0o600, &mut &[index][..])?;
    client.put("/dev/vda", 0o600, &mut vec![index; 1 << 20].as_slice())?;
    client.sync()?;
    Ok(())
}

/// Looks at what a fork finds, when all have written.
fn look(Fork { client, .. }: &Fork, index: u8, cpus: u32, content: &[u8]) -> Result<()> {
    assert_eq!(file(client, "/tmp/shared")?, [index]);
    let own = file(client, "/dev/vda")?;
    assert!(own[..1 << 20].iter().all(|byte| *byte == index), "fork {index} reads what it wrote");
    assert!(own[1 << 20..] == content[1 << 20..], "and of the rest what was there");
    let reserved = file(client, "/dev/vdb")?;
    assert!(reserved == vec![b'a' + index; 1 << 20], "{} bytes of the reserved disk", reserved.len());
    let online = file(client, "/sys/devices/system/cpu/online")?;
    assert_eq!(String::from_utf8(online)?.trim(), if cpus == 1 { "0" } else { "0-1" });
    case(client, "time::clock_is_that_of_kvm")?;
    case(client, "time::sleep_takes_no_less_than_it_was_to")?;
    if cpus == 2 {
        case(client, "time::timer_of_each_processor_counts")?;
    }
    Ok(())
}

fn forks(cpus: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    // Bytes that tell their place.
    let content: Vec<u8> = (0u32..4 << 20).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&disk, &content)?;
    let mut config = machine_for(cpus, 192)?;
    config.disks = vec![DiskConfig { path: disk.clone(), read_only: false }];
    config.reserved_disk = true;

    let (near, far) = UnixStream::pair()?;
    let boot = Said::default();
    let io = MachineIo { serial: Box::new(boot.clone()), console: None, ports: vec![far] };
    let running = Machine::new(&config, io)?.start()?;
    let first = Client::connect(near)?;
    let before = uptime(&first)?;
    first.put("/tmp/shared", 0o600, &mut &b"before"[..])?;
    let at: PathBuf = folder.path().join("snapshot");
    // In the middle of the disk when the guest is saved.
    let _reader = begin_to_read(&first)?;
    let began = Instant::now();
    running.save(&at)?;
    eprintln!("{cpus} CPUs: saved after {:?}", began.elapsed());

    let began = Instant::now();
    let mut forks = Vec::new();
    for index in 0..3u8 {
        let reserved = folder.path().join(format!("reserved{index}"));
        std::fs::write(&reserved, vec![b'a' + index; 1 << 20])?;
        let fork = fork(&at, &first, Some(&reserved))?;
        let now =
            uptime(&fork.client).map_err(|error| format!("fork {index}: {error}\n{}", fork.said.text()))?;
        let most = before + LIMIT.as_secs_f64();
        assert!((before..most).contains(&now), "uptime {now} after {before}");
        forks.push(fork);
    }
    eprintln!("{cpus} CPUs: three forks have answered after {:?}", began.elapsed());
    for (index, fork) in (0u8..).zip(&forks) {
        write(fork, index).map_err(|error| fork.failed(index, &*error))?;
    }
    for (index, fork) in (0u8..).zip(&forks) {
        look(fork, index, cpus, &content).map_err(|error| fork.failed(index, &*error))?;
    }
    assert!(std::fs::read(&disk)? == content, "the disk's file is as it was");
    for Fork { running, client, said } in forks {
        client.power_off()?;
        let ended = running.wait(Some(Instant::now() + LIMIT));
        assert_eq!(ended.outcome, Outcome::PowerOff, "{}", said.text());
        let text = said.text();
        assert_eq!(complaint(&text), None, "{text}");
    }
    Ok(())
}

/// A second processor that has waited for its first start-up interrupt since the machine was built, and one that Linux has
/// stopped: both start in a fork.
fn processor_that_waits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = machine_for(2, 192)?;
    if let Boot::Kernel { cmdline, .. } = &mut config.boot {
        cmdline.push_str(" maxcpus=1");
    }
    let (near, far) = UnixStream::pair()?;
    let boot = Said::default();
    let io = MachineIo { serial: Box::new(boot.clone()), console: None, ports: vec![far] };
    let running = Machine::new(&config, io)?.start()?;
    let first = Client::connect(near)?;
    let states = running.controller().vcpu_states()?;
    assert_eq!(states[1].mp_state, MpState::Uninitialized, "{}", boot.text());
    let never_started = folder.path().join("never-started");
    running.save(&never_started)?;

    let one = fork(&never_started, &first, None)?;
    let runs = |fork: &Fork, index, what: &str| {
        case(&fork.client, what).map_err(|error| fork.failed(index, &*error))
    };
    runs(&one, 1, "snapshots::second_processor_stops_and_starts")?;
    runs(&one, 1, "time::timer_of_each_processor_counts")?;
    runs(&one, 1, "snapshots::second_processor_stops")?;
    let stopped = folder.path().join("stopped");
    let Fork { running, client, .. } = one;
    running.save(&stopped)?;

    let two = fork(&stopped, &client, None)?;
    runs(&two, 2, "snapshots::second_processor_stops_and_starts")?;
    runs(&two, 2, "time::timer_of_each_processor_counts")?;
    let text = two.said.text();
    assert_eq!(complaint(&text), None, "{text}");
    Ok(())
}

/// What a kernel complains of that matters here.
fn complaint(text: &str) -> Option<&str> {
    // As in `Clocksource 'tsc' skewed -1684470 ns (-1 ms) over watchdog …` (Linux, kernel/time/clocksource.c).
    let skew = |line: &str| line.split_once(" skewed ")?.1.split_once(" ns")?.0.parse::<i64>().ok();
    let is_skewed = |line: &&str| skew(line).is_some_and(|skew| skew.unsigned_abs() > SKEW_MAX);
    let skewed = text.lines().find(is_skewed);
    skewed.or_else(|| COMPLAINTS.into_iter().find(|complaint| text.contains(complaint)))
}
