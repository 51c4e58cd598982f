//! The command `kiln-vmm`, as whoever runs it sees it.

use std::io::Write;
use std::process::{Command, Output};

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::gate::Needs;
use kiln_fixtures::Image;
use tempfile::NamedTempFile;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static COMMAND: fn() -> Vec<Case> = || {
    let case =
        |name: &str, body: fn() -> Came| Case::host(&format!("command::run::{name}"), Needs::Payload, body);
    vec![
        case("multiboot_image_that_passes_ends_with_1_raw_and_0_as_a_verdict", exit_statuses),
        case("multiboot_kernel_gets_its_modules", modules),
    ]
};

/// Runs the command, and returns its status and what it printed.
fn vmm(arguments: &[&str]) -> Result<(Option<i32>, String, String), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln-vmm")).args(arguments).output();
    let Output { status, stdout, stderr } = output.map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code(), text(stdout), text(stderr)))
}

fn same<T: PartialEq + std::fmt::Debug>(came: T, expected: T) -> Came {
    if came == expected { Ok(()) } else { Err(format!("{expected:?} was expected, {came:?} came")) }
}

fn file(bytes: &[u8]) -> Result<NamedTempFile, String> {
    let written = NamedTempFile::new().and_then(|mut file| file.write_all(bytes).map(|()| file));
    written.map_err(|error| error.to_string())
}

fn image(name: &str) -> Result<NamedTempFile, String> {
    let payload = kiln_fixtures::by_name(name).ok_or("no such payload")?;
    file(&payload.multiboot(Image::Elf32))
}

fn exit_statuses() -> Came {
    let hello = image("serial-hello-32")?;
    let hello = hello.path().to_string_lossy();
    let said = "hello from a payload\n".to_owned();
    let raw = "kiln-vmm: the guest exited with 0\n".to_owned();
    same(vmm(&["run", &hello, "--exit-status", "raw"])?, (Some(1), said.clone(), raw))?;
    same(vmm(&["run", &hello])?, (Some(0), said.clone(), String::new()))?;
    same(vmm(&[&hello])?, (Some(0), said, String::new()))?;
    let other = image("exit-status-32")?;
    let other = other.path().to_string_lossy();
    same(vmm(&["run", &other, "--exit-status", "raw"])?.0, Some(43))?;
    same(vmm(&["run", &other])?.0, Some(43))
}

fn modules() -> Came {
    let payload = kiln_fixtures::multiboot_only().into_iter().next().ok_or("no payload")?;
    let (kernel, module) = (file(&payload.multiboot(Image::Elf64))?, file(b"bytes\n")?);
    let module = format!("{}:with a string", module.path().display());
    let path = kernel.path().to_string_lossy();
    let (status, said, _) = vmm(&["run", &path, "--mem", "16", "--module", &module, "--cmdline", "a=b"])?;
    let name = kernel.path().file_name().unwrap_or_default().to_string_lossy();
    same((status, said), (Some(0), format!("kiln\n{name} a=b\nwith a string\nbytes\n")))
}

kiln::main!();
