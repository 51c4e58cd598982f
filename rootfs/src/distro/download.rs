//! Apt's own account of a download, turned into progress.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::statvfs;
use rustix::process::{Pid, Signal, kill_process_group};

use super::failed;
use crate::Error;
use crate::progress::{Progress, Work};

/// A line of apt's is never longer; what it says beyond that is not for us.
const LONGEST_LINE: u64 = 64 << 10;
/// How much of what apt complains about is kept.
const COMPLAINTS: usize = 64 << 10;

/// So many times in a row apt says that it is as far as before (twice a second) on a full disk: it waits for ever then.
const PATIENCE: u32 = 40;
/// A disk with less room, in bytes, is full.
const ROOM: u64 = 1 << 20;

/// Runs `apt-get`, which is told by `command` to put its status on standard output, and works in `folder`.
pub(super) fn follow(
    command: &mut Command,
    folder: &Path,
    what: &str,
    total: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let is_full = || statvfs(folder).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM);
    if follow_while(command, what, total, progress, &is_full)? {
        return Ok(());
    }
    Err(Error::io("write", folder)(io::ErrorKind::StorageFull.into()))
}

/// Whether it came to its end, and was not ended for a disk that is full.
fn follow_while(
    command: &mut Command,
    what: &str,
    total: Option<u64>,
    progress: &dyn Progress,
    is_full: &dyn Fn() -> bool,
) -> Result<bool, Error> {
    let work = Work::begin(progress, what, total);
    let program = "apt-get".to_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, to be ended with all that it started.
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (complaints, stuck) = std::thread::scope(|scope| {
        let complaints = scope.spawn(|| stderr.map(complaints).unwrap_or_default());
        let stuck = stdout.is_some_and(|stdout| {
            let end = || group.map(|group| kill_process_group(group, Signal::KILL));
            report(stdout, total, &work, is_full, &end)
        });
        (complaints.join().unwrap_or_default(), stuck)
    });
    let status = child.wait().map_err(|source| Error::Start { program, source })?;
    if stuck || status.success() {
        return Ok(!stuck);
    }
    // Warnings hide the error when both are many.
    let text = String::from_utf8_lossy(&complaints);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("E:")).collect();
    let said = if errors.is_empty() { text.into_owned() } else { errors.join("\n") };
    Err(failed(&format!("apt-get, {what},"), &status.to_string(), said.as_bytes()))
}

fn complaints(mut stream: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count.min(COMPLAINTS.saturating_sub(kept.len()))]);
    }
    kept
}

/// Reads to the end, whatever comes: apt must not block on a full pipe. Whether it had to be ended, for it got no
/// further on a full disk.
fn report<T>(
    stream: impl Read,
    total: Option<u64>,
    work: &Work<'_>,
    is_full: &dyn Fn() -> bool,
    end: &dyn Fn() -> T,
) -> bool {
    let mut reader = BufReader::new(stream);
    let (mut line, mut done) = (Vec::new(), 0);
    let (mut last, mut repeated, mut stuck) = (None, 0, false);
    while matches!(reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(count) if count > 0) {
        if let Some(per_million) = share(&String::from_utf8_lossy(&line)) {
            let now = total.map_or(0, |total| total.saturating_mul(per_million) / 1_000_000);
            work.advance(now.saturating_sub(done));
            done = done.max(now);
            repeated = if last == Some(per_million) { repeated + 1 } else { 0 };
            last = Some(per_million);
            if repeated >= PATIENCE && !stuck && is_full() {
                stuck = true;
                end();
            }
        }
        line.clear();
    }
    let _ = io::copy(&mut reader, &mut io::sink());
    stuck
}

/// The share that is done, in millionths, of a line `dlstatus:3:20.5814:Retrieving file 3 of 4`.
fn share(line: &str) -> Option<u64> {
    let percent = line.strip_prefix("dlstatus:")?.split(':').nth(1)?;
    let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
    let whole: u64 = whole.parse().ok().filter(|whole| *whole <= 100)?;
    let part: String = part.chars().chain("0000".chars()).take(4).collect();
    Some(whole * 10_000 + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Progress for Count {
        fn begin(&self, _what: &str, _total: Option<u64>) {}
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::SeqCst);
        }
        fn step(&self, _at: &str) {}
        fn end(&self) {}
        fn note(&self, _line: &str) {}
    }

    #[test]
    fn shares_are_read_and_nonsense_is_not() {
        assert_eq!(share("dlstatus:3:20.5814:Retrieving file"), Some(205_814));
        assert_eq!(share("dlstatus:3:100:x"), Some(1_000_000));
        for line in ["dlstatus:3:-1:x", "dlstatus:3:1e9:x", "pmstatus:a:1:x", "dlstatus:", "Get:1 http"] {
            assert_eq!(share(line), None, "{line}");
        }
    }

    #[test]
    fn bytes_never_run_backwards() {
        let count = Count::default();
        let lines = "Get:1\ndlstatus:1:50.0:x\ndlstatus:1:40.0:x\ndlstatus:2:75.5:x\n";
        report(lines.as_bytes(), Some(1000), &Work::begin(&count, "x", Some(1000)), &|| false, &|| ());
        assert_eq!(count.0.into_inner(), 755);
    }

    #[test]
    fn a_failure_tells_the_errors() {
        let script = "echo 'W: a' >&2; echo 'E: b' >&2; exit 100";
        let mut command = Command::new("sh");
        let error = follow(command.args(["-c", script]), Path::new("/"), "x", None, &crate::progress::Silent);
        assert_eq!(error.unwrap_err().to_string(), "apt-get, x, failed (exit status: 100): E: b");
    }

    #[test]
    fn apt_that_gets_no_further_on_a_full_disk_is_ended() {
        let run = |script: &str, is_full: bool| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            follow_while(&mut command, "x", None, &crate::progress::Silent, &move || is_full).unwrap()
        };
        assert!(!run("while true; do echo dlstatus:1:18.2:x; done", true));
        assert!(run("for n in $(seq 100); do echo dlstatus:1:18.2:x; done", false), "the disk has room");
    }
}
