//! `ci merge`: the JUnit reports of a suite's shards, as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quick_junit::{Report, TestCase, TestCaseStatus, TestSuite};

use crate::cargo::Counts;
use crate::exit::Exit;
use crate::ui::{self, Stream};

/// Options of `ci merge`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The reports, as `cargo nextest run --profile ci` leaves one a shard
    #[arg(required = true)]
    reports: Vec<PathBuf>,

    /// Where the merged report goes
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// How many shards there were: with fewer reports, cases are missing
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
}

/// Merges them. What is missing or there twice is an error: the merged report would not tell of it.
pub(super) fn run(args: &Args) -> Result<Exit> {
    if let Some(shards) = args.shards.filter(|&shards| shards != args.reports.len()) {
        bail!("there were {shards} shards, and {} reports are given", args.reports.len());
    }
    let reports = args.reports.iter().map(|path| Ok((path.as_path(), read(path)?)));
    let merged = merge(reports.collect::<Result<Vec<_>>>()?)?;
    let text = merged.to_string().context("failed to write the merged report as XML")?;
    let write = || format!("failed to write {}", args.output.display());
    fs::write(&args.output, text).with_context(write)?;
    let counts = counts(&merged);
    ui::line(Stream::Stdout, &counts.to_string())?;
    if counts.passed + counts.failed == 0 {
        ui::error("no case ran: the reports are empty");
        return Ok(Exit::UNTESTABLE);
    }
    Ok(if counts.failed == 0 { Exit::PASSED } else { Exit::FAILED })
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    Report::deserialize_from_str(&text).with_context(|| format!("{}: no JUnit report", path.display()))
}

/// One report of the cases of all, by suite and name.
fn merge(reports: Vec<(&Path, Report)>) -> Result<Report> {
    let name = reports.first().and_then(|(_, report)| report.name.clone());
    let mut suites: BTreeMap<String, TestSuite> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let (mut time, mut began) = (Duration::ZERO, None);
    for (path, report) in reports {
        // The shards ran side by side: all of it took what the longest took.
        time = time.max(report.time.unwrap_or_default());
        began = [began, report.timestamp].into_iter().flatten().min();
        for suite in report.test_suites {
            let suite_name = suite.name.as_str().to_owned();
            let into = suites.entry(suite_name.clone()).or_insert_with(|| TestSuite::new(suite.name.clone()));
            into.time = Some(into.time.unwrap_or_default() + suite.time.unwrap_or_default());
            into.timestamp = [into.timestamp, suite.timestamp].into_iter().flatten().min();
            for case in suite.test_cases {
                let case_name = case.name.as_str().to_owned();
                if !seen.insert((suite_name.clone(), case_name.clone())) {
                    bail!("{}: {suite_name} {case_name} is in an earlier report, too", path.display());
                }
                into.add_test_case(case);
            }
        }
    }
    let mut merged = Report::new(name.unwrap_or_else(|| "kiln".into()));
    merged.time = Some(time);
    merged.timestamp = began;
    for (_, mut suite) in suites {
        suite.test_cases.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        merged.add_test_suite(suite);
    }
    Ok(merged)
}

fn counts(report: &Report) -> Counts {
    let cases = report.test_suites.iter().flat_map(|suite| &suite.test_cases);
    cases.fold(Counts::default(), |mut counts, TestCase { status, .. }| {
        match status {
            TestCaseStatus::Success { .. } => counts.passed += 1,
            TestCaseStatus::NonSuccess { .. } => counts.failed += 1,
            TestCaseStatus::Skipped { .. } => counts.skipped += 1,
        }
        counts
    })
}

#[cfg(test)]
mod tests {
    use quick_junit::NonSuccessKind;

    use super::*;

    fn report(cases: &[(&str, &str, bool)]) -> Report {
        let mut report = Report::new("run");
        for (suite, name, passed) in cases {
            let mut of = TestSuite::new(*suite);
            let status = if *passed {
                TestCaseStatus::success()
            } else {
                TestCaseStatus::non_success(NonSuccessKind::Failure)
            };
            of.add_test_case(TestCase::new(*name, status));
            report.add_test_suite(of);
        }
        report
    }

    #[test]
    fn shards_become_one_report_in_order() {
        let one = report(&[("guest", "b", true), ("units", "x", true)]);
        let two = report(&[("guest", "a", false)]);
        let merged = merge(vec![(Path::new("1"), one), (Path::new("2"), two)]).unwrap();
        assert_eq!((merged.tests, merged.failures), (3, 1));
        let guest = &merged.test_suites[0];
        let names: Vec<_> = guest.test_cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!((guest.name.as_str(), names.as_slice()), ("guest", ["a", "b"].as_slice()));
        assert_eq!(counts(&merged), Counts { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn case_that_two_shards_ran_is_an_error() {
        let twice = || report(&[("guest", "a", true)]);
        let error = merge(vec![(Path::new("1.xml"), twice()), (Path::new("2.xml"), twice())]).unwrap_err();
        assert_eq!(error.to_string(), "2.xml: guest a is in an earlier report, too");
    }

    #[test]
    fn missing_report_is_an_error() {
        let args = Args { reports: vec!["1.xml".into()], output: "all.xml".into(), shards: Some(2) };
        let error = run(&args).unwrap_err();
        assert_eq!(error.to_string(), "there were 2 shards, and 1 reports are given");
    }
}
