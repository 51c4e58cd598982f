//! The half that runs where the KVM is: starts each contender, watches it, ends it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::spec::{Came, Contender, Sample, Spec};

/// The word that makes this program measure what it finds in the lab.
pub(crate) const INNER_BENCH: &str = "inner-bench";

/// No boot takes longer; a contender that does is reported as failed.
const LIMIT: Duration = Duration::from_secs(15);
const TRACING: &str = "/sys/kernel/tracing";
const EXITS: &str = "/sys/kernel/debug/kvm/exits";

/// Measures what the file at `spec` says, and prints what each run came to as it ends.
pub(crate) fn run(spec: &Path) -> Result<()> {
    let spec: Spec = serde_json::from_slice(&fs::read(spec)?)?;
    for (kind, at) in [("debugfs", "/sys/kernel/debug"), ("tracefs", TRACING)] {
        mount(kind, at);
    }
    for run in spec.runs {
        let contender = spec.contenders.get(run.contender).context("a run names no contender")?;
        if let (true, Some(kept)) = (run.cold, &contender.kept) {
            let _ = fs::remove_dir_all(kept);
        }
        let sample = measure(contender).map_err(|error| format!("{error:#}"));
        println!("{}", serde_json::to_string(&Came { run, sample })?);
    }
    Ok(())
}

/// Without these file systems there are no exit counts and no first instruction; the rest stands.
fn mount(kind: &str, at: &str) {
    let _ = fs::create_dir_all(at);
    let _ = rustix::mount::mount(kind, at, kind, rustix::mount::MountFlags::empty(), None);
}

/// Starts a contender, and watches it until its guest is there.
pub(super) fn measure(contender: &Contender) -> Result<Sample> {
    let socket = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let agent = socket.path().join("agent.sock");
    let argv: Vec<String> =
        contender.argv.iter().map(|word| word.replace("{agent}", &agent.to_string_lossy())).collect();
    let (program, arguments) = argv.split_first().context("no program")?;
    arm_trace();
    let mut command = Command::new(program);
    command.args(arguments).envs(contender.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began_boot_clock = boot_clock_ms();
    let began = Instant::now();
    let mut child = Ended(command.spawn().with_context(|| format!("start {program}"))?);
    let stdout = child.0.stdout.take().context("no standard output")?;
    let found = wait_for(stdout, &contender.marker);
    let Ok(at) = found.recv_timeout(LIMIT) else {
        let _ = child.0.kill();
        let mut said = String::new();
        if let Some(stderr) = &mut child.0.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        bail!(
            "never printed {:?}: {}",
            contender.marker,
            said.trim().lines().next_back().unwrap_or("no word")
        );
    };
    let exits = fs::read_to_string(EXITS).ok().and_then(|text| text.trim().parse().ok());
    std::thread::sleep(Duration::from_millis(contender.settles_ms));
    let memory = resident_beside_guest(child.0.id(), contender.guest_memory)?;
    let hello_ms = contender.hello.then(|| wait_for_hello(&agent, began)).transpose()?;
    let entries = entries_ms();
    Ok(Sample {
        first_instruction_ms: entries.map(|(first, _)| first - began_boot_clock),
        kernel_ms: entries.map(|(_, kernel)| kernel - began_boot_clock),
        marker_ms: (at - began).as_secs_f64() * 1e3,
        hello_ms,
        exits,
        memory,
    })
}

/// A child that never outlives its measure.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells when `marker` stood in a line of `stream`.
fn wait_for(stream: impl Read + Send + 'static, marker: &str) -> mpsc::Receiver<Instant> {
    let (found, at) = mpsc::channel();
    let marker = marker.to_owned();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            if String::from_utf8_lossy(&line).contains(&marker) {
                let _ = found.send(Instant::now());
                break;
            }
            line.clear();
        }
        // Read on: a guest whose console blocks would stop.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    at
}

/// Waits until the agent's first frame arrives on the port that the VMM offers at `path`.
fn wait_for_hello(path: &Path, began: Instant) -> Result<f64> {
    let mut port = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
    port.set_read_timeout(Some(LIMIT))?;
    port.read_exact(&mut [0; 12]).context("no hello from the agent")?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Where a kernel's code is in physical memory, whoever loaded it: above the first MiB, which is the firmware's, and
/// below the end of the first 4 GiB, where it starts.
const KERNEL_CODE: &str = "guest_rip >= 0x100000 && guest_rip < 0xff000000";

/// Makes the kernel note each time that KVM enters a guest, up to the first exit from a kernel's code.
fn arm_trace() {
    let set = |file: &str, value: &str| fs::write(format!("{TRACING}/{file}"), value);
    let _ = set("tracing_on", "0");
    let _ = set("trace_clock", "mono");
    let _ = set("trace", "");
    let trigger = format!("traceoff:1 if {KERNEL_CODE}");
    let _ = set("events/kvm/kvm_exit/trigger", &format!("!{trigger}"));
    let _ = set("events/kvm/kvm_exit/trigger", &trigger);
    let _ = set("events/kvm/kvm_entry/enable", "1");
    let _ = set("tracing_on", "1");
}

/// When KVM first entered a guest since [`arm_trace`], and when it entered it last before its kernel's first exit: in
/// milliseconds of the monotonic clock.
fn entries_ms() -> Option<(f64, f64)> {
    let trace = fs::read_to_string(format!("{TRACING}/trace")).ok()?;
    let _ = fs::write(format!("{TRACING}/events/kvm/kvm_entry/enable"), "0");
    let mut stamps = trace.lines().filter_map(|line| {
        let (before, _) = line.split_once(" kvm_entry: ")?;
        let stamp = before.split_whitespace().next_back()?;
        stamp.trim_end_matches(':').parse::<f64>().ok().map(|seconds| seconds * 1e3)
    });
    let first = stamps.next()?;
    Some((first, stamps.next_back().unwrap_or(first)))
}

/// The monotonic clock in milliseconds.
fn boot_clock_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    #[allow(clippy::cast_precision_loss)]
    let ms = now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6;
    ms
}

/// Resident bytes of all mappings but the guest's RAM: those of at least half its size.
fn resident_beside_guest(pid: u32, guest_memory: u64) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("read the VMM's memory map")?;
    let mut total = 0;
    let mut is_guest = false;
    for line in smaps.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        if let Some((low, high)) = word.split_once('-')
            && let (Ok(low), Ok(high)) = (u64::from_str_radix(low, 16), u64::from_str_radix(high, 16))
        {
            is_guest = high - low >= guest_memory / 2;
        } else if word == "Rss:" && !is_guest {
            let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
            total += kib * 1024;
        }
    }
    Ok(total)
}
