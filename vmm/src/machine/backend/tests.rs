//! The backends, without a machine.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::bus::BusDevice;
use crate::irq::Unconnected;

/// A UART connected to `backend`, and what keeps it so.
struct Bench {
    uart: Arc<Mutex<Uart>>,
    backends: Backends,
}

fn bench(backend: &Backend) -> Bench {
    let mut backends = Backends::new(PowerSwitch::new(), Box::new(io::sink()));
    let Connected { out, source } = backends.open("COM2", backend).unwrap();
    let uart = Arc::new(Mutex::new(Uart::new(Arc::new(Unconnected), out)));
    backends.attend("COM2", &uart, source).unwrap();
    Bench { uart, backends }
}

impl Bench {
    fn say(&self, text: &str) {
        for byte in text.bytes() {
            self.uart.lock().unwrap().write(0, &[byte]);
        }
    }

    /// Reads as a polling driver does, until as many bytes came.
    fn hear(&self, count: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let mut byte = [0];
            self.uart.lock().unwrap().read(5, &mut byte);
            if byte[0] & 1 == 0 {
                std::thread::yield_now();
                continue;
            }
            self.uart.lock().unwrap().read(0, &mut byte);
            heard.extend(byte);
        }
        heard
    }

    fn finish(self) {
        for drain in &self.backends.drains {
            assert_eq!(drain.finish(), None);
        }
    }
}

fn read(from: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn file_takes_all_that_was_said_also_half_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, "something longer that was there before").unwrap();
    let bench = bench(&Backend::File { path: path.clone() });
    bench.say("a line\nand half");
    bench.finish();
    assert_eq!(fs::read_to_string(path).unwrap(), "a line\nand half");
}

#[test]
fn socket_passes_both_ways_and_keeps_what_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let bench = bench(&Backend::Socket { path: path.clone() });
    bench.say("early\n");
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(read(&mut client, 6), b"early\n");
    client.write_all(b"typed").unwrap();
    assert_eq!(bench.hear(5), b"typed");
    bench.say("late\n");
    assert_eq!(read(&mut client, 5), b"late\n");
    drop(client);
    let mut next = UnixStream::connect(&path).unwrap();
    next.write_all(b"next").unwrap();
    assert_eq!(bench.hear(4), b"next");
    bench.finish();
}

#[test]
fn socket_goes_with_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let bench = bench(&Backend::Socket { path: path.clone() });
    assert!(path.exists());
    bench.finish();
    let mut client = UnixStream::connect(&path);
    while let Ok(mut there) = client {
        // Its thread may still be on its way out: a connection then ends.
        let _end = there.read(&mut [0]);
        client = UnixStream::connect(&path);
    }
    assert!(!path.exists());
}

#[test]
fn pty_passes_both_ways_and_bytes_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("pty");
    let bench = bench(&Backend::Pty { link: Some(link.clone()) });
    let mut terminal = fs::File::options().read(true).write(true).open(&link).unwrap();
    terminal.write_all(b"\x03\x04\r\n\xff").unwrap();
    assert_eq!(bench.hear(5), b"\x03\x04\r\n\xff");
    bench.say("bytes \x01\n");
    assert_eq!(read(&mut terminal, 8), b"bytes \x01\n");
    assert_eq!(bench.backends.ptys, [("COM2".to_owned(), fs::read_link(&link).unwrap())]);
    bench.finish();
}

#[test]
fn pty_that_nobody_has_open_holds_up_no_guest() {
    let bench = bench(&Backend::Pty { link: None });
    // More than all that waits anywhere.
    bench.say(&"lost\n".repeat(100_000));
    bench.finish();
}

#[test]
fn backend_that_cannot_be_had_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "").unwrap();
    for (backend, what) in [
        (Backend::File { path: folder.path().to_owned() }, "file "),
        (Backend::File { path: "/no/such/folder/x".into() }, "file /no/such/folder/x"),
        (Backend::Socket { path: taken.clone() }, "socket "),
        (Backend::Pty { link: Some(taken) }, "pty"),
    ] {
        let mut backends = Backends::new(PowerSwitch::new(), Box::new(io::sink()));
        let Err(error) = backends.open("COM3", &backend) else { panic!("{backend} can be had") };
        let text = error.to_string();
        assert!(text.starts_with(&format!("COM3 can't be connected to {what}")), "{text}");
    }
}

#[test]
fn only_one_device_gets_the_callers_writer() {
    let mut backends = Backends::new(PowerSwitch::new(), Box::new(io::sink()));
    assert!(backends.open("COM1", &Backend::Caller).is_ok());
    assert!(backends.open("COM2", &Backend::Caller).is_err());
}
