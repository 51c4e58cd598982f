//! `doctor`: what this machine can do, what would be skipped, and how to mend it.

mod advice;
mod facts;

use serde::Serialize;

use crate::exit::Exit;
use crate::options::JsonOption;
use crate::report::{JsonTo, RanOn, Report};
use crate::ui::{self, Align, Stream, Style, Table, paint};
use kiln::gate;
use kiln::rootfs::cache::Cache;
use kiln::verdict::Verdict;
use kiln::vmm::level::Level;

use advice::{Check, State};
use facts::Facts;

/// Options of `doctor`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) json: JsonOption,
}

/// What `doctor` adds to its JSON object.
#[derive(Debug, Serialize)]
struct Own {
    kvm: Kvm,
    checks: Vec<Check>,
    /// What does not run here, a sentence each.
    skipped: Vec<String>,
}

/// The level, and why it is no better.
#[derive(Debug, Serialize)]
struct Kvm {
    level: &'static str,
    reason: Option<String>,
}

/// Looks at the host, and says what it found. A host on which no Linux guest can run at all ends it with
/// [`Exit::UNTESTABLE`].
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let level = gate::host_level();
    let facts = Facts::gather(&Cache::look());
    let checks = advice::checks(level, &facts);
    let skipped = advice::skipped(level, &facts);
    let accel = advice::accel(level, &facts);
    let exit = if accel.is_some() { Exit::PASSED } else { Exit::UNTESTABLE };

    let json = args.json.to();
    if json == JsonTo::Nowhere {
        show(ui::stream(&json), &checks, &skipped, accel, advice::nothing_boots(&facts))?;
    }
    let reason = match level {
        Level::Linux => None,
        Level::None { reason } | Level::Payload { reason } => Some(reason.clone()),
    };
    let own = Own { kvm: Kvm { level: level.as_str(), reason }, checks, skipped };
    let mut report = Report::new("doctor", exit, own);
    report.accel = accel;
    if accel.is_none() {
        report.verdict = Some(Verdict::Untestable);
        report.error = Some(advice::nothing_boots(&facts).to_owned());
    }
    report.write(&json)?;
    Ok(exit)
}

fn show(
    stream: Stream,
    checks: &[Check],
    skipped: &[String],
    accel: Option<RanOn>,
    nothing_boots: &str,
) -> anyhow::Result<()> {
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left]);
    for check in checks {
        table.row([check.state.word(), check.name, &check.found]);
    }
    // Coloured after the columns are set: escape sequences have no width.
    for (text, check) in table.to_string().lines().zip(checks) {
        let word = check.state.word();
        let rest = text.strip_prefix(word).unwrap_or(text);
        ui::line(stream, &format!("{}{rest}", paint(stream, style(check.state), word)))?;
    }
    let mends: Vec<_> = checks.iter().filter_map(|check| Some((check.name, check.mend.as_ref()?))).collect();
    section(stream, "To mend", mends.iter().map(|(name, mend)| format!("{name}: {mend}")))?;
    section(stream, "Skipped here", skipped.iter().cloned())?;
    let verdict = match accel {
        Some(RanOn::Kvm) => "Linux guests run on this host's KVM.",
        Some(RanOn::Lab) => "Linux guests run in the lab.",
        None => nothing_boots,
    };
    ui::line(stream, &format!("\n{verdict}"))?;
    Ok(())
}

fn section(stream: Stream, heading: &str, lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    for (number, text) in lines.enumerate() {
        if number == 0 {
            ui::line(stream, &format!("\n{}", paint(stream, Style::Strong, heading)))?;
        }
        ui::line(stream, &format!("  {text}"))?;
    }
    Ok(())
}

fn style(state: State) -> Style {
    match state {
        State::Ok => Style::Good,
        State::Note => Style::Warn,
        State::Lack => Style::Bad,
    }
}
