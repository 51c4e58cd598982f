//! The window of the terminal that this runs on, told whenever it changes: what the path of its size is proven with, in
//! images that hold no other program.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{tcgetwinsize, ttyname};

/// Says the terminal's name, rows and columns, again at each change, until its input ends.
pub(crate) fn follow() -> io::Result<()> {
    // Before the first look, so that no change is missed.
    let changes = crate::system::signal_events(&[libc::SIGWINCH])?;
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    loop {
        let size = tcgetwinsize(&stdin)?;
        let name = ttyname(&stdin, Vec::new())?;
        writeln!(stdout, "{} {} {}", name.to_string_lossy(), size.ws_row, size.ws_col)?;
        while !crate::system::take_signals(&changes, |_| true) {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&changes, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() && rustix::io::read(&stdin, &mut [0_u8; 4096])? == 0 {
                return Ok(());
            }
        }
    }
}
