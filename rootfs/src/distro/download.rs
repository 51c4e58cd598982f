//! Apt's own account of a download, turned into progress.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use super::failed;
use crate::Error;
use crate::progress::{Progress, Work};

/// A line of apt's is never longer; what it says beyond that is not for us.
const LONGEST_LINE: u64 = 64 << 10;
/// How much of what apt complains about is kept.
const COMPLAINTS: usize = 64 << 10;

/// Runs `apt-get`, which is told by `command` to put its status on standard output.
pub(super) fn follow(
    command: &mut Command,
    what: &str,
    total: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let work = Work::begin(progress, what, total);
    let program = "apt-get".to_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = std::thread::scope(|scope| {
        let complaints = scope.spawn(|| stderr.map(complaints).unwrap_or_default());
        if let Some(stdout) = stdout {
            report(stdout, total, &work);
        }
        complaints.join().unwrap_or_default()
    });
    let status = child.wait().map_err(|source| Error::Start { program, source })?;
    if status.success() {
        return Ok(());
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

/// Reads to the end, whatever comes: apt must not block on a full pipe.
fn report(stream: impl Read, total: Option<u64>, work: &Work<'_>) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut done) = (Vec::new(), 0);
    while matches!(reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(count) if count > 0) {
        if let Some(per_million) = share(&String::from_utf8_lossy(&line)) {
            let now = total.map_or(0, |total| total.saturating_mul(per_million) / 1_000_000);
            work.advance(now.saturating_sub(done));
            done = done.max(now);
        }
        line.clear();
    }
    let _ = io::copy(&mut reader, &mut io::sink());
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
        report(lines.as_bytes(), Some(1000), &Work::begin(&count, "x", Some(1000)));
        assert_eq!(count.0.into_inner(), 755);
    }

    #[test]
    fn a_failure_tells_the_errors() {
        let script = "echo 'W: a' >&2; echo 'E: b' >&2; exit 100";
        let error = follow(Command::new("sh").args(["-c", script]), "x", None, &crate::progress::Silent);
        assert_eq!(error.unwrap_err().to_string(), "apt-get, x, failed (exit status: 100): E: b");
    }
}
