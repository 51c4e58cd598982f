//! A test binary's run: in a guest for one case, in the lab as a whole, or here.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_rootfs::cache::Cache;
use kiln_rootfs::progress::Silent;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use super::ignored::{self, Ignored};
use super::{Body, CASES, Case, guest};
use crate::gate::{self, Decision, Mode, Needs, decide};
use crate::lab::{self, IN_LAB};
use crate::run::Recipe;

/// Names the case that a test binary, carried into a guest, is to run.
pub(super) const GUEST_CASE: &str = "KILN_GUEST_CASE";
/// The exit status of a case that failed in the guest: a Rust panic's.
const FAILED: u8 = 101;

/// How many cases failed only because this host can't run them.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Runs the cases of this test binary, which is the test target `suite`.
#[must_use]
pub fn main(suite: &'static str) -> ExitCode {
    let mut cases: Vec<Case> = CASES.iter().flat_map(|cases| cases()).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    if let Ok(name) = std::env::var(GUEST_CASE) {
        return in_guest(&name, cases);
    }
    let arguments = Arguments::from_args();
    let mode = match Mode::of_environment() {
        Ok(mode) => mode,
        Err(error) => return refused(&error.to_string()),
    };
    if mode == Mode::Lab && std::env::var_os(IN_LAB).is_none() && !arguments.list {
        return in_lab();
    }
    let (trials, ignored) = gated(suite, mode, cases);
    // nextest lists first, and then runs each case by its name: the reasons are told with the list.
    if !arguments.ignored && !arguments.exact {
        tell(&ignored);
    }
    let any = !trials.is_empty();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list && any {
        close(suite, mode, &conclusion);
    }
    conclusion.exit_code()
}

/// Writes a line to standard error, in one piece: others write there too.
fn say(line: &str) {
    let _closed = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn refused(why: &str) -> ExitCode {
    say(&format!("error: {why}"));
    ExitCode::from(FAILED)
}

/// Runs one case, in the guest: what a panic says goes to standard error as on a host.
fn in_guest(name: &str, cases: Vec<Case>) -> ExitCode {
    let Some(Case { body: Body::Guest(_, body), .. }) = cases.into_iter().find(|case| case.name == name)
    else {
        return refused(&format!("this binary has no guest case {name}"));
    };
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => refused(&error),
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Runs this same binary, with the same arguments, in the lab.
fn in_lab() -> ExitCode {
    let run = || -> Result<u8, String> {
        let cache = Cache::open(None).map_err(|error| error.to_string())?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let streams: (&mut dyn Write, &mut dyn Write) = (&mut io::stdout(), &mut io::stderr());
        let statuses = lab::run_tests(&cache, &Recipe::default(), &[own], &arguments, streams, &Silent)
            .map_err(|error| kiln_vmm::chain(&error))?;
        Ok(statuses.into_iter().max().unwrap_or(FAILED))
    };
    run().map_or_else(|why| refused(&why), ExitCode::from)
}

/// The cases as libtest's runner wants them, and those that this host can't run.
fn gated(suite: &'static str, mode: Mode, cases: Vec<Case>) -> (Vec<Trial>, Vec<Ignored>) {
    let binary = std::env::current_exe().unwrap_or_default();
    let mut ignored = Vec::new();
    let trials = cases.into_iter().map(|case| {
        // In the lab there is all that a case may need; without KVM no host is asked.
        let elsewhere = mode == Mode::Lab && std::env::var_os(IN_LAB).is_none();
        let decision = if case.needs == Needs::Nothing || mode == Mode::Off || elsewhere {
            decide(mode, &kiln_vmm::level::Level::Linux, case.needs)
        } else {
            decide(mode, gate::host_level(), case.needs)
        };
        let decision = match (decision, &case.lacks) {
            (Decision::Run, Some(why)) => Decision::Ignore(why.clone()),
            (decision, _) => decision,
        };
        let name = case.name.clone();
        match decision {
            Decision::Run => Trial::test(name, move || run(suite, case).map_err(Failed::from)),
            Decision::Fail(why) => Trial::test(name, move || {
                REFUSED.fetch_add(1, Ordering::Relaxed);
                Err(Failed::from(why))
            }),
            Decision::Ignore(why) => {
                ignored.push(Ignored {
                    suite: suite.to_owned(),
                    case: name.clone(),
                    binary: binary.clone(),
                    needs: case.needs,
                    reason: why.clone(),
                });
                // Asked for by `--ignored`, it says why it can't be had.
                Trial::test(name, move || Err(Failed::from(why))).with_ignored_flag(true)
            }
        }
    });
    (trials.collect(), ignored)
}

fn run(suite: &str, case: Case) -> super::Outcome {
    match case.body {
        Body::Host(body) => body(),
        Body::Guest(options, _) => guest::in_guest(suite, &case.name, &options),
        Body::Vm(options, body) => guest::with_guest(suite, &case.name, &options, body),
    }
}

/// Says once for each reason how many cases it keeps from running, and notes each case.
fn tell(ignored: &[Ignored]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for case in ignored {
        *reasons.entry(&case.reason).or_default() += 1;
    }
    for (reason, count) in reasons {
        let plural = if count == 1 { "case" } else { "cases" };
        say(&format!("{count} {plural} ignored: {reason}"));
    }
    // A cache that can't be written keeps no case from running; the reasons are on standard error.
    let log: PathBuf = super::ignored_log(&Cache::look());
    let _not_kept = ignored::note(&log, ignored);
}

/// The suite's last line: how many ran, on what, and how many did not.
fn close(suite: &str, mode: Mode, conclusion: &Conclusion) {
    let refused = REFUSED.load(Ordering::Relaxed);
    let ran = (conclusion.num_passed + conclusion.num_failed).saturating_sub(refused);
    let on = match (mode, std::env::var_os(IN_LAB)) {
        (_, Some(_)) => "in the lab".to_owned(),
        (Mode::Off, None) => "with KVM off".to_owned(),
        (_, None) => format!("on KVM at level {}", gate::host_level().as_str()),
    };
    let ignored = conclusion.num_ignored;
    let could_not = if refused > 0 { format!(", {refused} could not run") } else { String::new() };
    say(&format!("{suite}: {ran} ran {on}{could_not}, {ignored} ignored"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_whose_host_lacks_something_is_ignored_for_that() {
        let case = || Case::host("tests::case", Needs::Nothing, || Ok(()));
        let (trials, ignored) = gated("suite", Mode::Auto, vec![case().lacking(None)]);
        assert!(ignored.is_empty() && !trials.iter().any(Trial::has_ignored_flag));
        let (trials, ignored) =
            gated("suite", Mode::Require, vec![case().lacking(Some("a moon".to_owned()))]);
        assert!(trials.iter().all(Trial::has_ignored_flag));
        assert_eq!(ignored.iter().map(|case| case.reason.as_str()).collect::<Vec<_>>(), ["a moon"]);
    }
}
