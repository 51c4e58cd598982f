//! gdb itself on a machine, from the command line to the last line that it prints.
//!
//! It takes gdb and a compiler, so `cargo test` leaves it out and `cargo xtask ci` runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use kiln::gate;
use kiln::vmm::level::Level;

/// A kernel that calls itself three deep until `rounds` is zero.
const SOURCE: &str = r#"
typedef unsigned long u64;
volatile u64 rounds = 1000000, sum;
__attribute__((noinline)) void innermost(u64 value) { sum += value; }
__attribute__((noinline)) void inner(u64 value) { innermost(value + 1); sum ^= value; }
__attribute__((noinline)) void outer(u64 value) { inner(value * 2); sum += 1; }
void kernel(void)
{
    while (rounds > 0) { outer(rounds); rounds--; }
    __asm__ volatile("outb %0, $0xf4; hlt" : : "a"((char)0));
}
__asm__(".globl _start\n_start: mov $0x90000, %rsp\n xor %ebp, %ebp\n call kernel\n");
"#;
/// No code that a KVM which emulates it does not know, and nothing of a C library's.
const FLAGS: &[&str] = &[
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-ffreestanding",
    "-fno-pic",
    "-mno-red-zone",
    "-mno-sse",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,-Ttext=0x101000,-Ttext-segment=0x100000,--build-id=none",
];
/// What a person would type.
const SESSION: &str = "set pagination off
info threads
break innermost
continue
backtrace
info registers rip cr3 efer
stepi
finish
set var rounds = 3
delete
hbreak outer
continue
monitor trace
delete
continue
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn compile(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("kernel");
    let source = folder.join("kernel.c");
    std::fs::write(&source, SOURCE).unwrap();
    let compiled = Command::new("cc").args(FLAGS).arg("-o").args([&program, &source]).status().unwrap();
    assert!(compiled.success());
    program
}

#[test]
#[ignore = "needs gdb: `cargo xtask ci` runs it"]
fn gdb_breaks_walks_the_stack_and_sees_the_end() {
    let missing = match gate::host_level() {
        Level::None { reason } => Some(reason.clone()),
        _ => Command::new("gdb").arg("--version").output().err().map(|error| format!("no gdb: {error}")),
    };
    if let Some(reason) = missing {
        // Past the test harness, which keeps to itself what a test that passes prints.
        writeln!(std::io::stderr(), "gdb was not tried: {reason}").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (kernel, socket, session) =
        (compile(folder.path()), folder.path().join("gdb"), folder.path().join("session"));
    std::fs::write(&session, SESSION).unwrap();
    let mut machine = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"))
        .args(["run", "--mem", "16", "--timeout", "300", "--gdb-wait", "--gdb"])
        .arg(format!("unix:{}", socket.display()))
        .arg(&kernel)
        .spawn()
        .unwrap();
    while !socket.exists() && machine.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let Output { stdout, stderr, .. } = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", &format!("target remote {}", socket.display()), "-x"])
        .args([&session, &kernel])
        .output()
        .unwrap();
    let said = format!("{}\n{}", text(&stdout), text(&stderr));
    for words in [
        "(vCPU 0, running) 0x0000000000101000 in _start ()",
        "Breakpoint 1, innermost (value=",
        "#1 ",
        "in inner (value=2000000)",
        "in outer (value=",
        "in kernel ()",
        "<innermost>",
        "cr3            0x9000",
        "Breakpoint 2, outer (value=",
        "KVM_EXIT_DEBUG",
        "kiln: the guest passed",
        "exited normally]",
    ] {
        // A KVM that does not stop at debug registers has hbreak refused.
        let refused = ["Breakpoint 2", "KVM_EXIT_DEBUG"].contains(&words.split(',').next().unwrap())
            && said.contains("Could not insert hardware breakpoint");
        assert!(refused || said.contains(words), "{words} is not in: {said}");
    }
    assert_eq!(machine.wait().unwrap().code(), Some(0), "{said}");
}
