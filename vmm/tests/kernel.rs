//! gdb itself on a Linux guest, whose kernel has symbols: on this host's KVM if that runs Linux, else in the lab.
//!
//! It takes gdb, and a kernel that was built from source, so `cargo test` leaves it out and `cargo xtask ci --full`
//! runs it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kiln::agent::{self, Process, ProcessEvent, Status};
use kiln::lab::{Forward, Lab, LabSpec};
use kiln::rootfs::busybox;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, Format, ImageSpec};
use kiln::rootfs::progress::Silent;

/// Names the kernel: an ELF with symbols.
const KERNEL: &str = "KILN_TEST_VMLINUX";
/// Calls the kernel until it is told to end.
const INIT: &str = "#!/bin/sh
mount -t devtmpfs dev /dev
exec 3<&0
(read line <&3; : >/told) &
echo init: ready
until [ -e /told ]; do uname >/dev/null; done
echo init: done
poweroff -f
";
/// What a person would type.
const SESSION: &str = "set pagination off
info threads
break __x64_sys_newuname
continue
backtrace
info registers rip
stepi
stepi
info registers rip
delete
detach
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The newest kernel with symbols that was built here.
fn kernel(cache: &Cache) -> PathBuf {
    if let Some(path) = std::env::var_os(KERNEL) {
        return path.into();
    }
    let built = fs::read_dir(cache.root().join("build")).into_iter().flatten().flatten();
    let built = built.map(|entry| entry.path().join("vmlinux")).filter(|path| path.is_file());
    let newest = built.max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
    newest.unwrap_or_else(|| {
        panic!("no kernel with symbols: build one by `kernel build`, or name one in {KERNEL}")
    })
}

/// An image whose only process is busybox, which runs [`INIT`].
fn initrd(cache: &Cache, folder: &Path) -> PathBuf {
    let (init, initrd) = (folder.join("init"), folder.join("initrd"));
    fs::write(&init, INIT).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let busybox = Some(busybox::find(cache, &Silent).unwrap());
    let spec = ImageSpec { busybox, init: Some(init), ..ImageSpec::default() };
    image::write(&spec, Format::default(), &mut fs::File::create_new(&initrd).unwrap()).unwrap();
    initrd
}

/// Waits until the process has written `what`, on either stream.
fn until(process: &mut Process, said: &mut String, what: &str) {
    while !said.contains(what) {
        match process.next_event().unwrap() {
            ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes) => {
                said.push_str(&text(&bytes));
            }
            ProcessEvent::Exited(status) => {
                panic!("it ended with {status:?} before it said {what:?}:\n{said}")
            }
            _ => {}
        }
    }
}

fn gdb(kernel: &Path, socket: &Path, folder: &Path) -> Output {
    let script = folder.join("session");
    fs::write(&script, format!("target remote {}\n{SESSION}", socket.display())).unwrap();
    // What hangs shows what it had come to.
    let mut gdb = Command::new("timeout");
    gdb.args(["--signal=KILL", "120", "gdb", "--batch", "--nx", "--command"]).arg(script).arg(kernel);
    gdb.output().expect("gdb can't be run: install the package gdb")
}

#[test]
#[ignore = "needs gdb, and a kernel with symbols: `cargo xtask ci --full` runs it"]
fn gdb_breaks_in_linux_walks_the_stack_steps_and_lets_it_finish() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(None).unwrap();
    let (kernel, vmm) = (kernel(&cache), PathBuf::from(env!("CARGO_BIN_EXE_kiln-vmm")));
    let files =
        vec![(kernel.clone(), "/vmlinux".to_owned()), (initrd(&cache, folder.path()), "/initrd".to_owned())];
    let spec = LabSpec { programs: vec![vmm.clone()], files, ..LabSpec::default() };
    let lab = Lab::start(&cache, &spec, &Silent).unwrap();
    let argv = [&*vmm.to_string_lossy(), "run", "/vmlinux", "--initrd", "/initrd", "--cpus", "2"];
    let argv = argv.into_iter().chain(["--device", "com1,to=stdio", "--gdb", "unix:/tmp/gdb"]);
    let mut machine = lab
        .client()
        .exec(agent::Command {
            argv: argv.map(str::to_owned).collect(),
            stdin: true,
            ..agent::Command::default()
        })
        .unwrap();
    let mut said = String::new();
    until(&mut machine, &mut said, "init: ready");
    let socket = folder.path().join("gdb");
    let _forward = Forward::start(lab.client().clone(), &socket, "/tmp/gdb").unwrap();

    let output = gdb(&kernel, &socket, folder.path());
    let (session, errors) = (text(&output.stdout), text(&output.stderr));
    let whole = format!("{session}\n{errors}\n{said}");
    assert!(output.status.success(), "{whole}");
    assert!(session.contains("vCPU 0") && session.contains("vCPU 1"), "{whole}");
    assert!(session.contains("hit Breakpoint 1, 0x"), "{whole}");
    assert!(session.contains("#0 ") && session.contains("in __x64_sys_newuname"), "{whole}");
    assert!(session.contains("#1 ") && session.contains("in do_syscall_64"), "{whole}");
    let rips: Vec<&str> = session.lines().filter(|line| line.starts_with("rip ")).collect();
    assert!(matches!(rips[..], [before, after] if before != after), "{whole}");
    assert!(session.contains("detached"), "{whole}");

    machine.take_stdin().unwrap().write_all(b"done\n").unwrap();
    until(&mut machine, &mut said, "init: done");
    while !matches!(machine.next_event().unwrap(), ProcessEvent::Exited(status) if status == Status::Code(0))
    {
    }
    println!("{session}");
}
