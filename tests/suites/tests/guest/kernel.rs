//! The kernel as cases see it: its log, its modules, its options.

use std::fs;
use std::io;

use kiln::guest::{Module, Sysfs, dmesg, kernel_config, tainted};
use kiln::guest_test;

#[guest_test]
fn log_begins_where_the_case_does() -> io::Result<()> {
    assert!(!dmesg()?.contains("Linux version"));
    fs::write("/dev/kmsg", "<6>said by a case; with a semicolon\n")?;
    let log = dmesg()?;
    assert!(log.lines().any(|line| line == "said by a case; with a semicolon"), "{log:?}");
    Ok(())
}

#[guest_test(loadable = ["loop"])]
fn module_is_loaded_with_parameters_and_unloaded() -> io::Result<()> {
    let named = Module::named("loop");
    assert!(!named.is_loaded()? && named.unload().is_err());
    let module = Module::load("loop", "max_loop=3 max_part=7")?;
    assert!(module.is_loaded()? && module == named);
    assert_eq!(module.parameter("max_loop")?, "3");
    assert_eq!(module.parameter("max_part")?, "7");
    assert!(Sysfs::at("block").has("loop2") && !Sysfs::at("block").has("loop3"));
    module.unload()?;
    assert!(!named.is_loaded()? && !Sysfs::at("block").has("loop0"));
    Ok(())
}

#[guest_test(modules = ["dummy"])]
fn module_that_a_case_asks_for_is_loaded() -> io::Result<()> {
    assert!(Module::named("dummy").is_loaded()?);
    assert!(Sysfs::at("class/net").has("dummy0"));
    Ok(())
}

#[guest_test(loadable = ["loop"])]
fn module_with_a_parameter_that_it_has_not_says_so_in_the_log() -> io::Result<()> {
    let module = Module::load("loop", "no_such_parameter=1")?;
    let said = dmesg()?;
    assert!(said.contains("loop: unknown parameter 'no_such_parameter' ignored"), "{said}");
    module.unload()
}

#[guest_test]
fn kernel_is_not_tainted() -> io::Result<()> {
    assert_eq!(tainted()?, "");
    Ok(())
}

#[guest_test]
fn options_of_the_kernel_are_told() -> io::Result<()> {
    match kernel_config("CONFIG_VIRTIO_BLK") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => kiln::skip!("{error}"),
        value => assert!(matches!(value?.as_deref(), Some("y" | "m"))),
    }
    assert_eq!(kernel_config("CONFIG_NO_SUCH_OPTION")?, None);
    Ok(())
}

#[guest_test(append = "kiln.said=so")]
fn command_line_arrives_whole() -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    assert!(line.starts_with("console=ttyS0 ") && line.trim_end().ends_with(" kiln.said=so"), "{line}");
    Ok(())
}

#[guest_test]
#[should_panic(expected = "leaves the 1 ports")]
fn access_that_leaves_its_ports_panics() {
    let ports = kiln::guest::Ports::take(kiln::protocol::addresses::POST, 1).unwrap();
    ports.write16(0, 0);
}

#[guest_test(kernel = "6.12", loadable = ["loop"])]
#[ignore = "fetches a second kernel: `cargo xtask ci` runs it"]
fn case_boots_the_kernel_that_it_asks_for() -> io::Result<()> {
    let release = Sysfs::at("/proc/sys/kernel").read("osrelease")?;
    assert!(release.starts_with("6.12."), "{release}");
    // Its modules are its own, too.
    Module::load("loop", "")?.unload()
}
