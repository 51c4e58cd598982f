//! The command line of a test binary, as cargo, nextest and editors use it.

use std::process::{Command, Output};

/// Runs the program whose cases fail on purpose: without KVM, those that need none run.
fn failing(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_failing"))
        .args(arguments)
        .env("KILN_KVM", "off")
        .env("KILN_CACHE", env!("CARGO_TARGET_TMPDIR"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

fn out(arguments: &[&str]) -> String {
    String::from_utf8(failing(arguments).stdout).unwrap()
}

/// The cases that `arguments` list.
fn listed(arguments: &[&str]) -> Vec<String> {
    let text = out(&[&["--list"], arguments].concat());
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[test]
fn list_names_every_case_by_its_module_path() {
    let all = listed(&[]);
    assert!(all.is_sorted(), "{all:?}");
    for name in
        ["a_case::is_ignored", "on_the_host::needs_no_guest::three", "on_the_host::needs_no_guest::two"]
    {
        assert!(all.iter().any(|listed| listed == name), "{name} is not in {all:?}");
    }
    assert_eq!(all, listed(&["--format", "terse"]), "nextest lists so");
}

#[test]
fn filters_choose_as_they_do_for_any_crate() {
    assert_eq!(listed(&["needs_no_guest"]).len(), 2);
    assert_eq!(listed(&["needs_no_guest", "--skip", "three"]), ["on_the_host::needs_no_guest::two"]);
    assert_eq!(listed(&["needs_no_guest", "--exact"]), [""; 0]);
    let two = "on_the_host::needs_no_guest::two";
    assert_eq!(listed(&[two, "--exact"]), [two]);
}

#[test]
fn ignored_cases_are_listed_apart_for_nextest() {
    let ignored = listed(&["--format", "terse", "--ignored"]);
    assert!(ignored.contains(&"a_case::is_ignored".to_owned()), "{ignored:?}");
    // Without KVM, those with a guest are ignored too.
    assert!(ignored.contains(&"a_case::reboots".to_owned()), "{ignored:?}");
    assert!(!ignored.iter().any(|name| name.contains("needs_no_guest")), "{ignored:?}");
}

#[test]
fn one_case_runs_as_nextest_has_it_run() {
    let two = failing(&["--exact", "on_the_host::needs_no_guest::two", "--nocapture"]);
    assert!(two.status.success(), "{two:?}");
    let three = failing(&["--exact", "on_the_host::needs_no_guest::three", "--nocapture"]);
    assert_eq!(three.status.code(), Some(101));
    let said = String::from_utf8(three.stdout).unwrap();
    assert!(said.contains("main.rs:") && said.contains("  left: 3\n right: 2"), "{said}");
}

#[test]
fn case_that_can_not_be_had_says_so_when_it_is_asked_for() {
    let output = failing(&["--exact", "a_case::reboots", "--ignored"]);
    assert_eq!(output.status.code(), Some(101));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("needs KVM at level linux; KILN_KVM=off"), "{said}");
}

#[test]
fn reasons_are_told_once_each_and_noted_case_by_case() {
    let output = failing(&[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cases ignored: needs KVM at level linux; KILN_KVM=off\n"), "{said}");
    assert!(said.contains("1 case ignored: nobody has time for it\n"), "{said}");
    let log = std::fs::read_to_string(concat!(env!("CARGO_TARGET_TMPDIR"), "/runs/ignored.jsonl")).unwrap();
    let noted = |case: &str, rest: &str| {
        let case = format!("\"case\":\"{case}\"");
        assert!(log.lines().any(|line| line.contains(&case) && line.contains(rest)), "{case} {rest}: {log}");
    };
    noted("a_case::is_ignored", "\"cause\":\"author\",\"reason\":\"nobody has time for it\"");
    noted("a_case::reboots", "\"cause\":\"gate\",\"reason\":\"needs KVM at level linux; KILN_KVM=off\"");
}

#[test]
fn json_tells_each_case_and_the_sum() {
    let text = out(&["needs_no_guest", "--format", "json", "-Z", "unstable-options", "--test-threads", "1"]);
    for part in [
        r#""name": "on_the_host::needs_no_guest::two", "event": "ok""#,
        r#""name": "on_the_host::needs_no_guest::three", "event": "failed""#,
        r#""event": "failed", "passed": 1, "failed": 1, "ignored": 0"#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
