//! The commands that need no guest, run as a user would run them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

fn kiln() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.stdin(Stdio::null()).env_remove("KILN_CACHE");
    command
}

/// Makes a script that can be started at once. Another process writes it: one that another test is just starting has all
/// that this process has open, and a file that somebody writes to can't be started.
fn install(path: &Path, script: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// A folder that passes for kiln's own tree, and a `cargo` that does `body` in it.
fn tree_with_cargo(body: &str) -> (TempDir, Command) {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("xtask")).unwrap();
    let cargo = tree.path().join("cargo");
    let manifest = tree.path().join("Cargo.toml");
    let script =
        format!("#!/bin/sh\n[ $1 = locate-project ] && {{ echo '{}'; exit; }}\n{body}\n", manifest.display());
    install(&cargo, &script);
    let mut command = kiln();
    command.arg("ci").env("CARGO", cargo).current_dir(tree.path());
    (tree, command)
}

#[test]
fn doctor_says_the_same_to_people_and_to_scripts() {
    let cache = tempfile::tempdir().unwrap();
    let said = kiln().arg("doctor").env("KILN_CACHE", cache.path()).output().unwrap();
    let json = kiln().args(["doctor", "--json"]).env("KILN_CACHE", cache.path()).output().unwrap();
    assert_eq!(said.status.code(), json.status.code());
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains(&format!("level {}", report["level"].as_str().unwrap())), "{text}");
    assert_eq!(report["exit"], json.status.code().unwrap());
    assert_eq!(report["kvm"]["level"], report["level"]);
    for check in report["checks"].as_array().unwrap() {
        for key in ["name", "found", "mend"] {
            let value = check[key].as_str().unwrap_or_default();
            assert!(text.contains(value), "{value} is not in: {text}");
        }
    }
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0, "doctor changes nothing");
}

#[test]
fn doctor_whose_reader_is_gone_ends_without_a_panic() {
    let mut child = kiln().arg("doctor").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said, "");
}

#[test]
fn smoke_of_a_source_that_does_not_build_is_untestable() {
    let home = tempfile::tempdir().unwrap();
    let smoke = |source: &Path| {
        let mut command = kiln();
        command.args(["smoke", "--json", "--src"]).arg(source).env("KILN_CACHE", home.path().join("cache"));
        command.output().unwrap()
    };
    for source in [home.path(), &home.path().join("gone"), Path::new("/dev/null")] {
        let output = smoke(source);
        assert_eq!(output.status.code(), Some(125));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["command"], &report["verdict"]), (&"smoke".into(), &"untestable".into()));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(said.trim_end(), format!("error: {}", report["error"].as_str().unwrap()));
        assert!(said.contains(source.to_str().unwrap()), "{said}");
    }
}

#[test]
fn ci_adds_up_what_its_steps_ran() {
    let (_tree, mut ci) = tree_with_cargo(
        "[ $1 = xtask ] && [ $2 = test ] && {
            echo 'test result: ok. 5 passed; 0 failed; 7 ignored; 0 measured; 0 filtered out'
            echo '12 passed, 0 failed, 2 skipped'
         }
         [ $1 = clippy ] && echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'
         exit 0",
    );
    let output = ci.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.lines().last(), Some("13 passed, 0 failed, 2 skipped"));
}

#[test]
fn ci_with_a_step_that_fails_runs_the_others_and_ends_in_failure() {
    let (_tree, mut ci) = tree_with_cargo("[ $1 != clippy ]");
    let output = ci.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("== smoke"), "{said}");
    assert_eq!(said.lines().last(), Some("0 passed, 1 failed, 0 skipped"));
}

#[test]
fn ci_full_without_what_fuzzing_takes_says_so_and_fails() {
    let (tree, mut ci) = tree_with_cargo("exit 0");
    for (name, target) in [("rootfs", "reader.rs"), ("vmm", "loader.rs")] {
        let targets = tree.path().join(name).join("fuzz/fuzz_targets");
        fs::create_dir_all(&targets).unwrap();
        fs::write(targets.join(target), "").unwrap();
    }
    // Made by another process: one that is just being started beside us may have a file of ours open for writing.
    let script = "for d in bisect shards; do mkdir -p tests/$d && echo '#!/bin/sh' > tests/$d/run.sh && chmod +x tests/$d/run.sh; done";
    assert!(Command::new("sh").args(["-c", script]).current_dir(tree.path()).status().unwrap().success());
    let output = ci.arg("--full").env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("== fuzz rootfs reader") && said.contains("== fuzz vmm loader"), "{said}");
    assert_eq!(said.lines().last(), Some("0 passed, 2 failed, 0 skipped"));
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("rustup toolchain install nightly"), "{lines}");
}

#[test]
fn ci_outside_of_the_tree_is_refused() {
    let (tree, mut ci) = tree_with_cargo("exit 0");
    fs::remove_dir(tree.path().join("xtask")).unwrap();
    let output = ci.output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not in kiln's own tree"));
}

#[test]
fn interrupted_ci_ends_its_step_and_dies_by_the_signal() {
    let (_tree, ci) = tree_with_cargo("echo \"step $$\"\nexec sleep 1000");
    // Whoever runs these tests in the background of a script has them ignore the signal.
    let mut heeding = Command::new("env");
    heeding.arg("--default-signal=INT").arg(ci.get_program()).args(ci.get_args());
    heeding.current_dir(ci.get_current_dir().unwrap());
    heeding.envs(ci.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = heeding.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let step = said
        .by_ref()
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("step ")?.parse().ok())
        .and_then(Pid::from_raw)
        .expect("the first step says its number");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()), "{status}");
    // The step was sent the signal before its parent died of it; when it is gone is the kernel's business.
    let deadline = Instant::now() + Duration::from_secs(120);
    while test_kill_process(step).is_ok() && !is_zombie(step) {
        assert!(Instant::now() < deadline, "the step goes on");
        std::thread::yield_now();
    }
}

/// Whether a process is dead and waits for a parent that may never ask, as in a container with no init.
fn is_zombie(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn cache_with_a_kernel(root: &Path) {
    fs::create_dir_all(root.join("kernels/6.1")).unwrap();
    fs::write(root.join("kernels/6.1/vmlinuz"), [0x55; 100]).unwrap();
}

#[test]
fn clean_removes_the_cache_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    cache_with_a_kernel(&cache);
    fs::write(home.path().join("thesis.tex"), "").unwrap();
    let clean = || kiln().arg("clean").env("KILN_CACHE", &cache).output().unwrap();
    assert_eq!(clean().status.code(), Some(0));
    assert!(!cache.exists() && home.path().join("thesis.tex").exists());
    assert_eq!(clean().status.code(), Some(0), "nothing to clean is no error");
}

#[test]
fn clean_of_a_folder_that_is_not_ours_is_refused() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("thesis.tex"), "").unwrap();
    let output = kiln().arg("clean").env("KILN_CACHE", home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(home.path().join("thesis.tex").exists());
}

#[test]
fn clean_by_age_and_as_a_dry_run_leaves_what_is_new() {
    let home = tempfile::tempdir().unwrap();
    cache_with_a_kernel(home.path());
    for arguments in [&["clean", "--older-than=1h"][..], &["clean", "--dry-run"]] {
        let output = kiln().args(arguments).env("KILN_CACHE", home.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(home.path().join("kernels/6.1/vmlinuz").exists(), "{arguments:?}");
    }
}

#[test]
fn kernel_check_of_what_is_no_kernel_is_one_line_and_untestable() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for path in [
        file("empty", b""),
        file("text", b"not a kernel\n"),
        home.path().to_owned(),
        home.path().join("missing"),
        env!("CARGO_BIN_EXE_kiln").into(),
    ] {
        let output = kiln()
            .args(["kernel", "check"])
            .arg(&path)
            .env("KILN_CACHE", home.path().join("c"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(output.stdout.is_empty() && said.lines().count() == 1, "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
}

#[test]
fn kernel_check_tells_what_lacks_to_people_and_to_scripts() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("bzImage");
    // A kernel that nobody here can decompress, so its header is all there is.
    let mut bytes = vec![0; 0x900];
    bytes[0x1f1] = 3;
    bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    bytes[0x20e..0x212].copy_from_slice(&[0, 1, 0, 1]);
    bytes[0x1f4] = 0x10;
    bytes[0x24c] = 0x40;
    bytes[0x300..0x311].copy_from_slice(b"6.9.1 (me@here) #");
    bytes[0x800..0x804].copy_from_slice(b"BZh9");
    fs::write(&image, bytes).unwrap();
    let check = |json: bool| {
        let mut check = kiln();
        check.args(["kernel", "check"]).arg(&image).env("KILN_CACHE", home.path().join("c"));
        check.args(json.then_some("--json")).output().unwrap()
    };
    assert_eq!(check(false).status.code(), Some(0), "without a configuration nothing is known to lack");
    let config = "# Linux/x86 6.9.1 Kernel Configuration\nCONFIG_ACPI=y\nCONFIG_VIRTIO_MMIO=m\n";
    fs::write(home.path().join(".config"), config).unwrap();
    let (said, json) = (check(false), check(true));
    assert_eq!((said.status.code(), json.status.code()), (Some(1), Some(1)));
    let text = String::from_utf8(said.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&report["compression"], &report["protocol"]), (&"bzip2".into(), &"2.15".into()));
    let needs = report["needs"].as_array().unwrap();
    let state = |option: &str| {
        let need = needs.iter().find(|need| need["option"] == option).unwrap();
        assert!(text.contains(option) && text.contains(need["purpose"].as_str().unwrap()), "{text}");
        need["state"].as_str().unwrap()
    };
    assert_eq!(
        (state("CONFIG_ACPI"), state("CONFIG_VIRTIO_MMIO"), state("CONFIG_SYSFS")),
        ("y", "m", "missing")
    );
    let error = report["error"].as_str().unwrap();
    assert!(
        error.contains("the module of CONFIG_VIRTIO_MMIO (--modules-dir)") && error.contains(" CONFIG_SYSFS"),
        "{error}"
    );
}
