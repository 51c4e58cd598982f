//! make, run: its progress shown, its errors passed on as they are, all of it kept in a log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use super::place::{Held, Place};
use super::toolchain::Toolchain;
use crate::progress::{Progress, Work};
use crate::{Error, child};

const LOG: &str = "build.log";
/// A line longer than this is passed on in pieces.
const LINE_MAX: u64 = 64 << 10;

/// What kbuild says of steps that it takes each time, whether or not they make anything.
const IDLE: &[&str] = &["CALL", "CHK", "DESCEND", "INSTALL", "MODPOST", "SYNC"];
/// The Makefile that kbuild writes into a build folder each time.
const IDLE_OBJECT: &str = "Makefile";

/// make for one place.
pub(super) struct Make<'a> {
    tools: &'a Toolchain,
    place: &'a Place,
    held: &'a Held,
    progress: &'a dyn Progress,
    /// Everything that is said.
    pub(super) log: PathBuf,
    file: Mutex<File>,
}

/// How many things were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made(pub(super) u64);

impl<'a> Make<'a> {
    /// Begins a log.
    pub(super) fn new(
        tools: &'a Toolchain,
        place: &'a Place,
        held: &'a Held,
        progress: &'a dyn Progress,
    ) -> Result<Self, Error> {
        let log = place.own(LOG)?;
        let file = Mutex::new(File::create(&log).map_err(Error::io("create", &log))?);
        Ok(Self { tools, place, held, progress, log, file })
    }

    /// Makes `targets`; `what` is shown for it. Errors and warnings are passed on as notes.
    ///
    /// # Errors
    /// make can't be started, or fails.
    pub(super) fn run(
        &self,
        what: &str,
        targets: &[&str],
        variables: &[(&str, &Path)],
    ) -> Result<Made, Error> {
        let mut command = self.tools.make();
        command.arg("-C").arg(&self.place.source);
        if !self.place.is_in_place() {
            let mut output = std::ffi::OsString::from("O=");
            output.push(&self.place.output);
            command.arg(output);
        }
        for (name, value) in variables {
            command.env(name, value);
        }
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // What one compiler says is not mixed with what another says.
        command.args([format!("-j{jobs}"), "--output-sync=target".to_owned()]).args(targets);
        self.keep(format!("$ {command:?}\n").as_bytes());
        // Should we be killed, the folder is still locked until make has ended.
        child::hand_on(&mut command, self.held)?;
        let work = Work::begin(self.progress, what, None);
        let started = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|source| Error::Start { program: "make".to_owned(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let made = std::thread::scope(|scope| {
            scope.spawn(|| {
                each_line(stderr, |line| {
                    self.keep(line);
                    self.progress.note(String::from_utf8_lossy(line).trim_end_matches('\n'));
                });
            });
            let mut made = Made::default();
            each_line(stdout, |line| {
                self.keep(line);
                if let Some((verb, object)) = step(&String::from_utf8_lossy(line)) {
                    work.step(object);
                    made.0 += u64::from(!IDLE.contains(&verb) && object != IDLE_OBJECT);
                }
            });
            made
        });
        let status = child.wait().map_err(Error::io("wait for make in", &self.place.output))?;
        drop(work);
        if status.success() {
            return Ok(made);
        }
        let what = format!("make {}", targets.join(" "));
        Err(Error::Make { what, status: status.to_string(), log: self.log.clone() })
    }

    /// A log that can't be written is no reason to build nothing.
    fn keep(&self, bytes: &[u8]) {
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
    }
}

/// Hands each line on as it comes, with its end.
fn each_line(output: Option<impl Read>, mut take: impl FnMut(&[u8])) {
    let Some(output) = output else { return };
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => take(&line),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// What kbuild does and to what: `  CC [M]  drivers/block/loop.o`.
fn step(line: &str) -> Option<(&str, &str)> {
    let (verb, object) = line.strip_prefix("  ")?.trim_end().split_once(' ')?;
    let object = object.trim_start();
    let object = object.strip_prefix("[M]").map_or(object, str::trim_start);
    let is_verb =
        !verb.is_empty() && verb.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    (is_verb && !object.is_empty()).then_some((verb, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_what_else_is_printed() {
        assert_eq!(step("  CC      init/main.o\n"), Some(("CC", "init/main.o")));
        assert_eq!(step("  LD [M]  a/b.ko\n"), Some(("LD", "a/b.ko")));
        for line in ["", "#", "make[1]: x", "  CC", "  note: this is prose", "Kernel: x is ready"] {
            assert_eq!(step(line), None, "{line}");
        }
    }

    #[test]
    fn lines_are_handed_on_whole_or_in_pieces_that_fit() {
        let text = format!("a\n{}\nb", "x".repeat(100_000));
        let mut lines = Vec::new();
        each_line(Some(text.as_bytes()), |line| lines.push(line.len()));
        assert_eq!(lines, [2, 65_536, 100_001 - 65_536, 1]);
    }
}
