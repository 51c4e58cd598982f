//! What the commands that boot a guest have in common: from options to a run, from a run to what people,
//! scripts and the shell see of it.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::ImageSpec;
use kiln::run::{AccelChoice, Done, Recipe, Task, TaskIo, prepare};
use kiln::verdict::Verdict;
use kiln::vmm::config::DiskConfig;
use kiln::vmm::trace::Trace;
use serde::Serialize;

use crate::exit::Exit;
use crate::interrupt::on_interrupt;
use crate::options::{Accel, ImageOptions, MachineOptions};
use crate::report::{Assertions, JsonTo, RanOn, Report};
use crate::ui::{self, Align, Bars, Conversation, Keys, Sitting, Stream, Style, Table};

/// The recipe for such options.
pub(crate) fn recipe(machine: &MachineOptions, image: Option<&ImageOptions>) -> Recipe {
    let mut recipe = Recipe {
        kernel: machine.kernel.kernel.clone(),
        modules_dir: machine.kernel.modules_dir.clone(),
        initrd: machine.initrd.clone(),
        append: machine.append.clone().unwrap_or_default(),
        cpus: machine.cpus,
        memory: machine.mem,
        disks: machine
            .disks
            .iter()
            .map(|disk| DiskConfig { path: disk.path.clone(), read_only: disk.read_only })
            .collect(),
        ..Recipe::default()
    };
    if let Some(limit) = machine.timeout.timeout {
        recipe.timeout = limit;
    }
    if let Some(image) = image {
        let copied = |list: &[crate::options::Copied]| {
            list.iter().map(|one| (one.source.clone(), one.destination.clone())).collect()
        };
        recipe.busybox = image.busybox;
        recipe.modules.clone_from(&image.modules);
        recipe.image = ImageSpec {
            files: copied(&image.files),
            dirs: copied(&image.dirs),
            execs: image.executables.clone(),
            hostname: Some(image.hostname.clone()),
            init: image.init.clone(),
            ..ImageSpec::default()
        };
    }
    recipe
}

/// The accelerator asked for.
pub(crate) fn choice(accel: Accel) -> AccelChoice {
    match accel {
        Accel::Auto => AccelChoice::Auto,
        Accel::Kvm => AccelChoice::Kvm,
        Accel::Lab => AccelChoice::Lab,
    }
}

/// Nobody sits at a guest for longer.
pub(crate) const SITTING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Boots a guest by `recipe` and does `task` in it.
///
/// # Errors
/// The kernel or the image could not be had, or the run's directory not made.
pub(crate) fn boot(
    cache: &Cache,
    recipe: &Recipe,
    task: Task,
    accel: Accel,
    names: (&str, &str),
    show: Show,
) -> Result<Done> {
    let bars = Bars::new();
    let mut plan = recipe.plan(cache, task, &bars)?;
    plan.show_console = show == Show::Console;
    // Where nothing can be run, no terminal is taken over.
    let run = prepare(cache, &plan, choice(accel), names)?;
    let directory = run.directory().clone();
    let _noted_on_interrupt = on_interrupt(move || directory.interrupted());
    // Until the guest has ended.
    let mut _conversation = None;
    let mut sitting = if show == Show::Terminal { Sitting::begin()? } else { None };
    let mut out: Box<dyn Write + Send> = match &sitting {
        Some(sitting) => Box::new(sitting.screen()),
        None => Box::new(io::stdout()),
    };
    let mut err = io::stderr();
    let line = sitting.as_mut().and_then(Sitting::line);
    let mut io = TaskIo { stdin: None, stdout: &mut out, stderr: &mut err, console: None, line };
    match show {
        Show::Nothing | Show::Terminal => {}
        Show::Command => io.stdin = Some(Box::new(io::stdin())),
        Show::Console => {
            _conversation = Conversation::begin();
            if _conversation.is_some() {
                io.stdin = Some(Box::new(Keys::struck()));
                io.console = Some(Box::new(io::stdout()));
            } else {
                // From a terminal that shows nothing of the guest, nothing comes.
                let typed = !io::stdin().is_terminal();
                io.stdin = typed.then(|| Box::new(io::stdin()) as Box<dyn io::Read + Send>);
                io.console = Some(Box::new(Harmless::default()));
            }
        }
    }
    Ok(run.carry_out(io, &bars))
}

/// The exit status of a run whose command's own is ours; what kept it from having one is told.
///
/// # Errors
/// The stream is closed.
pub(crate) fn exit_of_command(done: &Done) -> io::Result<Exit> {
    // A status that the command chose is an answer, not a failure to explain.
    let answered = matches!(done.report.verdict, Verdict::Passed | Verdict::Assertion);
    match done.report.status {
        Some(status) if answered => Ok(Exit::status(status)),
        _ => {
            explain(done)?;
            Ok(Exit::status(done.report.verdict.exit()))
        }
    }
}

/// What of a guest is passed on as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing but complaints.
    Nothing,
    /// A command's input and output.
    Command,
    /// A command's terminal, at which a person sits.
    Terminal,
    /// The console, made harmless, on standard error, and what is to be typed on it; with a person at the terminal
    /// the console itself.
    Console,
}

/// Guest text on its way to standard error, line by line: escape sequences are shown, not obeyed.
#[derive(Default)]
struct Harmless(Vec<u8>);

/// A line longer than this is shown in pieces.
const LINE_MAX: usize = 4096;

impl Write for Harmless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        while let Some(end) =
            self.0.iter().position(|&b| b == b'\n').or((self.0.len() > LINE_MAX).then_some(LINE_MAX))
        {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            self.show(&line)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Harmless {
    fn show(&self, line: &[u8]) -> io::Result<()> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        ui::line(Stream::Stderr, &ui::sanitize(text.strip_suffix(b"\r").unwrap_or(text)))
    }
}

impl Drop for Harmless {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            // With standard error closed there is no one to tell.
            let _ = self.show(&self.0);
        }
    }
}

/// What such a command adds to the report.
#[derive(Debug, Serialize)]
struct Own<'a> {
    panicked: bool,
    kernel_report: &'a Option<String>,
    kernel: &'a Option<String>,
    status: Option<u8>,
    exits: u64,
    outcome: &'a Option<kiln::vmm::outcome::Outcome>,
    failures: Vec<&'a kiln::run::Assertion>,
}

/// Writes the report where it was asked for.
///
/// # Errors
/// It can't be written.
pub(crate) fn report(command: &'static str, done: &Done, exit: Exit, to: &JsonTo) -> Result<()> {
    let ran = &done.report;
    let own = Own {
        panicked: ran.panicked,
        kernel_report: &ran.kernel_report,
        kernel: &ran.kernel,
        status: ran.status,
        exits: ran.exits,
        outcome: &ran.outcome,
        failures: ran.assertions.iter().filter(|a| !a.ok).collect(),
    };
    let mut report = Report::new(command, exit, own).in_directory(&done.directory);
    report.verdict = Some(ran.verdict);
    report.accel = done.accel.map(|accel| match accel {
        kiln::run::Accel::Kvm => RanOn::Kvm,
        kiln::run::Accel::Lab => RanOn::Lab,
    });
    report.assertions = Assertions { run: ran.assertions.len(), failed: ran.failed(), ignored: 0 };
    report.hello_ms = ran.hello_ms;
    report.error.clone_from(&ran.error);
    report.write(to)
}

/// Tells people why a run did not pass: the console's tail, what failed, and where the evidence is.
///
/// # Errors
/// The stream is closed.
pub(crate) fn explain(done: &Done) -> io::Result<()> {
    let ran = &done.report;
    if ran.verdict == Verdict::Passed {
        return Ok(());
    }
    let say = |text: String| ui::line(Stream::Stderr, &text);
    if !ran.tail.is_empty() {
        say(ui::paint(Stream::Stderr, Style::Dim, "the last of the console:"))?;
        for line in &ran.tail {
            say(format!("  {}", ui::sanitize(line.as_bytes())))?;
        }
    }
    for failure in ran.assertions.iter().filter(|a| !a.ok) {
        say(format!(
            "failed: {}: {}",
            ui::sanitize(failure.name.as_bytes()),
            ui::sanitize(failure.message.as_bytes())
        ))?;
    }
    if let Some(line) = &ran.kernel_report {
        say(format!("{}: {}", ran.verdict, ui::sanitize(line.as_bytes())))?;
    }
    if let Some(error) = &ran.error {
        say(format!("{}: {}", ran.verdict, ui::sanitize(error.as_bytes())))?;
    }
    say(format!("evidence: {}", done.directory.display()))
}

/// The verdict's line: verdict, accelerator, assertions, time to hello.
pub(crate) fn summary(done: &Done, stream: Stream) -> String {
    let ran = &done.report;
    let style = if ran.verdict == Verdict::Passed { Style::Good } else { Style::Bad };
    let mut line = ui::paint(stream, style, ran.verdict.as_str());
    if ran.panicked && ran.verdict != Verdict::Panic {
        line.push_str(" (then panicked)");
    }
    let accel = done.accel.map_or("no accelerator", kiln::run::Accel::as_str);
    let count = ran.assertions.len();
    let plural = if count == 1 { "" } else { "s" };
    line.push_str(&format!(" · {accel} · {count} assertion{plural}"));
    if ran.failed() > 0 {
        line.push_str(&format!(", {} failed", ran.failed()));
    }
    match ran.hello_ms {
        Some(ms) => {
            line.push_str(&format!(" · hello after {}", ui::duration(Duration::from_secs_f64(ms / 1e3))))
        }
        None => line.push_str(" · no hello"),
    }
    if let Some(kernel) = &ran.kernel {
        line.push_str(&format!(" · Linux {}", ui::sanitize(kernel.as_bytes())));
    }
    line
}

/// Shows the exits of each vCPU and its last accesses, from the run's trace.
///
/// # Errors
/// The stream is closed.
pub(crate) fn show_trace(directory: &Path) -> io::Result<()> {
    /// How many of the last accesses are shown; all that were kept are in the file.
    const LAST: usize = 16;
    let path = directory.join("trace.json");
    let say = |text: &str| ui::line(Stream::Stderr, text);
    let Some(trace) = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Trace>(&text).ok())
    else {
        return say("no trace: the machine did not come to run");
    };
    for vcpu in &trace.vcpus {
        let mut exits = Table::new(&[Align::Left, Align::Right]);
        exits.row([format!("vCPU {}", vcpu.index), "exits".to_owned()]);
        for (kind, count) in &vcpu.exits {
            exits.row([format!("  {kind:?}"), count.to_string()]);
        }
        say(&exits.to_string())?;
        let mut last = Table::new(&[Align::Right, Align::Left, Align::Left, Align::Right, Align::Left]);
        for access in vcpu.accesses.iter().skip(vcpu.accesses.len().saturating_sub(LAST)) {
            last.row([
                format!("  {}", ui::duration(Duration::from_nanos(access.time_ns))),
                access.device.clone().unwrap_or_else(|| "nothing".to_owned()),
                format!("{}{}", if access.write { "write" } else { "read" }, access.width),
                format!("{:#x}", access.address),
                format!("{:#x}", access.value),
            ]);
        }
        say(&last.to_string())?;
    }
    say(&format!("all of it: {}", path.display()))
}
