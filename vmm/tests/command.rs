//! The command `kiln-vmm`, as whoever runs it sees it.

#[path = "command/hostile.rs"]
mod hostile;

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

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
        case("devices_are_listed_and_set", devices),
        case("debug_consoles_share_standard_output", consoles),
        case("serial_port_reads_standard_input", standard_input),
        case("disk_is_written_and_read_back_while_the_console_speaks", disk),
        case("printed_machine_runs_again_as_printed", printed_machine),
        case("access_to_nothing_ends_a_strict_machine_and_is_told_of_on_others", strict),
        case("end_that_nothing_else_explains_is_told_with_where_the_processors_stood", dumped),
        case("instructions_are_written_down_to_the_limit", instructions),
        case("output_that_is_lost_is_told_of_and_ends_with_125", lost),
        case("bad_options_end_with_one_line_and_125", bad_options),
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
    // The node that it would be made with anyway, by another name.
    same(vmm(&["run", &hello, "--kvm", "/dev/../dev/kvm"])?, (Some(0), said.clone(), String::new()))?;
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

/// The image of a payload that needs devices, as an ELF kernel or a multiboot image.
fn with_devices(name: &str) -> Result<NamedTempFile, String> {
    let payload = kiln_fixtures::with_devices().into_iter().find(|payload| payload.name == name);
    let payload = payload.ok_or("no such payload")?;
    if payload.mode == kiln_fixtures::Mode::Protected32 {
        return file(&payload.multiboot(Image::Elf32));
    }
    file(&payload.elf())
}

fn devices() -> Came {
    let (status, text, _) = vmm(&["run", "--device", "help"])?;
    same(status, Some(0))?;
    for word in ["com1", "ports 0x3f8-0x3ff", "pvpanic", "panic=", "note | end | off"] {
        same((word, text.contains(word)), (word, true))?;
    }
    let (status, text, _) = vmm(&["devices", "--json"])?;
    let listed: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    same((status, listed[0]["name"].as_str()), (Some(0), Some("com1")))?;
    let testdev = with_devices("testdev")?;
    let path = testdev.path().to_string_lossy();
    let run = vmm(&["run", &path, "--mem", "16", "--device", "testdev", "--exit-status", "raw"])?;
    same((run.0, run.1), (Some(1), "PASS: 8 tests\n".to_owned()))?;
    let panics = with_devices("pvpanic")?;
    let path = panics.path().to_string_lossy();
    let ended = "kiln-vmm: the guest panicked\n".to_owned();
    same(vmm(&["run", &path, "--device", "pvpanic,panic=end"])?, (Some(1), String::new(), ended))
}

fn consoles() -> Came {
    let kernel = with_devices("debug-consoles")?;
    let (status, said, _) = vmm(&["run", &kernel.path().to_string_lossy()])?;
    let text = "to the debug console\nto firmware's, and half a line";
    same((status, said.as_str()), (Some(0), text))
}

fn standard_input() -> Came {
    let kernel = with_devices("serial-ports")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"));
    command.args(["run", "--device", "com1,to=nothing", "--device", "com2,to=stdio"]);
    command.args(["--device", "com3", "--device", "com4", "--timeout", "60"]).arg(kernel.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"typed\n").map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    same((output.status.code(), output.stdout.as_slice()), (Some(0), &b"COM2\ntyped\n"[..]))
}

fn disk() -> Came {
    let (kernel, disk) = (with_devices("disk-babble")?, file(&[0; 1 << 20])?);
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"));
    command.arg("run").arg(kernel.path()).arg("--disk").arg(disk.path()).args(["--timeout", "60"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // A second line: by then it goes on with the code that it let go of.
    let mut said = [0; "and on\nand on\n".len()];
    let heard = child.stdout.take().ok_or("no standard output")?.read_exact(&mut said);
    let ended = child.kill().and_then(|()| child.wait());
    heard.and(ended.map(drop)).map_err(|error| error.to_string())?;
    same(&said[..], b"and on\nand on\n")?;
    let bytes = std::fs::read(disk.path()).map_err(|error| error.to_string())?;
    same((bytes.len(), bytes[..2].to_vec()), (1 << 20, vec![0x5a, 0]))
}

fn printed_machine() -> Came {
    let payload = kiln_fixtures::multiboot_only().into_iter().next().ok_or("no payload")?;
    let (kernel, module) = (file(&payload.multiboot(Image::Elf32))?, file(b"bytes\n")?);
    let module = format!("{}:with a string", module.path().display());
    let path = kernel.path().to_string_lossy();
    let options = ["run", &path, "--mem", "16", "--module", &module, "--cmdline", "a=b", "--device", "rtc"];
    let came = vmm(&options)?;
    same(came.0, Some(0))?;
    for format in ["--print-config", "--print-config=toml"] {
        let (status, text, _) = vmm(&[&options[..], &[format]].concat())?;
        same(status, Some(0))?;
        let printed = file(text.as_bytes())?;
        let printed = printed.path().to_string_lossy();
        same(vmm(&["run", "--config", &printed])?, came.clone())?;
        same(vmm(&["run", "--config", &printed, format])?.1, text)?;
    }
    let broken = file(b"cpus = 1\nspeed = 9\n")?;
    let (status, _, error) = vmm(&["run", "--config", &broken.path().to_string_lossy()])?;
    same(
        (status, error.lines().count(), error.contains("line 2: unknown field `speed`")),
        (Some(125), 1, true),
    )
}

fn strict() -> Came {
    let payload = kiln_fixtures::by_name("pio-nothing").ok_or("no such payload")?;
    let kernel = file(&payload.elf())?;
    let path = kernel.path().to_string_lossy();
    let first = "vCPU 0 wrote 1 byte at port 0xb00, where no device is";
    let began = Instant::now();
    let (status, said, error) = vmm(&["run", &path, "--mem", "16"])?;
    // A line at once, one after each second that it took, and one at the end.
    let few = error.lines().count() as u64 <= 2 + began.elapsed().as_secs();
    same((status, said.as_str()), (Some(0), ""))?;
    same((few, error.contains(first)), (true, true))?;
    let (status, _, error) = vmm(&["run", &path, "--mem", "16", "--strict"])?;
    same((status, error.contains(&format!("the machine is strict: {first}\n"))), (Some(1), true))?;
    let allowed = ["run", &path, "--mem", "16", "--strict", "--allow", "pio:0xb00-0xb03"];
    same(vmm(&allowed)?.0, Some(0))?;
    let (_, shown, _) = vmm(&[&allowed[..], &["--print-config=toml"]].concat())?;
    let shown = file(shown.as_bytes())?;
    same(vmm(&["run", "--config", &shown.path().to_string_lossy()])?.0, Some(0))?;
    let (status, _, error) = vmm(&["run", &path, "--allow", "pio:0xb00"])?;
    same((status, error.contains("--strict")), (Some(125), true))
}

fn dumped() -> Came {
    let kernel = image("triple-fault-32")?;
    let (status, said, error) = vmm(&["run", &kernel.path().to_string_lossy(), "--mem", "16"])?;
    same((status, said.as_str()), (Some(1), ""))?;
    let told = error.starts_with("kiln-vmm: triple fault of vCPU 0\nvCPU 0 (running): KVM_EXIT_SHUTDOWN");
    same((told, error.contains("\n  RIP "), &error), (true, true, &error))
}

fn instructions() -> Came {
    let (kernel, file) = (image("serial-hello-32")?, file(b"")?);
    let (path, file) = (kernel.path().to_string_lossy(), file.path().to_string_lossy());
    let options = ["run", &path, "--mem", "16", "--trace-instructions", &file, "--trace-limit", "5"];
    same(vmm(&options)?, (Some(0), "hello from a payload\n".to_owned(), String::new()))?;
    let text = std::fs::read_to_string(&*file).map_err(|error| error.to_string())?;
    let lines: Vec<&str> = text.lines().collect();
    same((lines.len(), lines.first().copied()), (5, Some("0 0000000000100000")))
}

/// Runs the payload that says hello, with its output there; returns the status and what was said of it.
fn hello_to(out: impl Into<Stdio>) -> Result<(Option<i32>, String), String> {
    let hello = image("serial-hello-32")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"));
    let output = command.arg("run").arg(hello.path()).stdout(out).output();
    let output = output.map_err(|error| error.to_string())?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn lost() -> Came {
    let hello = image("serial-hello-32")?;
    let path = hello.path().to_string_lossy();
    let full = |device: &str| {
        format!("kiln-vmm: {device} lost 21 bytes of output: No space left on device (os error 28)\n")
    };
    let to_file = vmm(&["run", &path, "--device", "com1,to=file,path=/dev/full"])?;
    same(to_file, (Some(125), String::new(), full("COM1")))?;
    let out = std::fs::File::options().write(true).open("/dev/full").map_err(|error| error.to_string())?;
    same(hello_to(out)?, (Some(125), full("standard output")))?;
    // Whoever reads no more has had enough.
    let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    drop(reader);
    same(hello_to(writer)?, (Some(0), String::new()))
}

fn bad_options() -> Came {
    let kernel = image("serial-hello-32")?;
    let path = kernel.path().to_string_lossy().into_owned();
    for (options, words) in [
        (&["--device", "com9"][..], "no device named \"com9\""),
        (&["--device", "com2,to=file,path=/no/such/x"], "COM2 can't be connected to file /no/such/x"),
        (&["--device", "com2,to=stdio"], "COM1 and COM2 both lead to standard output"),
        (
            &["--device", "fw-cfg,file=a,path=/no/such/x"],
            "fw_cfg file a can't be connected to file /no/such/x",
        ),
        (&["--gdb", "unix:/no/such/folder/gdb"], "gdb can't be listened for on /no/such/folder/gdb"),
        (&["--kvm", "/no/such/kvm"], "/no/such/kvm does not exist: "),
        (&["--kvm", "/dev/null"], "/dev/null is no KVM device node: "),
        (&["--kvm", "/"], "can't open /: "),
        (&["--trace", "/no/such/trace"], "can't write the trace to /no/such/trace"),
        (&["--module", "/no/such/module"], "can't read the module /no/such/module"),
    ] {
        let mut arguments = vec!["run", path.as_str()];
        arguments.extend(options);
        let (status, said, error) = vmm(&arguments)?;
        let lines = error.lines().count();
        same((status, said.as_str(), lines), (Some(125), "", 1))
            .map_err(|e| format!("{options:?}: {e}: {error}"))?;
        same((error.contains(words), &error), (true, &error))?;
    }
    Ok(())
}

kiln::main!();
