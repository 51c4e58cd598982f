//! What is said of cases that do not pass, and that they leave each other alone: see `failing/main.rs`.

use std::collections::BTreeMap;
use std::process::Command;

use kiln::gate;
use kiln::vmm::level::Level;

/// What was said of each failed case, and the line of results of each.
struct Said {
    all: String,
    failures: BTreeMap<String, String>,
}

/// Runs the cases where a Linux guest runs: on this host, or in the lab.
fn run() -> Said {
    let here = matches!(gate::host_level(), Level::Linux);
    let output = Command::new(env!("CARGO_BIN_EXE_failing"))
        .env("KILN_KVM", if here { "require" } else { "lab" })
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(101), "{all}");
    let mut failures = BTreeMap::new();
    for part in all.split("\n---- ").skip(1) {
        let (name, said) = part.split_once(" ----\n").unwrap_or((part, ""));
        failures.insert(name.to_owned(), said.to_owned());
    }
    Said { all, failures }
}

impl Said {
    fn has(&self, case: &str, parts: &[&str]) {
        let said = self.failures.get(case).unwrap_or_else(|| panic!("{case} did not fail: {}", self.all));
        for part in parts {
            assert!(said.contains(part), "{case}: {part:?} is not in: {said}");
        }
        // The directory is the last word, as the console's is before it.
        assert!(said.contains("the last of the console:\n") && said.contains("evidence: "), "{case}: {said}");
    }

    fn ended(&self, case: &str, how: &str) {
        let line = self.all.lines().find(|line| line.starts_with(&format!("test {case} ")));
        assert!(line.is_some_and(|line| line.ends_with(how)), "{case}: {line:?}: {}", self.all);
    }
}

#[test]
#[ignore = "boots guests: `cargo xtask ci` runs it"]
fn each_failure_says_what_happened_and_leaves_the_others_alone() {
    let said = run();

    let not_so =
        ["main.rs:", "assertion `left == right` failed", "  left: 1\n right: 2", "said on the way\n"];
    said.has("a_case::asserts_what_is_not_so", &not_so);
    said.has("a_case::returns_its_error", &["Error: \"the widget is missing\""]);
    said.has("a_case::panics_otherwise", &["something else", "its panic was to hold \"out of bounds\""]);
    said.has(
        "a_case::reads_at_null",
        &["killed by signal 11 (SIGSEGV)", "the kernel: failing", "segfault at 0 ip"],
    );
    let crash = ["panic: ", "Kernel panic - not syncing: sysrq triggered crash", "Call Trace:"];
    said.has("a_case::crashes_the_kernel", &crash);
    let hang = ["hang: no end within 40s", "vCPU 0", "vCPU 1", "RIP"];
    said.has("a_case::sleeps_for_ever", &hang);
    said.has("a_case::powers_off", &["agent-lost: "]);
    said.has("a_case::reboots", &["reset: "]);

    said.has("noise::a_warning_is_printed", &["warning: ", "made/up.c:1"]);
    said.has("noise::a_taint_is_left", &["a tainted kernel (W: 512)"]);
    said.has("noise::a_taint_is_left_by_the_host", &["a tainted kernel (W: 512)"]);
    said.has("noise::a_module_is_left", &["the module dummy"]);

    said.has("on_the_host::waits_in_vain", &["no line of the console matched \"no such words\" within 1ms"]);
    said.has("on_the_host::crashes_the_guest", &crash);
    said.has("on_the_host::asserts_what_is_not_so", &["main.rs:", "  left: 1\n right: 2"]);

    for case in [
        "a_case::passes_before_the_others",
        "a_case::panics_as_it_is_to",
        "a_case::zz_passes_after_the_others",
        "noise::a_warning_is_allowed",
        "on_the_host::needs_no_guest::two",
    ] {
        said.ended(case, "... ok");
        assert!(!said.failures.contains_key(case), "{case}");
    }
    said.ended("a_case::is_ignored", "... ignored");
    let skipped = "1 case skipped itself: this guest has no floppy drive";
    assert!(said.all.contains(skipped), "{}", said.all);
    assert!(said.all.contains("16 failed; 2 ignored;"), "{}", said.all);
}
