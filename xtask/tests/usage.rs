//! What the command line refuses: one clear line on standard error, and the status that bisecting skips.

use std::process::{Command, Output, Stdio};

fn kiln(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary that cargo has just built starts")
}

/// Asserts that `arguments` end in 125 with nothing on standard output and one line that holds each of
/// `words` on standard error.
#[track_caller]
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let output = kiln(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: "), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

#[test]
fn unknown_command_is_refused() {
    assert_refused(&["smok"], &["'smok'", "'smoke'"]);
}

#[test]
fn unknown_option_is_refused() {
    assert_refused(&["smoke", "--cpu", "2"], &["'--cpu'", "'--cpus'"]);
}

#[test]
fn superfluous_word_is_refused() {
    assert_refused(&["smoke", "now"], &["'now'"]);
}

#[test]
fn run_without_a_command_is_refused() {
    assert_refused(&["run"], &["<CMD>"]);
}

#[test]
fn shell_without_a_terminal_is_refused() {
    assert_refused(&["shell"], &["needs a terminal", "`run --busybox -- sh`"]);
    assert_refused(&["shell", "--no-busybox"], &["<CMD>"]);
}

#[test]
fn cpus_out_of_range_are_refused() {
    for cpus in ["0", "255", "10000", "-1", "two"] {
        assert_refused(&["smoke", &format!("--cpus={cpus}")], &["--cpus", "1 to 254"]);
    }
}

#[test]
fn memory_that_is_no_size_is_refused() {
    for size in ["", "0", "lots", "12T", "99999999999G"] {
        assert_refused(&["smoke", &format!("--mem={size}")], &["--mem"]);
    }
}

#[test]
fn timeout_that_is_no_time_is_refused() {
    for time in ["0", "soon", "2 m", "-5"] {
        assert_refused(&["smoke", &format!("--timeout={time}")], &["--timeout"]);
    }
}

#[test]
fn disk_option_that_is_unknown_is_refused() {
    assert_refused(&["smoke", "--disk=a.img,readonly"], &["--disk", "'readonly'", "ro"]);
}

#[test]
fn file_without_a_guest_path_is_refused() {
    assert_refused(&["run", "--file", "a", "--", "true"], &["--file", "SRC:DST"]);
    assert_refused(&["run", "--dir", "a:/../b", "--", "true"], &["--dir", "'..'"]);
}

#[test]
fn accelerator_that_is_unknown_is_refused_with_the_choices() {
    assert_refused(&["smoke", "--accel=tcg"], &["'tcg'", "auto, kvm, lab"]);
}

#[test]
fn image_option_of_the_other_format_is_refused() {
    assert_refused(&["rootfs", "--format=ext4", "--compress=gzip"], &["--compress", "--format ext4"]);
    assert_refused(&["rootfs", "--size=64M"], &["--size", "--format ext4"]);
    assert_refused(&["rootfs", "--format=ext3"], &["'ext3'", "initramfs, ext4"]);
    assert_refused(&["rootfs", "--compress=xz"], &["'xz'", "none, gzip, zstd"]);
    assert_refused(&["rootfs", "--format=ext4", "--size=0"], &["--size"]);
}

#[test]
fn machine_option_without_a_machine_is_refused() {
    assert_refused(&["rootfs", "--initrd", "x"], &["--initrd", "smoke"]);
    assert_refused(&["rootfs", "--append", "x"], &["--append", "--run"]);
    assert_refused(&["rootfs", "--disk", "/nonexistent"], &["--disk", "--run"]);
}

#[test]
fn image_output_that_is_no_file_is_refused() {
    assert_refused(&["rootfs", "--output", "/"], &["--output /", "a folder"]);
    assert_refused(&["rootfs", "--output", "/dev/stdout"], &["--output /dev/stdout"]);
}

#[test]
fn kernel_is_either_built_or_given() {
    assert_refused(&["smoke", "--src", ".", "--kernel", "bzImage"], &["--src", "--kernel"]);
    assert_refused(&["smoke", "--src", ".", "--modules-dir", "."], &["--src", "--modules-dir"]);
    assert_refused(&["smoke", "--config", "debug"], &["--src"]);
    assert_refused(&["kernel", "build"], &["--src"]);
    assert_refused(&["kernel", "build", "--src", ".", "--config="], &["--config"]);
}

#[test]
fn json_of_run_needs_a_file() {
    assert_refused(&["run", "--json", "--", "true"], &["--json=<FILE>"]);
}

#[test]
fn line_of_an_error_sends_no_control_characters() {
    let output = kiln(&["\x1b[2J\r\x07"]);
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.trim_end_matches('\n').chars().any(char::is_control), "{said:?}");
}

#[test]
fn no_command_at_all_shows_the_commands_and_is_a_usage_error() {
    let output = kiln(&[]);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("smoke"));
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["smoke", "--help"], &["--version"]] {
        let output = kiln(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn usage_error_is_one_json_object_for_who_asked_for_it() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kiln")).args(["smoke", "--json", "--cpus", "999"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["command"], &report["verdict"]), (&"smoke".into(), &"untestable".into()));
    assert!(report["error"].as_str().unwrap().contains("999"), "{report}");
    // What stands behind `--` is the guest's.
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(["run", "--cpus", "999", "--", "x", "--json"])
        .output()
        .unwrap();
    assert!(output.stdout.is_empty());
}
