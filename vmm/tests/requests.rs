//! What the machine asks of KVM, and in which order, as `strace` sees it.

use std::io::Write;
use std::process::Command;

use kiln::gate::{self, Decision, Mode, Needs};
use tempfile::NamedTempFile;

/// The requests of one run of a payload: each `ioctl` that names KVM's, in the order of their beginning.
fn requests() -> Vec<String> {
    let (mut kernel, log) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
    kernel.write_all(&kiln_fixtures::by_name("pass").unwrap().elf()).unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=ioctl", "-o"]).arg(log.path());
    let ended = strace.args([env!("CARGO_BIN_EXE_kiln-vmm"), "run"]).arg(kernel.path()).status();
    let ended = ended.expect("strace can't be run: install the package strace");
    assert_eq!(ended.code(), Some(0), "the payload passes under strace");
    let text = std::fs::read_to_string(log.path()).unwrap();
    // `PID ioctl(FD, REQUEST, …) = …`
    let request = |line: &str| Some(line.split_once("ioctl(")?.1.split(", ").nth(1)?.to_owned());
    text.lines().filter_map(request).filter(|request| request.starts_with("KVM_")).collect()
}

#[test]
#[ignore = "needs strace: `cargo xtask ci` runs it"]
fn requests_come_in_the_order_that_kvm_wants() {
    let mode = Mode::of_environment().unwrap();
    if let Decision::Ignore(why) | Decision::Fail(why) =
        gate::decide(mode, gate::host_level(), Needs::Payload)
    {
        assert_ne!(mode, Mode::Require, "{why}");
        eprintln!("not run: {why}");
        return;
    }
    let requests = requests();
    let place = |name: &str| {
        let found = requests.iter().position(|request| request == name);
        found.unwrap_or_else(|| panic!("{name} is not among {requests:?}"))
    };
    let order = [
        "KVM_GET_API_VERSION",
        "KVM_CHECK_EXTENSION",
        "KVM_CREATE_VM",
        "KVM_SET_IDENTITY_MAP_ADDR",
        "KVM_SET_TSS_ADDR",
        "KVM_CREATE_IRQCHIP",
        "KVM_CREATE_PIT2",
        "KVM_SET_USER_MEMORY_REGION",
        "KVM_CREATE_VCPU",
        "KVM_SET_CPUID2",
        "KVM_SET_SREGS",
        "KVM_RUN",
    ];
    let places = order.map(place);
    assert!(places.is_sorted(), "{requests:?}");
    let last_slot = requests.iter().rposition(|request| request == "KVM_SET_USER_MEMORY_REGION");
    assert!(last_slot < Some(place("KVM_CREATE_VCPU")), "memory is there before any vCPU: {requests:?}");
}
