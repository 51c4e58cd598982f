//! The agent's port: commands and bytes, both ways, unharmed.

use std::io::{Read, Write};

use kiln::agent::{AgentError, Command, ProcessEvent, Status};
use kiln::cases::Guest;
use kiln::{guest_test, vm_test};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// Every byte value, in every phase against any block size.
fn binary(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(31) ^ n >> 8 ^ n >> 16).to_le_bytes()[0]).collect()
}

#[vm_test]
fn binary_data_comes_back_unharmed(guest: &mut Guest) -> Result {
    let sent = binary(3 << 20);
    let argv = vec!["/sbin/kiln-agent".to_owned(), "echo".to_owned()];
    let command = Command { argv, stdin: true, ..Command::default() };
    let mut process = guest.client().exec(command)?;
    let mut stdin = process.take_stdin().ok_or("no standard input")?;
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let mut back = Vec::new();
    let status = loop {
        match process.next_event()? {
            ProcessEvent::Stdout(bytes) => back.extend(bytes),
            ProcessEvent::Exited(status) => break status,
            _ => {}
        }
    };
    writer.join().map_err(|_| "the writer panicked")??;
    assert_eq!(status, Status::Code(0));
    assert!(back == sent, "{} bytes of {} came back, or others", back.len(), sent.len());
    Ok(())
}

#[vm_test]
fn a_file_put_is_the_file_got(guest: &mut Guest) -> Result {
    let sent = binary(1 << 20);
    guest.client().put("/tmp/a/file", 0o640, &mut sent.as_slice())?;
    let mut back = Vec::new();
    guest.client().get("/tmp/a/file", &mut back)?;
    assert!(back == sent);
    Ok(())
}

#[vm_test]
fn a_program_that_is_not_there_is_refused(guest: &mut Guest) -> Result {
    let error = guest.run(&["/no/such/program"]).unwrap_err();
    let Some(AgentError::Refused { errno: 2, .. }) = error.agent() else { return Err(error.into()) };
    assert!(error.console.iter().any(|line| line.starts_with("kiln-agent: hello")), "{:?}", error.console);
    Ok(())
}

#[vm_test(console = true)]
fn the_console_carries_binary_data_both_ways(guest: &mut Guest) -> Result {
    let sent = binary(64 << 10);
    let argv = ["/sbin/kiln-agent", "echo", "/dev/hvc0", "65536"].map(str::to_owned).to_vec();
    let mut process = guest.client().exec(Command { argv, ..Command::default() })?;
    let mut said = Vec::new();
    while said != b"ready\n" {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => said.extend(bytes),
            other => return Err(format!("it was to say that it is ready: {other:?}").into()),
        }
    }
    let console = guest.console().ok_or("no console")?;
    let mut writer = console.try_clone()?;
    let bytes = sent.clone();
    let writer = std::thread::spawn(move || writer.write_all(&bytes));
    let mut back = vec![0; sent.len()];
    console.read_exact(&mut back)?;
    writer.join().map_err(|_| "the writer panicked")??;
    assert!(back == sent);
    assert_eq!(process.next_event()?, ProcessEvent::Exited(Status::Code(0)));
    Ok(())
}

#[guest_test]
fn the_port_is_found_by_its_name() -> std::io::Result<()> {
    let mut names = String::new();
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        std::fs::File::open(entry?.path().join("name"))?.read_to_string(&mut names)?;
    }
    assert_eq!(names.trim(), kiln::protocol::wire::PORT_NAME);
    Ok(())
}
