//! `test`: the whole suite, ours or another project's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kiln::cases::{Cause, Ignored};
use kiln::gate;
use kiln::lab;
use kiln::rootfs::cache::Cache;
use kiln::run::{Accel, Recipe, choose};
use kiln::verdict::Verdict;
use serde::Serialize;

use crate::cargo::{Counts, CountsAs, Ran, Step, Tally};
use crate::exit::Exit;
use crate::guest;
use crate::options::{AccelOption, JsonOption};
use crate::report::{Assertions, JsonTo, RanOn, Report};
use crate::ui::{self, Align, Bars, Stream, Table};

/// Options of `test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Run only the cases whose names hold this
    filter: Option<String>,

    /// Cargo.toml of the project whose suite is run
    #[arg(long, value_name = "FILE")]
    manifest_path: Option<PathBuf>,

    /// The kernel of cases that ask for none: a file, or as much of a packaged one's release as matters
    #[arg(long, value_name = "FILE|RELEASE")]
    kernel: Option<PathBuf>,

    /// The folder with that kernel's modules (…/lib/modules/RELEASE)
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules_dir: Option<PathBuf>,

    #[command(flatten)]
    accel: AccelOption,

    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// What ran where.
#[derive(Serialize)]
struct Own {
    here: Counts,
    lab: Option<Counts>,
}

/// Runs the suite: on this host what it can run, in the lab the binaries whose cases need more.
pub(crate) fn run(mut args: Args) -> Result<Exit> {
    let json = args.json.to();
    // cargo runs each test in its package's folder: a relative path means the caller's.
    for path in [&mut args.kernel, &mut args.modules_dir].into_iter().flatten().filter(|path| path.exists()) {
        *path = std::path::absolute(&*path).context("failed to find the current folder")?;
    }
    let cache = Cache::open(None)?;
    let level = gate::host_level();
    let accel = match choose(guest::choice(args.accel.accel), level) {
        Ok(accel) => accel,
        Err(why) => bail!("{why}"),
    };
    let ignored = kiln::cases::ignored_log(&cache);
    match fs::remove_file(&ignored) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to remove {}", ignored.display()));
        }
        _ => {}
    }
    let here = on_this_host(&args, &cache, accel)?;
    let binaries = match accel {
        Accel::Kvm => BTreeSet::new(),
        Accel::Lab => left_over(&ignored)?,
    };
    let lab = if binaries.is_empty() { None } else { Some(in_the_lab(&args, &cache, &binaries, &json)?) };
    finish(here, lab, &json)
}

fn on_this_host(args: &Args, cache: &Cache, accel: Accel) -> Result<Ran> {
    let folder = std::env::current_dir().context("failed to find the current folder")?;
    let of_project = |step: Step| match &args.manifest_path {
        Some(path) => step.arg("--manifest-path").arg(path),
        None => step.arg("--workspace"),
    };
    // A build that fails is no failed assertion.
    let build =
        of_project(Step::new("build", "test --no-run --quiet")).run(&folder, ui::stream(&args.json.to()))?;
    if !build.ok {
        bail!("the tests can't be built: see what cargo says above");
    }
    let mut step = of_project(Step::new("tests", "test --no-fail-fast"));
    if let Some(filter) = &args.filter {
        step = step.arg("--").arg(filter);
    }
    let mode = if accel == Accel::Kvm { "require" } else { "auto" };
    for (name, path) in [(lab::GUEST_KERNEL, &args.kernel), (lab::GUEST_MODULES, &args.modules_dir)] {
        if let Some(path) = path {
            step = step.env(name, path);
        }
    }
    // cargo runs each test in its package's folder: the cache must not be looked for from there.
    step.env(gate::MODE_VARIABLE, mode)
        .env("KILN_CACHE", cache.root())
        .run(&folder, ui::stream(&args.json.to()))
}

/// The binaries with cases that need a KVM which this host does not have.
fn left_over(log: &PathBuf) -> Result<BTreeSet<PathBuf>> {
    let text = match fs::read_to_string(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.with_context(|| format!("failed to read {}", log.display()))?,
    };
    let mut binaries = BTreeSet::new();
    for line in text.lines() {
        let case: Ignored =
            serde_json::from_str(line).with_context(|| format!("failed to read {}", log.display()))?;
        if case.cause == Cause::Gate {
            binaries.insert(case.binary);
        }
    }
    Ok(binaries)
}

fn in_the_lab(args: &Args, cache: &Cache, binaries: &BTreeSet<PathBuf>, json: &JsonTo) -> Result<Ran> {
    let binaries: Vec<PathBuf> = binaries.iter().cloned().collect();
    let arguments: Vec<String> = args.filter.iter().cloned().collect();
    let mut out = Counting { stream: ui::stream(json), pending: Vec::new(), tally: Tally::default() };
    let statuses = lab::run_tests(
        cache,
        &Recipe { kernel: args.kernel.clone(), modules_dir: args.modules_dir.clone(), ..Recipe::default() },
        &binaries,
        &arguments,
        (&mut out, &mut io::stderr()),
        &Bars::new(),
    )?;
    out.rest()?;
    Ok(Ran {
        ok: statuses.iter().all(|&status| status == 0),
        counts: out.tally.counts(),
        counts_as: CountsAs::Skipped,
    })
}

/// Output on its way out, counted line by line.
struct Counting {
    stream: Stream,
    pending: Vec<u8>,
    tally: Tally,
}

impl Counting {
    fn rest(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.pending);
        if line.is_empty() { Ok(()) } else { self.line(&line) }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        self.tally.line(&text);
        ui::line(self.stream, &text)
    }
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.line(&line[..end])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells what ran where; the closing line counts a case that ran in the lab once, as what it was there.
fn finish(here: Ran, lab: Option<Ran>, json: &JsonTo) -> Result<Exit> {
    let stream = ui::stream(json);
    let level = gate::host_level().as_str();
    let mut table = Table::new(&[Align::Left, Align::Left]);
    table.row(["this host".to_owned(), format!("{} (KVM at level {level})", here.counts)]);
    let mut sum = here.counts;
    if let Some(lab) = lab {
        table.row(["the lab".to_owned(), lab.counts.to_string()]);
        // What this host skipped for want of a KVM is what the lab ran.
        sum.fill_in(lab.counts);
    }
    ui::line(stream, &table.to_string())?;
    ui::line(stream, &sum.to_string())?;

    let ok = here.ok && lab.is_none_or(|lab| lab.ok);
    let ran = sum.passed + sum.failed;
    let (verdict, exit) = match (ran, ok) {
        (0, _) => (Verdict::Untestable, Exit::UNTESTABLE),
        (_, true) => (Verdict::Passed, Exit::PASSED),
        (_, false) => (Verdict::Assertion, Exit::FAILED),
    };
    let own = Own { here: here.counts, lab: lab.map(|lab| lab.counts) };
    let mut report = Report::new("test", exit, own);
    report.verdict = Some(verdict);
    if ran == 0 {
        report.error = Some("no case ran".to_owned());
        ui::error("no case ran: check the filter");
    } else {
        report.accel = Some(if lab.is_some() { RanOn::Lab } else { RanOn::Kvm });
    }
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    report.assertions = Assertions {
        run: count(sum.passed + sum.failed),
        failed: count(sum.failed),
        ignored: count(sum.skipped),
    };
    report.write(json)?;
    Ok(exit)
}
