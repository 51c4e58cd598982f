//! This program, carried into a lab whose clock counts instructions: what it measures there comes out line by line.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Result, bail};
use kiln::agent::{AgentError, Command, ProcessEvent, Status};
use kiln::lab::{Lab, LabSpec};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::progress::Progress;

/// No lab takes so long.
pub(super) const GUARD: Duration = Duration::from_secs(60 * 60);
/// No run takes so long, on the slowest of hosts; one that does spins.
const STALL: Duration = Duration::from_secs(120);
/// Where the spec is in the lab.
const SPEC: &str = "/kiln/spec.json";

/// What is done in a lab.
pub(super) struct Task<'a> {
    /// A program of ours that was carried in.
    pub(super) program: &'a Path,
    /// The word that tells it what to do.
    pub(super) word: &'a str,
    /// What it is to measure, as JSON, in the file that is named behind the word.
    pub(super) spec: Vec<u8>,
}

/// Has `task` done in one lab; `line` is given each line that it prints, with its end.
///
/// # Errors
/// The lab was lost, or nothing was said for so long that something in it spins.
pub(super) fn measure(
    cache: &Cache,
    lab: &LabSpec,
    task: &Task<'_>,
    line: &mut dyn FnMut(&[u8]),
    progress: &dyn Progress,
) -> Result<()> {
    let mut lab = Lab::start(cache, lab, progress)?;
    lab.client().put(SPEC, 0o600, &mut task.spec.as_slice())?;
    let argv = vec![task.program.to_string_lossy().into_owned(), task.word.to_owned(), SPEC.to_owned()];
    let (alive, watched) = mpsc::channel::<()>();
    let end = lab.ender();
    let guard = std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(STALL) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    end();
                    return true;
                }
            }
        }
    });
    let (mut pending, mut said) = (Vec::new(), Vec::new());
    let follow = || -> Result<Status, AgentError> {
        let mut process = lab.client().exec(Command { argv, ..Command::default() })?;
        loop {
            match process.next_event()? {
                ProcessEvent::Stdout(bytes) => {
                    let _watch_is_over = alive.send(());
                    pending.extend_from_slice(&bytes);
                    while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                        line(&pending.drain(..=end).collect::<Vec<u8>>());
                    }
                }
                ProcessEvent::Stderr(bytes) => said.extend_from_slice(&bytes),
                ProcessEvent::Exited(status) => return Ok(status),
                ProcessEvent::Started(_) | ProcessEvent::Events(_) => {}
            }
        }
    };
    let followed = follow();
    drop(alive);
    let stalled = guard.join().unwrap_or(false);
    match followed {
        Ok(Status::Code(0)) => Ok(()),
        Ok(status) => bail!("measuring ended with {status:?}: {}", String::from_utf8_lossy(&said).trim()),
        Err(_) if stalled => bail!("a guest span for more than {} s of wall time", STALL.as_secs()),
        Err(error) => Err(lab.explain(error).into()),
    }
}
