//! The guest's console, for whoever has nothing else to read.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// The UART first: it is what the host reads, even where the kernel's console is another.
const CONSOLES: &[&str] = &["/dev/ttyS0", "/dev/console"];

fn open(path: &str) -> Option<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path).ok()
}

/// Says a line, after the agent's name. A console that is not there is no reason to do anything else.
pub(crate) fn say(line: &str) {
    let text = format!("kiln-agent: {line}\n");
    for mut console in CONSOLES.iter().filter_map(|path| open(path)) {
        if console.write_all(text.as_bytes()).is_ok() {
            return;
        }
    }
}

/// Waits until all that was said is out.
pub(crate) fn drain() {
    for console in CONSOLES.iter().filter_map(|path| open(path)) {
        let _ = rustix::termios::tcdrain(&console);
    }
}
