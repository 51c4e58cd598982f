//! The half that runs where the KVM is: boots, saves and forks a guest, with a small case in each.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command as Process, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kiln::agent::{Adoption, Client, Command, ProcessEvent, Status};
use kiln::fork::{self, Snapshot};
use kiln::rootfs::cache::Cache;
use kiln::vmm::machine::{Machine, MachineIo, RestoreIo, Running};
use kiln::vmm::outcome::Outcome;

use super::case::{NAME, WORD};
use super::spec::{AdoptionSteps, Came, Spec, Steps};
use crate::exit::Exit;

/// The word that makes this program measure what it finds in the lab.
pub(crate) const INNER_FORK: &str = "inner-fork";
/// The word that makes it restore one machine and ask it something.
pub(crate) const INNER_FORK_RESTORE: &str = "inner-fork-restore";
/// The word that makes it be the case, in a guest.
pub(crate) const INNER_FORK_CASE: &str = "inner-fork-case";

/// How many machines boot.
const BOOTS: usize = 3;
/// How many forks are looked at one by one.
const FORKS: usize = 11;
/// How often the case runs in a guest that knows it.
const OWN: usize = 5;
/// How many processes restore a machine.
const PROCESSES: usize = 5;
/// How many cases follow each other.
const IN_TURN: u32 = 100;
/// The limit for whatever has an end, on the lab's clock.
const LIMIT: Duration = Duration::from_secs(5);
/// After so long without a word a guest spins, on the lab's clock: a boot takes less than two seconds.
const SILENCE: Duration = Duration::from_secs(3);
/// How often what a spinning guest spoilt is tried.
const TRIES: usize = 5;
/// For how long an idle fork is left alone.
const IDLE: Duration = Duration::from_secs(1);
/// A file that every guest has, and which costs next to nothing to read.
const SMALL_FILE: &str = "/proc/uptime";

/// Is the case, in a guest.
pub(crate) fn inner_case() -> Exit {
    if kiln::cases::main("bench") == ExitCode::SUCCESS { Exit::PASSED } else { Exit::FAILED }
}

/// Measures what the file at `spec` says, and prints what came of it, a line each.
pub(crate) fn inner_fork(spec: &Path) -> Result<()> {
    let (text, spec) = (spec, read(spec)?);
    for _ in 0..BOOTS {
        say(&Came::Boot(again(|| boot(&spec))?))?;
    }
    for own in again(|| own(&spec))? {
        say(&Came::Own(own))?;
    }
    let (snapshot, saved) = again(|| {
        let began = Instant::now();
        Ok((snapshot(&spec)?, ms(began)))
    })?;
    say(&Came::Saved(saved))?;
    for _ in 0..FORKS {
        say(&Came::New(again(|| forked(&snapshot, &spec, false))?))?;
    }
    say(&Came::Idle(again(|| idle(&snapshot, &spec))?))?;
    // The first leaves the others what they are put on.
    again(|| forked(&snapshot, &spec, true))?;
    for _ in 0..FORKS {
        say(&Came::Fork(again(|| forked(&snapshot, &spec, true))?))?;
    }
    for _ in 0..FORKS {
        say(&Came::Adoption(again(|| adoption(&snapshot, &spec))?))?;
    }
    for _ in 0..PROCESSES {
        say(&Came::Restored(again(|| process(&spec, text))?))?;
    }
    let mut took = 0.0;
    for turn in 1..=IN_TURN {
        took += again(|| {
            let began = Instant::now();
            forked(&snapshot, &spec, true)?;
            Ok(ms(began))
        })?;
        say(&Came::InTurn(turn, took))?;
    }
    Ok(())
}

/// Does `what`, once more if it fails: a guest may spin for ever where the lab's clock counts instructions
/// ([`kiln::lab::LabSpec::counts_instructions`]). What came to nothing is told, and counts for nothing.
fn again<R>(mut what: impl FnMut() -> Result<R>) -> Result<R> {
    for _ in 1..TRIES {
        match what() {
            Ok(came) => return Ok(came),
            Err(error) => say(&Came::Nothing(format!("{error:#}")))?,
        }
    }
    what()
}

/// The host's and the machine's end of an agent's port. The host's gives up a guest that is silent.
fn port() -> Result<(UnixStream, UnixStream)> {
    let (near, far) = UnixStream::pair()?;
    near.set_read_timeout(Some(SILENCE))?;
    Ok((near, far))
}

/// Restores a machine, says when its agent has answered, and ends.
pub(crate) fn inner_restore(spec: &Path) -> Result<()> {
    let spec = read(spec)?;
    let (near, far) = port()?;
    let (machine, adopting) = snapshot(&spec)?.fork(&spec.disk, restore_io(far))?;
    let running = machine.start()?;
    let (client, _unused) = adopting.unadopted(near)?;
    client.get(SMALL_FILE, &mut io::sink())?;
    println!("answered");
    drop(running);
    Ok(())
}

fn read(spec: &Path) -> Result<Spec> {
    serde_json::from_slice(&std::fs::read(spec)?).context("read what is to be measured")
}

fn say(came: &Came) -> Result<()> {
    println!("{}", serde_json::to_string(came)?);
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn snapshot(spec: &Spec) -> Result<Snapshot> {
    let cache = Cache::open(Some(spec.cache.clone()))?;
    Ok(Snapshot::of(&cache, &spec.base, LIMIT)?)
}

fn restore_io(port: UnixStream) -> RestoreIo {
    RestoreIo {
        name: None,
        serial: Box::new(io::sink()),
        console: None,
        ports: vec![port],
        reserved_disk: None,
    }
}

/// A machine of `spec` that booted until its agent said hello.
fn booted(spec: &Spec) -> Result<(Running, Client)> {
    let (near, far) = port()?;
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: vec![far] };
    let running = Machine::new(&spec.whole, io)?.start()?;
    Ok((running, Client::connect(near)?))
}

fn boot(spec: &Spec) -> Result<Steps> {
    let before = anonymous()?;
    let began = Instant::now();
    let (near, far) = port()?;
    let io = MachineIo { serial: Box::new(io::sink()), console: None, ports: vec![far] };
    let machine = Machine::new(&spec.whole, io)?;
    let mut steps = Steps { made: ms(began), ..Steps::default() };
    let running = machine.start()?;
    steps.started = ms(began);
    let client = Client::connect(near)?;
    steps.ready = ms(began);
    finish(spec, began, before, steps, &client, running, false)
}

/// A case in a fork. What is left of that is kept for the next one or not.
fn forked(snapshot: &Snapshot, spec: &Spec, keep: bool) -> Result<Steps> {
    let before = anonymous()?;
    let began = Instant::now();
    let (near, far) = port()?;
    let (machine, adopting) = snapshot.fork(&spec.disk, restore_io(far))?;
    let mut steps = Steps { made: ms(began), ..Steps::default() };
    let running = machine.start()?;
    steps.started = ms(began);
    let client = adopting.adopt(near)?;
    steps.ready = ms(began);
    finish(spec, began, before, steps, &client, running, keep)
}

/// Runs the case in a guest that is ready, and takes the machine down.
fn finish(
    spec: &Spec,
    began: Instant,
    before: u64,
    mut steps: Steps,
    client: &Client,
    running: Running,
    keep: bool,
) -> Result<Steps> {
    case(spec, client, || steps.asserted = ms(began))?;
    steps.exited = ms(began);
    steps.dirtied = anonymous()?.saturating_sub(before);
    running.controller().dismiss();
    let (ended, chassis) = running.wait_and_keep(Some(Instant::now() + LIMIT));
    if ended.outcome != Outcome::Dismissed {
        bail!("a guest that was dismissed ended otherwise: {:?}", ended.outcome);
    }
    if keep {
        chassis.into_iter().for_each(fork::keep);
    }
    steps.ended = ms(began);
    Ok(steps)
}

/// Runs the case in a guest; `asserted` is called when its first assertion held.
fn case(spec: &Spec, client: &Client, mut asserted: impl FnMut()) -> Result<()> {
    let argv = vec![spec.program.to_string_lossy().into_owned(), INNER_FORK_CASE.to_owned()];
    let env = vec![("KILN_GUEST_CASE".to_owned(), NAME.to_owned())];
    let mut process = client.exec(Command { argv, env, events: true, ..Command::default() })?;
    let (mut said, mut held) = (Vec::new(), false);
    loop {
        match process.next_event()? {
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => said.extend(bytes),
            ProcessEvent::Exited(Status::Code(0)) if held => return Ok(()),
            ProcessEvent::Exited(status) => {
                bail!("the case ended with {status:?}: {}", String::from_utf8_lossy(&said).trim())
            }
            ProcessEvent::Started(_) | ProcessEvent::Events(_) => {}
        }
        if !held && said.starts_with(WORD.as_bytes()) {
            held = true;
            asserted();
        }
    }
}

/// How long the case takes by itself: in a guest that has run it once.
fn own(spec: &Spec) -> Result<Vec<f64>> {
    let (running, client) = booted(spec)?;
    case(spec, &client, || ())?;
    let mut all = Vec::new();
    for _ in 0..OWN {
        let began = Instant::now();
        case(spec, &client, || ())?;
        all.push(ms(began));
    }
    drop(running);
    Ok(all)
}

/// Where the time of an adoption goes, step by step.
fn adoption(snapshot: &Snapshot, spec: &Spec) -> Result<AdoptionSteps> {
    let (near, far) = port()?;
    let (machine, adopting) = snapshot.fork(&spec.disk, restore_io(far))?;
    let began = Instant::now();
    let running = machine.start()?;
    let (client, adoption) = adopting.unadopted(near)?;
    client.get(SMALL_FILE, &mut io::sink())?;
    let answered = ms(began);
    client.get(SMALL_FILE, &mut io::sink())?;
    let again = ms(began) - answered;
    let adopt = |adoption: Adoption| -> Result<f64> {
        let began = Instant::now();
        client.adopt(&adoption)?;
        Ok(ms(began))
    };
    let entropy = adoption.entropy.clone();
    let clock = adopt(Adoption { entropy, ..Adoption::default() })?;
    let whole = adopt(adoption)?;
    let began = Instant::now();
    case(spec, &client, || ())?;
    let case_first = ms(began);
    let began = Instant::now();
    case(spec, &client, || ())?;
    let case_again = ms(began);
    running.controller().dismiss();
    running.wait_and_keep(None).1.into_iter().for_each(fork::keep);
    Ok(AdoptionSteps { answered, again, clock, whole, case_first, case_again })
}

/// What a fork takes that was adopted and has nothing to do.
fn idle(snapshot: &Snapshot, spec: &Spec) -> Result<u64> {
    let before = anonymous()?;
    let (near, far) = port()?;
    let (machine, adopting) = snapshot.fork(&spec.disk, restore_io(far))?;
    let running = machine.start()?;
    let client = adopting.adopt(near)?;
    std::thread::sleep(IDLE);
    let after = anonymous()?;
    drop((client, running));
    Ok(after.saturating_sub(before))
}

/// From the start of a process to the first answer of the fork that it makes.
fn process(spec: &Spec, text: &Path) -> Result<f64> {
    let began = Instant::now();
    let mut child = Process::new(&spec.program)
        .arg(INNER_FORK_RESTORE)
        .arg(text)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start ourselves")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("no standard output")?;
    let read = BufReader::new(stdout).read_line(&mut line);
    let took = ms(began);
    let status = child.wait()?;
    if read.is_err() || line.trim() != "answered" || !status.success() {
        bail!("a process that was to restore a machine ended with {status}");
    }
    Ok(took)
}

/// Anonymous memory of this process, in bytes: of guests' RAM, what they dirtied (proc(5), `smaps_rollup`).
fn anonymous() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").context("measure this process")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no anonymous memory")?;
    let kib: u64 = line.trim_end_matches("kB").trim().parse().context("read what memory there is")?;
    Ok(kib * 1024)
}
