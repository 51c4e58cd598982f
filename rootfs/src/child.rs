//! Programs of the host's, run for what they do and ended with us.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A command whose process gets `SIGTERM` when the thread that started it ends, however that is: what it does for us
/// is of no use to anyone else.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // SAFETY: between fork and exec only this one call is made, which is async-signal-safe and takes numbers.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
                .map_err(Into::into)
        });
    }
    command
}
