//! Carries out a plan on this host's KVM.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_rootfs::kernel::check::need;
use kiln_vmm::chain;
use kiln_vmm::config::MachineConfig;
use kiln_vmm::dump::VcpuDump;
use kiln_vmm::machine::{ConsoleEnd, Ended, Machine, MachineError, MachineIo, RestoreIo, Running};
use kiln_vmm::outcome::Outcome;

use super::hold::{Hold, machine_name};
use super::judge::{Facts, TaskState, judge};
use super::plan::{Plan, Task};
use super::report::{Assertion, Report};
use super::session::{BodyEnd, Parts, Session, Wishes};
use super::task::{Body, Progress, TaskIo, hand_over, perform};
use super::typist::Typist;
use crate::agent::AgentError;
use crate::console::{Console, sanitize};
use crate::evidence::RunDirectory;
use crate::fork::{self, Fork};
use crate::verdict::Verdict;

/// How long a guest has to power off once it was asked to, or to show why its agent died.
const GRACE: Duration = Duration::from_secs(20);

/// How many bytes of a console are kept.
const LOG_MAX: usize = 256 << 20;
/// What follows them.
const LOG_ENDS: &[u8] = b"\n[kiln keeps no more of this console]\n";

/// What a kernel says of an image that is too large for it (init/initramfs.c).
const NO_ROOM: &str = "Initramfs unpacking failed: write error";

/// Carries out `plan` on this host's KVM, leaves its evidence in `directory`, and says what it came to.
///
/// This never fails: what goes wrong is in the report.
#[must_use]
pub fn execute(plan: &Plan, directory: &Arc<RunDirectory>, io: TaskIo<'_>) -> Report {
    carry_out(plan, None, directory, io, None)
}

/// As [`execute`], with `body` in the place of the plan's task: what it returns is the one assertion. The machine goes on from
/// `fork`, if there is one and it can be had.
#[must_use]
pub(crate) fn execute_with(
    plan: &Plan,
    fork: Option<&Fork>,
    directory: &Arc<RunDirectory>,
    body: impl FnOnce(Session) -> (BodyEnd, Session) + Send,
) -> Report {
    let (mut out, mut err) = (io::sink(), io::sink());
    let io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line: None };
    carry_out(plan, fork, directory, io, Some(Box::new(body)))
}

fn carry_out(
    plan: &Plan,
    fork: Option<&Fork>,
    directory: &Arc<RunDirectory>,
    io: TaskIo<'_>,
    body: Option<Body<'_>>,
) -> Report {
    let (report, dumps) = run(plan, fork, directory, io, body).unwrap_or_else(|error| {
        let verdict = if error.is_environment() { Verdict::Untestable } else { Verdict::Vmm };
        (Report::without_machine(verdict, chain(&error)), Vec::new())
    });
    // Evidence that can't be written (a full disk) must not change the verdict.
    let _ = directory.json("report.json", &report);
    let _ = if report.verdict == Verdict::Passed {
        directory.passed()
    } else {
        if !dumps.is_empty() {
            let _ = directory.json("vcpus.json", &dumps);
        }
        let where_they_stood: String = report.vcpus.iter().map(|dump| format!("\n{dump}")).collect();
        directory.failed(&format!("{}\n{where_they_stood}", report.reason()))
    };
    report
}

/// What happens to run while the machine does.
struct Shared {
    console: Arc<Mutex<Console>>,
    typist: Arc<Typist>,
    /// Set before the machine is stopped by us, or by whoever looks at it, for another reason than its limit.
    stopped_early: AtomicBool,
    /// If the machine is left running where its run fails.
    hold: Option<Hold>,
}

fn run(
    plan: &Plan,
    fork: Option<&Fork>,
    directory: &Arc<RunDirectory>,
    mut io: TaskIo<'_>,
    body: Option<Body<'_>>,
) -> Result<(Report, Vec<VcpuDump>), MachineError> {
    // There from the start, also when the guest never says a word.
    let _ = directory.append("console.log", b"");
    let typist = Arc::new(Typist::new(match &plan.task {
        Task::Console { prompt } => prompt.as_deref(),
        _ => None,
    }));
    let mut config = plan.machine.clone();
    if plan.hold {
        config.name.get_or_insert_with(|| machine_name(directory.relative()));
    }
    let hold = config.name.clone().filter(|_| plan.hold).map(Hold::new);
    let shared =
        Arc::new(Shared { console: Arc::default(), typist, stopped_early: AtomicBool::new(false), hold });
    let (turns, next) = mpsc::channel::<Parts>();
    let wishes = body.is_some().then(|| Arc::new(Wishes::new(next, shared.console.clone())));
    let mut echo = if plan.show_console { io.console.take() } else { None };
    // Only the first goes on from a snapshot: another begins as its reset line has it.
    let mut first = fork;
    let mut begin = || {
        if let Some(fork) = first.take() {
            match start(&config, Some(fork), &shared, wishes.as_ref(), directory, None) {
                Ok(started) => return Ok(started),
                Err(error) => {
                    let what = format!("no fork can be had ({}); the machine boots", chain(&error));
                    let _ = directory.event("vmm", "warning", &what);
                    if let MachineError::Snapshot(error) = &error
                        && error.is_stale()
                    {
                        fork.snapshot.give_up();
                    }
                }
            }
        }
        if let Some(fork) = fork {
            let name = config.name.take();
            config = (fork.boot)().map_err(|why| MachineError::Io(io::Error::other(why)))?;
            config.name = name;
        }
        start(&config, None, &shared, wishes.as_ref(), directory, echo.take())
    };

    let began = Instant::now();
    let deadline = began + plan.timeout;
    let (running, parts) = begin()?;
    let _ = directory.event("vmm", "info", "the machine runs");
    if matches!(plan.task, Task::Watch | Task::Console { .. }) {
        let input = io.stdin.take().unwrap_or_else(|| Box::new(io::empty()));
        shared.typist.begin(input, running.serial_input()).map_err(MachineError::Io)?;
    }

    let mut progress = Progress::default();
    let ended = std::thread::scope(|scope| {
        let (machine_ended, watch_end) = mpsc::channel::<()>();
        let (limit_ended, watch_limit) = mpsc::channel::<()>();
        let (progress, io, shared) = (&mut progress, &mut io, &shared);
        let wishes = wishes.as_ref();
        if parts.port.is_some() {
            scope.spawn(move || match (body, wishes) {
                (Some(body), Some(wishes)) => attend_body(body, parts, wishes, directory, progress, shared),
                _ => attend(&plan.task, parts, directory, io, progress, shared, &watch_end),
            });
        }
        if let Some(hold) = &shared.hold {
            scope.spawn(move || {
                if watch_limit.recv_timeout(plan.timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
                    hold.tell(&format!("no end within {:?}", plan.timeout));
                }
            });
        }
        let mut running = running;
        let ended = loop {
            // One that is kept has no deadline: a busy host may have come this far only when that was over.
            let (ended, chassis) = running.wait_and_keep(shared.hold.is_none().then_some(deadline));
            chassis.into_iter().for_each(fork::keep);
            note_losses(directory, &ended);
            let Some(wishes) = wishes else { break Ok(ended) };
            wishes.search.end();
            if !wishes.take_again() || Instant::now() >= deadline {
                break Ok(ended);
            }
            let _ = directory.event(
                "vmm",
                "info",
                &format!("the machine ended: {:?}; another begins", ended.outcome),
            );
            wishes.search.begin();
            match begin() {
                Ok((next, parts)) => {
                    running = next;
                    // A body that does not want it any more has its end all the same.
                    let _ = turns.send(parts);
                }
                Err(error) => break Err(error),
            }
        };
        drop(limit_ended);
        shared.typist.end();
        drop((machine_ended, turns));
        ended
    })?;
    let _ = directory.json("trace.json", &ended.trace);
    let _ = directory.event("vmm", "info", &format!("the machine ended: {:?}", ended.outcome));
    let cut = wishes.is_some_and(|wishes| wishes.power_is_cut());
    Ok((report(plan, &shared, &ended, cut, progress, began), ended.dumps))
}

/// Notes what the machine's devices had no room for.
fn note_losses(directory: &RunDirectory, ended: &Ended) {
    for lost in &ended.lost {
        let _ = directory.event("vmm", "warning", &lost.to_string());
    }
}

/// The first of what failed, in words.
fn failure(progress: &Progress) -> Option<String> {
    let failed = progress.assertions.iter().find(|assertion| !assertion.ok)?;
    Some(format!("{} failed", sanitize(failed.name.as_bytes())))
}

/// Starts a machine of the plan's make: the one place where that is done.
fn start(
    config: &MachineConfig,
    fork: Option<&Fork>,
    shared: &Arc<Shared>,
    wishes: Option<&Arc<Wishes>>,
    directory: &Arc<RunDirectory>,
    echo: Option<Box<dyn Write + Send>>,
) -> Result<(Running, Parts), MachineError> {
    let mut serial = Box::new(Tap {
        shared: shared.clone(),
        wishes: wishes.cloned(),
        room: LOG_MAX,
        directory: directory.clone(),
        echo,
    });
    let mut far_ends = Vec::new();
    let mut port = None;
    for _ in &config.ports {
        let (near, far) = UnixStream::pair().map_err(MachineError::Io)?;
        far_ends.push(far);
        port.get_or_insert(near);
    }
    let (console, console_end) = console_ends(config.virtio_console && wishes.is_some())?;
    let (mut machine, adopting) = match fork {
        Some(fork) => {
            // What a guest said before it was saved is each fork's own past.
            serial.write_all(fork.snapshot.console()).map_err(MachineError::Io)?;
            let name = config.name.clone();
            let io = RestoreIo { name, serial, console: console_end, ports: far_ends, reserved_disk: None };
            let (machine, adopting) =
                fork.restore(io).map_err(|error| MachineError::Snapshot(Box::new(error)))?;
            (machine, Some(adopting))
        }
        None => (Machine::new(config, MachineIo { serial, console: console_end, ports: far_ends })?, None),
    };
    machine.tell_unclaimed({
        let directory = directory.clone();
        move |report| report.lines().for_each(|line| drop(directory.event("vmm", "info", &line)))
    });
    let running = machine.start()?;
    let machine = running.controller();
    if shared.hold.is_some() {
        Hold::keep(&machine);
    }
    let forked = adopting.is_some();
    Ok((running, Parts { port, console, machine, adopting, forked }))
}

/// A virtio console for those who want one: the host's end, and the machine's.
fn console_ends(wanted: bool) -> Result<(Option<UnixStream>, Option<ConsoleEnd>), MachineError> {
    if !wanted {
        return Ok((None, None));
    }
    let (near, far) = UnixStream::pair().map_err(MachineError::Io)?;
    let output = Box::new(far.try_clone().map_err(MachineError::Io)?);
    Ok((Some(near), Some(ConsoleEnd { input: Some(far.into()), output })))
}

/// Does the task, then sees to it that the machine ends.
fn attend(
    task: &Task,
    parts: Parts,
    directory: &RunDirectory,
    io: &mut TaskIo<'_>,
    progress: &mut Progress,
    shared: &Shared,
    watch_end: &mpsc::Receiver<()>,
) {
    let Some(port) = parts.port.filter(|_| *task != Task::Watch) else { return };
    let came = perform(task, port, directory, io, progress);
    if let (Some(hold), Ok(Some(_)), Some(why)) = (&shared.hold, &came, failure(progress)) {
        shared.stopped_early.store(true, Ordering::SeqCst);
        hold.tell(&why);
        let _ended = watch_end.recv();
        return;
    }
    match came {
        // It is typed to, and ends by itself.
        Ok(Some(_client))
            if matches!(task, Task::Console { .. }) && shared.typist.has_anything() != Some(false) =>
        {
            progress.done = false;
            let _ended = watch_end.recv();
            return;
        }
        Ok(Some(client)) => drop(client.power_off()),
        Ok(None) => {}
        Err(error) => {
            // A guest whose agent broke its word was not powered off by who sat there.
            progress.runs &= matches!(error, AgentError::Lost);
            drop(directory.event("agent", "error", &chain(&error)));
        }
    }
    // A guest that does not end by itself is stopped; until then its console is still read, so that a panic
    // which follows the agent's death is not lost.
    if watch_end.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
        shared.stopped_early.store(true, Ordering::SeqCst);
        if let Some(hold) = &shared.hold {
            hold.tell("the guest does not end");
            let _ended = watch_end.recv();
            return;
        }
        parts.machine.stop();
    }
}

/// As [`attend`], with a body on the host that may have changed machines meanwhile.
fn attend_body(
    body: Body<'_>,
    parts: Parts,
    wishes: &Arc<Wishes>,
    directory: &RunDirectory,
    progress: &mut Progress,
    shared: &Shared,
) {
    let mut machine = parts.machine.clone();
    match hand_over(body, parts, wishes, directory, progress) {
        Ok(session) => {
            machine = session.machine().clone();
            let stands = !progress.gone && !session.power_is_cut();
            if let (Some(hold), true, Some(why)) = (&shared.hold, stands, failure(progress)) {
                shared.stopped_early.store(true, Ordering::SeqCst);
                hold.tell(&why);
                wishes.wait_for_end();
                return;
            }
            // A case's guest has nothing that a body which is through still wants written. A fork need not even shut down:
            // it shares what it has, and what it wrote to disks is its own.
            if session.is_forked() && stands && failure(progress).is_none() {
                machine.dismiss();
            } else {
                let _gone = session.client().power_off();
            }
        }
        Err(error) => drop(directory.event("agent", "error", &chain(&error))),
    }
    if !wishes.ends_within(GRACE) {
        shared.stopped_early.store(true, Ordering::SeqCst);
        if let Some(hold) = &shared.hold {
            hold.tell("the guest does not end");
            wishes.wait_for_end();
            return;
        }
        machine.stop();
    }
}

fn report(
    plan: &Plan,
    shared: &Shared,
    ended: &Ended,
    cut: bool,
    mut progress: Progress,
    began: Instant,
) -> Report {
    let typed_to = matches!(plan.task, Task::Console { .. }) && shared.typist.has_anything() == Some(true);
    // Whoever sits at a terminal in the guest may power it off.
    let sat_at = plan.has_terminal() && progress.runs;
    if (plan.task == Task::Watch || typed_to || (sat_at && !progress.done))
        && matches!(ended.outcome, Outcome::PowerOff | Outcome::DebugExit { value: 0 })
    {
        progress.assertions.push(Assertion {
            name: "boot::guest_ends_by_itself".to_owned(),
            ok: true,
            message: String::new(),
        });
    }
    let mut console = shared.console.lock().unwrap_or_else(PoisonError::into_inner).summary();
    if plan.allow_warning && !console.panicked {
        console.first = None;
    }
    // Its power was cut, which is what was wanted.
    let outcome = if cut { &Outcome::PowerOff } else { &ended.outcome };
    let at_limit = *outcome == Outcome::Stopped && !shared.stopped_early.load(Ordering::SeqCst);
    // What its programs say counts as talk too.
    let last = console.last_output.max(progress.last_output);
    let silent = at_limit.then(|| last.map_or(plan.timeout, |at| at.elapsed()));
    let stuck = *outcome == Outcome::Stopped && !at_limit;
    let failed = if progress.gone { 0 } else { progress.assertions.iter().filter(|a| !a.ok).count() };
    let task = match (&plan.task, progress.done) {
        (Task::Watch, _) => TaskState::Watched,
        (Task::Console { .. }, false) if typed_to => TaskState::Watched,
        (Task::Command(_), false) if sat_at && ended.outcome == Outcome::PowerOff => TaskState::Watched,
        (_, true) => TaskState::Done { run: progress.assertions.len(), failed },
        (_, false) => TaskState::Lost { failed },
    };
    let verdict = judge(&Facts { console: &console, outcome, task, silent, timeout: plan.timeout });
    let error = match verdict {
        // Before what its assertions say: they were not all made.
        _ if let Outcome::Unclaimed(access) = &ended.outcome => {
            Some(format!("the machine is strict: {access}"))
        }
        Verdict::Vmm => Some(format!("the machine failed: {:?}", ended.outcome)),
        Verdict::Untestable => Some(console.no_port.as_ref().map_or_else(
            || "no assertion ran".to_owned(),
            |missing| {
                format!(
                    "the guest has no port to its agent; its kernel looks to lack {}",
                    with_purposes(missing)
                )
            },
        )),
        Verdict::Hang if stuck => {
            Some(format!("the guest did not power off within {GRACE:?} of being asked to"))
        }
        Verdict::Panic if console.tail.iter().any(|line| line.contains(NO_ROOM)) => {
            Some("the image does not fit the guest's memory: give the guest more (--mem)".to_owned())
        }
        Verdict::Hang | Verdict::Timeout => {
            Some(format!("no end within {:?}{}", plan.timeout, untyped(plan, shared)))
        }
        _ => None,
    };
    Report {
        verdict,
        panicked: console.panicked,
        kernel_report: console.first.map(|(_, line)| line),
        assertions: progress.assertions,
        status: progress.status,
        outcome: Some(ended.outcome.clone()),
        hello_ms: progress.hello.map(|at| (at - began).as_secs_f64() * 1e3),
        kernel: progress.kernel,
        exits: ended.trace.total_exits(),
        error,
        tail: console.tail,
        vcpus: ended.dumps.iter().map(ToString::to_string).collect(),
    }
}

/// The options that a guest's agent misses, each with what it is for. The guest wrote them: what is no option stays.
fn with_purposes(missing: &str) -> String {
    let purpose = |option: &str| match need(option) {
        Some(need) => format!("{option} ({})", need.purpose),
        None => option.to_owned(),
    };
    missing.split(", ").map(purpose).collect::<Vec<_>>().join(", ")
}

/// Why a guest that was to be typed to was not.
fn untyped(plan: &Plan, shared: &Shared) -> String {
    let Task::Console { prompt } = &plan.task else { return String::new() };
    match (shared.typist.has_anything(), prompt) {
        (None, _) => {
            ": standard input neither gave anything to type nor ended (`< /dev/null` ends the guest at its agent's hello)"
                .to_owned()
        }
        (Some(true), Some(prompt)) if shared.typist.waits() => {
            format!(": nothing was typed, for the console never showed the prompt's end, {prompt:?}")
        }
        _ => String::new(),
    }
}

/// The UART's output on its way to the evidence, the reader of reports, and the onlooker.
struct Tap {
    shared: Arc<Shared>,
    /// Where a body may wait for words.
    wishes: Option<Arc<Wishes>>,
    /// How much of the console may still be kept.
    room: usize,
    directory: Arc<RunDirectory>,
    echo: Option<Box<dyn Write + Send>>,
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.console.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        self.shared.typist.look(bytes);
        if let Some(wishes) = &self.wishes {
            wishes.search.feed(bytes);
        }
        if let Some(echo) = &mut self.echo {
            let _ = echo.write_all(bytes).and_then(|()| echo.flush());
        }
        // The guest must not stop because the host's disk is full, and must not fill it.
        let kept = &bytes[..bytes.len().min(self.room)];
        let _ = self.directory.append("console.log", kept);
        self.room -= kept.len();
        if self.room == 0 && !kept.is_empty() {
            let _ = self.directory.append("console.log", LOG_ENDS);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_options_are_told_with_what_they_are_for() {
        let said = with_purposes("CONFIG_VIRTIO_CONSOLE, nonsense, CONFIG_ACPI");
        assert!(
            said.starts_with("CONFIG_VIRTIO_CONSOLE (the agent's port to the host), nonsense, CONFIG_ACPI (")
        );
    }
}
