//! A test binary's run: in a guest for one case, in the lab as a whole, or here.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use kiln_rootfs::cache::Cache;
use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};

use super::attempt::{End, attempt};
use super::ignored::{self, Cause, Ignored};
use super::inside::{self, FAILED, GUEST_CASE, GUEST_LOG};
use super::pool::Pool;
use super::prepared::Cargo;
use super::shape::Shapes;
use super::{Body, CASES, Case, stage};
use crate::fork;
use crate::gate::{self, Decision, Mode, Needs, decide};
use crate::lab::{self, IN_LAB};
use crate::run::{Recipe, Told};

/// Has a test binary print what its cases need beside itself, as JSON, in the place of a run.
pub(crate) const CARGO: &str = "KILN_PRINT_CARGO";

/// How many cases failed only because this host can't run them.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Runs the cases of this test binary, which is the test target `suite`.
#[must_use]
pub fn main(suite: &'static str) -> ExitCode {
    let mut cases: Vec<Case> = CASES.iter().flat_map(|cases| cases()).collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    if let Ok(name) = std::env::var(GUEST_CASE) {
        return inside::main(&name, cases);
    }
    if std::env::var_os(GUEST_LOG).is_some() {
        return inside::print_log();
    }
    let mut arguments = Arguments::from_args();
    if std::env::var_os(CARGO).is_some() {
        return print_cargo(&arguments, &cases);
    }
    let mode = match Mode::of_environment() {
        Ok(mode) => mode,
        Err(error) => return refused(&error.to_string()),
    };
    let elsewhere = mode == Mode::Lab && std::env::var_os(IN_LAB).is_none() && !arguments.list;
    // A lab takes seconds to be had, and is of no use to cases that need no KVM.
    if elsewhere && chosen(&arguments, &cases).any(|case| case.needs != Needs::Nothing) {
        return in_lab();
    }
    let skipped: Arc<Mutex<Vec<Ignored>>> = Arc::default();
    let mut pool = Pool::default();
    let (trials, ignored) = gated(suite, mode, cases, &arguments, &mut pool, &skipped);
    // nextest lists first, and then runs each case by its name: the reasons are told with the list.
    if !arguments.ignored && !arguments.exact {
        tell(&ignored, "ignored");
        // In the lab, the host outside has noted them.
        if std::env::var_os(IN_LAB).is_none() {
            note(&ignored);
        }
    }
    let any = !trials.is_empty();
    // The threads are the pool's: the runner has one, and so prints in the order of the list.
    let cores = || std::thread::available_parallelism().map_or(1, Into::into);
    let threads = arguments.test_threads.replace(1).unwrap_or_else(cores);
    let conclusion = pool.run(threads, || libtest_mimic::run(&arguments, trials));
    let skipped = std::mem::take(&mut *skipped.lock().unwrap_or_else(PoisonError::into_inner));
    tell(&skipped, "skipped itself");
    note(&skipped);
    if !arguments.list && any {
        close(suite, mode, &conclusion);
    }
    conclusion.exit_code()
}

/// Tells what the cases that `arguments` choose need beside this binary.
fn print_cargo(arguments: &Arguments, cases: &[Case]) -> ExitCode {
    match serde_json::to_writer(io::stdout(), &Cargo::of(chosen(arguments, cases))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refused(&error.to_string()),
    }
}

/// The cases that `arguments` choose, whatever the gate says of them.
fn chosen<'a>(arguments: &Arguments, cases: &'a [Case]) -> impl Iterator<Item = &'a Case> {
    cases.iter().filter(|case| is_chosen(arguments, case))
}

/// Whether `arguments` ask for a case, as far as its author and its name go.
fn is_chosen(arguments: &Arguments, case: &Case) -> bool {
    let trial = Trial::test(case.name.clone(), || Ok(())).with_ignored_flag(case.ignored.is_some());
    !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial)
}

/// Writes a line to standard error, in one piece: others write there too.
fn say(line: &str) {
    let _closed = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn refused(why: &str) -> ExitCode {
    say(&format!("error: {why}"));
    ExitCode::from(FAILED)
}

/// Runs this same binary, with the same arguments, in the lab.
fn in_lab() -> ExitCode {
    let run = || -> Result<u8, String> {
        let cache = Cache::open(None).map_err(|error| error.to_string())?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let streams: (&mut dyn Write, &mut dyn Write) = (&mut io::stdout(), &mut io::stderr());
        let statuses = lab::run_tests(&cache, &Recipe::of_environment(), &[own], &arguments, streams, &Told)
            .map_err(|error| kiln_vmm::chain(&error))?;
        Ok(statuses.into_iter().max().unwrap_or(FAILED))
    };
    run().map_or_else(|why| refused(&why), ExitCode::from)
}

/// The cases as libtest's runner wants them, and those that won't run unless they are asked for.
fn gated(
    suite: &'static str,
    mode: Mode,
    cases: Vec<Case>,
    arguments: &Arguments,
    pool: &mut Pool,
    skipped: &Arc<Mutex<Vec<Ignored>>>,
) -> (Vec<Trial>, Vec<Ignored>) {
    let binary = std::env::current_exe().unwrap_or_default();
    let mut ignored = Vec::new();
    let shapes = Shapes::of(chosen(arguments, &cases));
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
        let note = Ignored {
            suite: suite.to_owned(),
            case: name.clone(),
            binary: binary.clone(),
            needs: case.needs,
            cause: Cause::Author,
            reason: case.ignored.filter(|why| !why.is_empty()).unwrap_or("#[ignore]").to_owned(),
        };
        let by_author = case.ignored.is_some();
        if by_author {
            ignored.push(note.clone());
        }
        match decision {
            Decision::Run => {
                // One that won't run has no place in the pool.
                let trial = Trial::test(name.clone(), || Ok(())).with_ignored_flag(by_author);
                if arguments.list || arguments.is_filtered_out(&trial) || arguments.is_ignored(&trial) {
                    return trial;
                }
                let forked = shapes.fork(&case);
                let memory = case.options().map(|options| options.memory_mib);
                let result = pool.add(memory, move || run(suite, case, forked));
                let skipped = skipped.clone();
                Trial::ignorable_test(name, move || match result.recv() {
                    Ok(End::Passed) => Ok(Completion::Completed),
                    Ok(End::Failed(why)) => Err(Failed::from(why)),
                    Ok(End::Skipped(reason)) => {
                        let note = Ignored { cause: Cause::Case, reason: reason.clone(), ..note };
                        skipped.lock().unwrap_or_else(PoisonError::into_inner).push(note);
                        Ok(Completion::ignored_with(reason))
                    }
                    Err(mpsc::RecvError) => Err(Failed::from("the thread that ran it died")),
                })
                .with_ignored_flag(by_author)
            }
            Decision::Fail(why) => Trial::test(name, move || {
                REFUSED.fetch_add(1, Ordering::Relaxed);
                Err(Failed::from(why))
            })
            .with_ignored_flag(by_author),
            Decision::Ignore(why) => {
                // One that nobody asked for is not to be run elsewhere either.
                if !by_author {
                    ignored.push(Ignored { cause: Cause::Gate, reason: why.clone(), ..note });
                }
                // Asked for by `--ignored`, it says why it can't be had.
                Trial::test(name, move || Err(Failed::from(why))).with_ignored_flag(true)
            }
        }
    });
    (trials.collect(), ignored)
}

fn run(suite: &str, case: Case, forked: bool) -> End {
    match case.body {
        Body::Host(body) => attempt(body, case.panics),
        Body::Guest(options, _) => stage::in_guest(suite, &case.name, &options, forked),
        Body::Vm(options, body) => stage::with_guest(suite, &case.name, &options, forked, body, case.panics),
    }
}

/// Says once for each reason how many cases it kept from running.
fn tell(ignored: &[Ignored], how: &str) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for case in ignored {
        *reasons.entry(&case.reason).or_default() += 1;
    }
    for (reason, count) in reasons {
        let plural = if count == 1 { "case" } else { "cases" };
        say(&format!("{count} {plural} {how}: {reason}"));
    }
}

/// Notes each of them. A cache that can't be written keeps no case from running; the reasons are on standard error.
fn note(ignored: &[Ignored]) {
    let _not_kept = ignored::note(Cache::look().root(), ignored);
}

/// The suite's last line: how many ran, on what, and how many did not.
fn close(suite: &str, mode: Mode, conclusion: &Conclusion) {
    let refused = REFUSED.load(Ordering::Relaxed);
    let ran = (conclusion.num_passed + conclusion.num_failed).saturating_sub(refused);
    let on = match (mode, std::env::var_os(IN_LAB)) {
        (_, Some(_)) => "in the lab".to_owned(),
        (Mode::Off, None) => "with KVM off".to_owned(),
        (Mode::Lab, None) => "on this host, without a lab".to_owned(),
        (_, None) => format!("on KVM at level {}", gate::host_level().as_str()),
    };
    let forked = fork::count();
    if forked > 0 {
        say(&format!("{suite}: {forked} machines went on from a snapshot"));
    }
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
        let gated = |mode, case| {
            let arguments = Arguments::default();
            gated("suite", mode, vec![case], &arguments, &mut Pool::default(), &Arc::default())
        };
        let (trials, ignored) = gated(Mode::Auto, case().lacking(None));
        assert!(ignored.is_empty() && !trials.iter().any(Trial::has_ignored_flag));
        let (trials, ignored) = gated(Mode::Require, case().lacking(Some("a moon".to_owned())));
        assert!(trials.iter().all(Trial::has_ignored_flag));
        assert_eq!(ignored.iter().map(|case| case.cause).collect::<Vec<_>>(), [Cause::Gate]);
        assert_eq!(ignored.iter().map(|case| case.reason.as_str()).collect::<Vec<_>>(), ["a moon"]);
    }
}
