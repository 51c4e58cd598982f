//! Bytes sent back as they came: what the paths of consoles and ports are proven with, in images that hold no other
//! program.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Copies standard input to standard output.
pub(crate) fn stdin() -> io::Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).map(drop)
}

/// Reads `count` bytes from a terminal, untouched by its line discipline, and writes them back to it. Says `ready`
/// when the first may come.
pub(crate) fn terminal(path: &str, count: u64) -> io::Result<()> {
    let mut terminal = File::options().read(true).write(true).open(path)?;
    let mut settings = tcgetattr(&terminal)?;
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings)?;
    writeln!(io::stdout(), "ready")?;
    let mut left = count;
    let mut buffer = vec![0; 4096];
    while left > 0 {
        let length = terminal.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        terminal.write_all(buffer.get(..length).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
    }
    Ok(())
}
