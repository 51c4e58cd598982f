//! One run's directory: `<suite>/<case>/<start>-<pid>/`, and `latest` beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Sink;

/// The environment variable that tells a process in the lab where its evidence is on the host outside.
pub const EVIDENCE_ROOT: &str = "KILN_EVIDENCE_ROOT";

/// The file of a run's directory that says what command runs in the guest; it is there once the command does.
pub const COMMAND_FILE: &str = "command.json";

/// Where the runs' directories are, given the cache's folder: outside, where this process is in the lab.
#[must_use]
pub fn runs_root(cache: &Path) -> PathBuf {
    std::env::var_os(EVIDENCE_ROOT).map_or_else(|| cache.join("runs"), PathBuf::from)
}

/// The directory of one run; every method writes through at once.
#[derive(Debug)]
pub struct RunDirectory {
    sink: Sink,
    root: PathBuf,
    /// Relative to the root.
    path: String,
    began: Instant,
    /// Locked, so that nobody makes room in the cache by taking it away.
    _held: Option<File>,
}

/// Makes the directory, and keeps it while the file is open. A file system without locks makes it no worse.
fn hold(directory: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(directory)?;
    let held = File::open(directory)?;
    kiln_rootfs::cache::hold(&held);
    Ok(Some(held))
}

/// An event of `run.jsonl`.
#[derive(Serialize)]
struct Event<'a> {
    /// Milliseconds since the run began.
    time_ms: f64,
    source: &'a str,
    level: &'a str,
    message: &'a str,
}

impl RunDirectory {
    /// Begins a run of `case` in `suite`: makes the directory, writes `started`, points `latest` at it, and
    /// removes what earlier runs of the case left that passed.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub fn begin(root: &Path, suite: &str, case: &str) -> io::Result<Self> {
        // Several runs of one case may begin in one process within one millisecond.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let parent = format!("{}/{}", plain(suite), plain(case));
        let serial = match SERIAL.fetch_add(1, Ordering::Relaxed) {
            0 => String::new(),
            n => format!(".{n}"),
        };
        let name = format!("{}-{}{serial}", start_stamp(), std::process::id());
        let run = Self::join(root, &format!("{parent}/{name}"))?;
        if let Sink::Disk(root) = &run.sink
            && !keep_all()
        {
            remove_passed(&root.join(&parent));
        }
        run.append("started", format!("{suite} {case}\n").as_bytes())?;
        run.sink.link(&format!("{parent}/latest"), &name)?;
        Ok(run)
    }

    /// Goes on with a run that was begun elsewhere: in the lab, with one begun on the host outside.
    ///
    /// # Errors
    /// As [`Sink::of_this_process`].
    pub fn join(root: &Path, path: &str) -> io::Result<Self> {
        let sink = Sink::of_this_process(root)?;
        let held = match &sink {
            Sink::Disk(root) => hold(&root.join(path))?,
            _ => None,
        };
        Ok(Self { sink, root: root.to_owned(), path: path.to_owned(), began: Instant::now(), _held: held })
    }

    /// The directory's path below the runs' root.
    #[must_use]
    pub fn relative(&self) -> &str {
        &self.path
    }

    /// The directory's path; on the host outside when this runs in the lab.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.path)
    }

    /// Adds `bytes` to the end of `file`.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.sink.append(&format!("{}/{file}", self.path), bytes)
    }

    /// Notes an event in `run.jsonl`. `level` is `info`, `warning` or `error`; `source` is who says it.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn event(&self, source: &str, level: &str, message: &str) -> io::Result<()> {
        let time_ms = (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let mut line = serde_json::to_vec(&Event { time_ms, source, level, message })?;
        line.push(b'\n');
        self.append("run.jsonl", &line)
    }

    /// Writes `value` as `file`, in JSON for people.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn json(&self, file: &str, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.append(file, &text)
    }

    /// Ends the run as passed.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn passed(&self) -> io::Result<()> {
        self.append("passed", b"")
    }

    /// Ends the run as failed, with the chain of what failed.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn failed(&self, why: &str) -> io::Result<()> {
        self.append("failed", format!("{why}\n").as_bytes())
    }

    /// Says that the run was interrupted, unless it has ended. Evidence that can't be written keeps nobody from ending.
    pub fn interrupted(&self) {
        let ended = |file| self.path().join(file).exists();
        if !ended("passed") && !ended("failed") {
            let _ = self.event("kiln", "error", "interrupted");
            let _ = self.failed("interrupted");
        }
    }

    /// Removes the directory of a run that passed, unless `KILN_KEEP=1`.
    ///
    /// # Errors
    /// As [`Sink::append`].
    pub fn discard(self) -> io::Result<()> {
        if keep_all() {
            return Ok(());
        }
        self.sink.remove(&self.path)?;
        // Where it pointed at this run, it points at nothing now.
        let latest = Path::new(&self.path).parent().unwrap_or(Path::new("")).join("latest");
        self.sink.unlink_dangling(&latest.to_string_lossy())
    }
}

fn keep_all() -> bool {
    std::env::var("KILN_KEEP").is_ok_and(|v| v == "1")
}

/// `::` becomes `.`; what a path can't hold, or would climb with, becomes `_`.
fn plain(name: &str) -> String {
    let name = name.replace("::", ".");
    let name: String = name
        .chars()
        .map(|c| if c == '/' || c == '\0' || c.is_control() { '_' } else { c })
        .take(200)
        .collect();
    if name.chars().all(|c| c == '.') { "_".to_owned() } else { name }
}

/// Removes the directories below `parent` that hold a `passed`; others' are left alone, errors too: this is
/// housekeeping, and the run matters more.
fn remove_passed(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if !path.is_symlink() && path.join("passed").exists() && !owner_lives(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Whether the process that a run's directory is named after still is: it may not have read its report yet.
fn owner_lives(run: &Path) -> bool {
    let name = run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let pid = name.split_once('-').and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists())
}

/// The time of day in UTC as `20260131T235959.123`, which sorts.
fn start_stamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{:03}", since.subsec_millis())
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil_from_days(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(civil_from_days(20_454), (2026, 1, 1));
        assert_eq!(civil_from_days(20_453), (2025, 12, 31));
    }

    #[test]
    fn names_never_climb() {
        assert_eq!(plain("a::b"), "a.b");
        assert_eq!(plain(".."), "_");
        assert_eq!(plain("../x"), ".._x");
    }

    #[test]
    fn run_that_dies_is_neither_passed_nor_failed() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::begin(root.path(), "suite", "module::case").unwrap();
        run.append("console.log", b"bytes\xff").unwrap();
        run.event("kiln", "info", "booted").unwrap();
        let latest = root.path().join("suite/module.case/latest");
        assert!(latest.join("started").exists());
        assert_eq!(fs::read(latest.join("console.log")).unwrap(), b"bytes\xff");
        assert!(!latest.join("passed").exists() && !latest.join("failed").exists());
    }

    #[test]
    fn run_that_is_interrupted_says_so_unless_it_has_ended() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::begin(root.path(), "suite", "case").unwrap();
        run.interrupted();
        run.interrupted();
        assert_eq!(fs::read_to_string(run.path().join("failed")).unwrap(), "interrupted\n");
        let run = RunDirectory::begin(root.path(), "suite", "case").unwrap();
        run.passed().unwrap();
        run.interrupted();
        assert!(!run.path().join("failed").exists());
    }

    #[test]
    fn passed_runs_make_room_and_failed_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        RunDirectory::begin(root.path(), "s", "c").unwrap().passed().unwrap();
        RunDirectory::begin(root.path(), "s", "c").unwrap().failed("why").unwrap();
        let last = RunDirectory::begin(root.path(), "s", "c").unwrap();
        let left = fs::read_dir(root.path().join("s/c")).unwrap().count();
        assert_eq!(left, 3, "the failed one, the last one, latest");
        assert!(last.path().join("started").exists());
    }
}
