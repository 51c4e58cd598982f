//! What guests say to a case on the host: programs, line by line, and files.

use kiln::agent::{Client, Process, ProcessEvent};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The next line that a program says.
pub(crate) fn line(process: &mut Process) -> Result<String> {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        match process.next_event()? {
            ProcessEvent::Started(_) => {}
            ProcessEvent::Stdout(bytes) => said.extend(bytes),
            ProcessEvent::Stderr(bytes) => return Err(String::from_utf8_lossy(&bytes).trim_end().into()),
            other => return Err(format!("a line was to come: {other:?}").into()),
        }
    }
    Ok(String::from_utf8(said)?.trim_end().to_owned())
}

/// What a file of the guest holds, without its last line's end.
pub(crate) fn read(client: &Client, path: &str) -> Result<String> {
    let mut bytes = Vec::new();
    client.get(path, &mut bytes)?;
    Ok(String::from_utf8(bytes)?.trim_end().to_owned())
}
