//! The commands that boot a guest, run as a user would run them, on whatever this host has: its KVM or the lab.
//!
//! They fetch what they need and take seconds each, so `cargo test` leaves them out and `cargo xtask ci` runs them.

mod guests {
    mod shell;
}

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kiln::rootfs::cache::{Cache, Key};
use kiln::rootfs::distro::{self, Apt};
use kiln::rootfs::progress::Silent;
use kiln::vmm::config::{Backend, Boot, MachineConfig};
use kiln::vmm::level::Level;
use kiln::vmm::machine::{Machine, MachineIo};

/// Runs kiln with `input` on its standard input; nothing of it comes from a terminal.
fn kiln(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that is not read says by its end why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a person would do at the prompt, and the end of it.
const SESSION: &str = "mount\nls -l /dev/console /dev/null\ncat /proc/1/comm\necho $((6*7))-$USER-$HOSTNAME\n\
                       touch /mnt/mark && ls /mnt\npoweroff\n";

/// Boots a busybox image with `options`, types [`SESSION`], and checks what the guest answered.
fn session(options: &[&str]) -> String {
    let arguments = [&["rootfs", "--busybox", "--hostname", "tester", "--run"], options].concat();
    let output = kiln(&arguments, SESSION);
    let (said, console) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{console}\n{said}");
    assert!(said.contains("\npassed · "), "{said}");
    for mount in [
        "proc on /proc type proc",
        "sysfs on /sys type sysfs",
        "devpts on /dev/pts type devpts",
        "tmpfs on /dev/shm type tmpfs",
        "ramfs on /var type ramfs",
    ] {
        assert!(console.contains(mount), "{mount} is not in: {console}");
    }
    let is_device = |name: &str, mode: &str, numbers: [&str; 2]| {
        let line =
            console.lines().find(|line| line.ends_with(name) && line.starts_with("cr")).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.starts_with(&[mode]) && words[2..].starts_with(&["root", "root"]), "{line}");
        assert_eq!(words[4..6], [&format!("{},", numbers[0]), numbers[1]], "{line}");
    };
    is_device("/dev/console", "crw-------", ["5", "1"]);
    is_device("/dev/null", "crw-rw-rw-", ["1", "3"]);
    assert!(console.lines().any(|line| line == "init"), "PID 1 is busybox's init: {console}");
    assert!(console.contains("\n42-root-tester\n") && console.contains("\nmark\n"), "{console}");
    for complaint in ["not found", "can't", "failed: ", "No such"] {
        let made_by_us = |line: &&str| line.contains(complaint) && !line.starts_with('[');
        assert_eq!(console.lines().find(made_by_us), None, "{console}");
    }
    console
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn busybox_initramfs_is_a_system_at_its_prompt() {
    let console = session(&[]);
    assert!(console.contains("rootfs on / type rootfs"), "{console}");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn busybox_disk_is_a_system_at_its_prompt() {
    let console = session(&["--format", "ext4"]);
    assert!(console.contains("/dev/vda on / type ext4 (rw"), "{console}");
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn compressed_images_boot_to_their_agents_hello() {
    for compress in ["gzip", "zstd"] {
        let output = kiln(&["rootfs", "--compress", compress, "--run"], "");
        assert_eq!(output.status.code(), Some(0), "{compress}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("\npassed · "));
    }
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn minimal_disk_boots_to_its_agents_hello() {
    let output = kiln(&["rootfs", "--format", "ext4", "--run"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\npassed · "));
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn root_that_is_not_there_is_a_panic_that_names_it() {
    let output = kiln(&["smoke", "--append", "root=/dev/vdz"], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    // In the console as a whole: its tail is as long as the kernel's backtrace happens to be.
    let directory = said.lines().find_map(|line| line.strip_prefix("evidence: ")).unwrap_or_default();
    let console = std::fs::read(format!("{directory}/console.log")).unwrap_or_default();
    assert!(text(&console).contains("kiln-agent: no root on /dev/vdz (ext4)"), "{said}");
    assert!(text(&output.stdout).starts_with("panic · "), "{}", text(&output.stdout));
}

#[test]
#[ignore = "boots a guest: `cargo xtask ci` runs it"]
fn dynamic_program_of_the_host_runs_in_a_guest() {
    // Debian and Ubuntu are never without it.
    let code = "print 6*7, ' ', (-e '/sbin/kiln-agent' ? 'guest' : 'host')";
    let output = kiln(&["run", "--exec", "/usr/bin/perl", "--", "perl", "-e", code], "");
    assert_eq!(
        (output.status.code(), &*text(&output.stdout)),
        (Some(0), "42 guest"),
        "{}",
        text(&output.stderr)
    );
}

/// SeaBIOS from its package, in the cache for the next time.
fn seabios() -> PathBuf {
    let cache = Cache::open(None).unwrap();
    let key = Key::named(&distro::name());
    let mend = "there is no SeaBIOS to try without apt";
    let entry = cache
        .entry("seabios", &key, |dir| Apt::open(&cache, "SeaBIOS", mend, &Silent)?.unpack(&["seabios"], dir));
    entry.unwrap().join("usr/share/seabios")
}

/// Starts `image` at the reset vector, and reads what it says on its console up to the line that begins with `last`.
fn firmware_says(image: &Path, last: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let config = MachineConfig {
        memory: 64 << 20,
        boot: Boot::Firmware { image: image.to_owned() },
        rtc: true,
        com1: Backend::Nothing,
        debug_console: Backend::Absent,
        firmware_console: Backend::Pty { link: Some(path.clone()) },
        ..MachineConfig::default()
    };
    let ends = MachineIo { serial: Box::new(std::io::sink()), console: None, ports: Vec::new() };
    let machine = Machine::new(&config, ends).unwrap();
    let console = BufReader::new(File::open(path).unwrap());
    let running = machine.start().unwrap();
    let stopper = running.stopper();
    let last = last.to_owned();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        for line in console.lines() {
            // The end of the machine ends its terminal.
            let Ok(line) = line else { break };
            said.push_str(&line);
            said.push('\n');
            if line.starts_with(&last) {
                break;
            }
        }
        stopper.stop();
        said
    });
    let _stopped = running.wait(Some(Instant::now() + Duration::from_secs(120)));
    reader.join().unwrap()
}

#[test]
#[ignore = "fetches SeaBIOS: `cargo xtask ci` runs it"]
fn seabios_comes_up_from_the_reset_vector_and_finds_its_machine() {
    if let Level::None { reason } = kiln::gate::host_level() {
        // Past the test harness, which keeps to itself what a test that passes prints.
        writeln!(std::io::stderr(), "SeaBIOS was not started: {reason}").unwrap();
        return;
    }
    let folder = seabios();
    for image in ["bios.bin", "bios-256k.bin"] {
        let said = firmware_says(&folder.join(image), "No bootable device.");
        assert!(said.starts_with("SeaBIOS (version "), "{image}: {said}");
        for line in [
            "Found QEMU fw_cfg",
            "QEMU fw_cfg DMA interface supported",
            "qemu/e820: addr 0x0000000000000000 len 0x0000000004000000 [RAM]",
            "Found 1 cpu(s) max supported 1 cpu(s)",
            "Found 1 serial ports",
        ] {
            assert!(said.contains(line), "{image}: {line} is not in: {said}");
        }
        assert!(said.contains("No bootable device."), "{image}: {said}");
    }
}
