//! Carries out a plan on this host's KVM.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_rootfs::kernel::check::need;
use kiln_vmm::chain;
use kiln_vmm::dump::VcpuDump;
use kiln_vmm::machine::{ConsoleEnd, Controller, Ended, Machine, MachineError, MachineIo, Stopper};
use kiln_vmm::outcome::Outcome;

use super::hold::{Hold, machine_name};
use super::judge::{Facts, TaskState, judge};
use super::plan::{Plan, Task};
use super::report::{Assertion, Report};
use super::task::{Body, Given, Progress, TaskIo, perform};
use super::typist::Typist;
use crate::agent::{AgentError, Client};
use crate::console::{Console, sanitize};
use crate::evidence::RunDirectory;
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
    carry_out(plan, directory, io, None)
}

/// As [`execute`], with `body` in the place of the plan's task: what it returns is the one assertion.
#[must_use]
pub fn execute_with(
    plan: &Plan,
    directory: &Arc<RunDirectory>,
    body: impl FnOnce(Client, Option<UnixStream>, Controller) -> Result<(), String> + Send,
) -> Report {
    let (mut out, mut err) = (io::sink(), io::sink());
    let io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line: None };
    carry_out(plan, directory, io, Some(Box::new(body)))
}

fn carry_out(plan: &Plan, directory: &Arc<RunDirectory>, io: TaskIo<'_>, body: Option<Body<'_>>) -> Report {
    let (report, dumps) = run(plan, directory, io, body).unwrap_or_else(|error| {
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
        let where_they_stood: String = dumps.iter().map(|dump| format!("\n{dump}")).collect();
        directory.failed(&format!("{}\n{where_they_stood}", report.reason()))
    };
    report
}

/// What happens to run while the machine does.
struct Shared {
    console: Mutex<Console>,
    typist: Arc<Typist>,
    /// Set before the machine is stopped by us, or by whoever looks at it, for another reason than its limit.
    stopped_early: AtomicBool,
    /// If the machine is left running where its run fails.
    hold: Option<Hold>,
}

fn run(
    plan: &Plan,
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
        Arc::new(Shared { console: Mutex::default(), typist, stopped_early: AtomicBool::new(false), hold });
    let echo = if plan.show_console { io.console.take() } else { None };
    let serial = Box::new(Tap { shared: shared.clone(), room: LOG_MAX, directory: directory.clone(), echo });
    let mut far_ends = Vec::new();
    let mut agent_port = None;
    for _ in &plan.machine.ports {
        let (near, far) = UnixStream::pair().map_err(MachineError::Io)?;
        far_ends.push(far);
        agent_port.get_or_insert(near);
    }

    let began = Instant::now();
    let deadline = began + plan.timeout;
    let (console, console_end) = console_ends(plan.machine.virtio_console && body.is_some())?;
    let mut machine = Machine::new(&config, MachineIo { serial, console: console_end, ports: far_ends })?;
    machine.tell_unclaimed({
        let directory = directory.clone();
        move |report| report.lines().for_each(|line| drop(directory.event("vmm", "info", &line)))
    });
    let running = machine.start()?;
    let body = body.map(|body| (body, console, running.controller()));
    let _ = directory.event("vmm", "info", "the machine runs");
    let stopper = running.stopper();
    if matches!(plan.task, Task::Watch | Task::Console { .. }) {
        let input = io.stdin.take().unwrap_or_else(|| Box::new(io::empty()));
        shared.typist.begin(input, running.serial_input()).map_err(MachineError::Io)?;
    }

    let mut progress = Progress::default();
    let ended = std::thread::scope(|scope| {
        let (machine_ended, watch_end) = mpsc::channel::<()>();
        let (limit_ended, watch_limit) = mpsc::channel::<()>();
        let (task, progress, io, shared) = (&plan.task, &mut progress, &mut io, &shared);
        if let Some(port) = agent_port {
            scope.spawn(move || {
                attend(task, body, port, directory, io, progress, shared, &stopper, &watch_end)
            });
        }
        if let Some(hold) = &shared.hold {
            Hold::keep(&running.controller());
            scope.spawn(move || {
                if watch_limit.recv_timeout(plan.timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
                    hold.tell(&format!("no end within {:?}", plan.timeout));
                }
            });
        }
        // One that is kept has no deadline: a busy host may have come this far only when that was over.
        let ended = running.wait(shared.hold.is_none().then_some(deadline));
        drop(limit_ended);
        shared.typist.end();
        drop(machine_ended);
        ended
    });
    let _ = directory.json("trace.json", &ended.trace);
    for lost in &ended.lost {
        let _ = directory.event("vmm", "warning", &lost.to_string());
    }
    let _ = directory.event("vmm", "info", &format!("the machine ended: {:?}", ended.outcome));
    Ok((report(plan, &shared, &ended, progress, began), ended.dumps))
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
#[allow(clippy::too_many_arguments)]
fn attend(
    task: &Task,
    body: Option<Given<'_>>,
    port: UnixStream,
    directory: &RunDirectory,
    io: &mut TaskIo<'_>,
    progress: &mut Progress,
    shared: &Shared,
    stopper: &Stopper,
    watch_end: &mpsc::Receiver<()>,
) {
    if *task == Task::Watch {
        return;
    }
    let came = perform(task, body, port, directory, io, progress);
    let failed = progress.assertions.iter().find(|assertion| !assertion.ok);
    if let (Some(hold), Ok(Some(_)), Some(failed)) = (&shared.hold, &came, failed) {
        shared.stopped_early.store(true, Ordering::SeqCst);
        hold.tell(&format!("{} failed", sanitize(failed.name.as_bytes())));
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
        stopper.stop();
    }
}

fn report(plan: &Plan, shared: &Shared, ended: &Ended, mut progress: Progress, began: Instant) -> Report {
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
    let console = shared.console.lock().unwrap_or_else(PoisonError::into_inner).summary();
    let at_limit = ended.outcome == Outcome::Stopped && !shared.stopped_early.load(Ordering::SeqCst);
    // What its programs say counts as talk too.
    let last = console.last_output.max(progress.last_output);
    let silent = at_limit.then(|| last.map_or(plan.timeout, |at| at.elapsed()));
    let stuck = ended.outcome == Outcome::Stopped && !at_limit;
    let failed = progress.assertions.iter().filter(|a| !a.ok).count();
    let task = match (&plan.task, progress.done) {
        (Task::Watch, _) => TaskState::Watched,
        (Task::Console { .. }, false) if typed_to => TaskState::Watched,
        (Task::Command(_), false) if sat_at && ended.outcome == Outcome::PowerOff => TaskState::Watched,
        (_, true) => TaskState::Done { run: progress.assertions.len(), failed },
        (_, false) => TaskState::Lost { failed },
    };
    let verdict =
        judge(&Facts { console: &console, outcome: &ended.outcome, task, silent, timeout: plan.timeout });
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
    /// How much of the console may still be kept.
    room: usize,
    directory: Arc<RunDirectory>,
    echo: Option<Box<dyn Write + Send>>,
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.console.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        self.shared.typist.look(bytes);
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
