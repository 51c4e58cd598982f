//! The kernel's log, as far as it came since a case began (Documentation/ABI/testing/dev-kmsg).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

/// Where the log is read; each read is one record.
const KMSG: &str = "/dev/kmsg";
/// More than the longest record (linux/printk.h: `PRINTKRB_RECORD_MAX`, `CONSOLE_EXT_LOG_MAX`).
const RECORD_MAX: usize = 16 << 10;
/// Stands where the kernel overwrote what nobody had read.
const LOST: &str = "[messages were lost here: the kernel's log is too small for them]\n";

/// The log from where the case began, and what was read of it.
static LOG: Mutex<Option<(File, String)>> = Mutex::new(None);

/// The case begins here.
///
/// # Errors
/// The kernel has no log to read.
pub(crate) fn begin() -> io::Result<()> {
    let mut file = open()?;
    file.seek(SeekFrom::End(0))?;
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some((file, String::new()));
    Ok(())
}

/// All that the kernel still has of its log, as [`dmesg`] gives it.
///
/// # Errors
/// The kernel has no log to read.
pub(crate) fn whole() -> io::Result<String> {
    let mut text = String::new();
    take(&mut open()?, &mut text)?;
    Ok(text)
}

/// What the kernel has logged since this case began, a line for each message, without times.
///
/// # Errors
/// The log can't be read, or this is no case in a guest.
pub fn dmesg() -> io::Result<String> {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((file, text)) = log.as_mut() else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "dmesg() is for the body of a guest test"));
    };
    take(file, text)?;
    Ok(text.clone())
}

fn open() -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(KMSG)
}

/// Adds the records that there are to `text`.
fn take(file: &mut File, text: &mut String) -> io::Result<()> {
    let mut record = vec![0; RECORD_MAX];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(()),
            Ok(length) => text.push_str(&message(&record[..length])),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                Some(libc::EPIPE) => text.push_str(LOST),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            },
        }
    }
}

/// The message of a record: what follows its header, up to its dictionary.
fn message(record: &[u8]) -> String {
    let text = String::from_utf8_lossy(record);
    let body = text.split_once(';').map_or(&*text, |(_, body)| body);
    let lines = body.lines().take_while(|line| !line.starts_with(' '));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_what_stands_between_header_and_dictionary() {
        let record = b"6,339,5140900,-;NET: Registered; protocol family 10\n SUBSYSTEM=net\n DEVICE=n1\n";
        assert_eq!(message(record), "NET: Registered; protocol family 10\n");
        assert_eq!(message(b"no header"), "no header\n");
    }

    #[test]
    fn log_is_refused_where_no_case_runs() {
        assert_eq!(dmesg().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
