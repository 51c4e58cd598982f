//! Cases that do not pass, each in a way of its own: what is said of them is what `tests/failures.rs` checks. A program,
//! so that no one runs it with the suite.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use kiln::cases::Guest;
use kiln::guest::Module;
use kiln::{guest_test, host_test, skip, vm_test};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Has the kernel do what `key` stands for, and waits for what will not come.
fn sysrq(key: &str) -> io::Result<()> {
    fs::write("/proc/sysrq-trigger", key)?;
    for_ever()
}

fn for_ever() -> ! {
    loop {
        thread::park();
    }
}

mod a_case {
    use super::*;

    #[guest_test]
    fn passes_before_the_others() {
        println!("what a case that passes says is not shown");
    }

    #[guest_test]
    fn returns_its_error() -> Result {
        Err("the widget is missing".into())
    }

    #[guest_test]
    fn asserts_what_is_not_so() {
        println!("said on the way");
        assert_eq!(1, 2);
    }

    #[guest_test]
    #[should_panic(expected = "out of bounds")]
    fn panics_as_it_is_to() {
        let empty: Vec<u8> = Vec::new();
        println!("{}", empty[fs::read("/dev/null").map_or(1, |bytes| bytes.len())]);
    }

    #[guest_test]
    #[should_panic(expected = "out of bounds")]
    fn panics_otherwise() {
        panic!("something else");
    }

    #[guest_test]
    #[allow(unsafe_code)]
    fn reads_at_null() {
        // By an instruction of our own: Rust would look at the address first.
        // SAFETY: it is not safe, and is not to be.
        unsafe { std::arch::asm!("mov al, byte ptr [{0}]", in(reg) 0_usize, out("al") _) };
    }

    #[guest_test]
    fn crashes_the_kernel() -> io::Result<()> {
        sysrq("c")
    }

    #[guest_test(cpus = 2, timeout = 40)]
    fn sleeps_for_ever() {
        for_ever();
    }

    #[guest_test]
    fn powers_off() -> io::Result<()> {
        sysrq("o")
    }

    #[guest_test]
    fn reboots() -> io::Result<()> {
        sysrq("b")
    }

    #[guest_test]
    fn skips_itself() {
        skip!("this guest has no {}", "floppy drive");
    }

    #[guest_test]
    #[ignore = "nobody has time for it"]
    fn is_ignored() {
        panic!("it was to be ignored");
    }

    #[vm_test]
    fn zz_passes_after_the_others(guest: &mut Guest) -> Result {
        assert!(guest.read_text("/proc/version")?.starts_with("Linux"));
        Ok(())
    }
}

mod noise {
    use super::*;

    const WARNING: &str = "<4>WARNING: CPU: 0 PID: 1 at made/up.c:1 nobody+0x1/0x2\n";

    #[guest_test]
    fn a_warning_is_printed() -> io::Result<()> {
        fs::write("/dev/kmsg", WARNING)
    }

    #[guest_test(allow_warning)]
    fn a_warning_is_allowed() -> io::Result<()> {
        fs::write("/dev/kmsg", WARNING)?;
        fs::write("/proc/sys/kernel/tainted", "512")
    }

    #[guest_test]
    fn a_taint_is_left() -> io::Result<()> {
        fs::write("/proc/sys/kernel/tainted", "512")
    }

    #[vm_test]
    fn a_taint_is_left_by_the_host(guest: &mut Guest) -> Result {
        Ok(guest.write("/proc/sys/kernel/tainted", &b"512"[..])?)
    }

    #[guest_test(loadable = ["dummy"])]
    fn a_module_is_left() -> io::Result<()> {
        Module::load("dummy", "").map(drop)
    }
}

mod on_the_host {
    use super::*;

    #[vm_test]
    fn waits_in_vain(guest: &mut Guest) -> Result {
        let error = guest.wait_for_console("no such words", Duration::from_millis(1)).unwrap_err();
        assert!(
            error.console.iter().any(|line| line.starts_with("kiln-agent: hello")),
            "{:?}",
            error.console
        );
        Err(error.into())
    }

    #[vm_test]
    fn crashes_the_guest(guest: &mut Guest) -> Result {
        guest.sysrq('c')?;
        guest.read_text("/proc/version")?;
        Ok(())
    }

    #[vm_test]
    fn asserts_what_is_not_so(guest: &mut Guest) {
        assert_eq!(guest.machine().cpus(), 2);
    }

    #[host_test]
    #[case::two(2)]
    #[case::three(3)]
    fn needs_no_guest(number: u32) {
        assert_eq!(number, 2);
    }
}

kiln::main!();
