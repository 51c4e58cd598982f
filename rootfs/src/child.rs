//! Programs of the host's, run for what they do and ended with us.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Error;

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

/// Hands a file on to the command, and to what that starts: a lock on it is held as long as any of them lives.
///
/// # Errors
/// There is no descriptor left.
pub(crate) fn hand_on(command: &mut Command, file: &impl AsFd) -> Result<(), Error> {
    let own = file.as_fd().try_clone_to_owned();
    let own = own.map_err(|source| Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    // SAFETY: between fork and exec only this one call is made, which is async-signal-safe and takes numbers; the
    // descriptor is open as long as the command is, which owns it.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            rustix::io::fcntl_setfd(&own, rustix::io::FdFlags::empty()).map_err(Into::into)
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::Stdio;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn lock_that_is_handed_on_is_held_until_the_command_ends() {
        let folder = tempfile::tempdir().unwrap();
        let held = File::open(folder.path()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let mut shell = command("sh");
        shell.args(["-c", "echo; read x"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        hand_on(&mut shell, &held).unwrap();
        let mut child = shell.spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        drop((shell, held));
        let other = File::open(folder.path()).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(child.stdin.take());
        child.wait().unwrap();
        // It may not be alone: what another test is just starting has the descriptor for a moment.
        flock(&other, FlockOperation::LockExclusive).unwrap();
    }
}
