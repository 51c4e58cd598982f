//! Evidence on its way out of the lab: a line of JSON, then the bytes that it counts.

use std::io::{self, Write};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::{COMMAND_FILE, Sink};

/// The longest header line that is taken.
const HEADER_MAX: usize = 4096;
/// The most bytes of one record.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Header {
    Append { file: String, length: usize },
    Link { file: String, target: String },
    Remove { file: String },
    Unlink { file: String },
}

pub(super) fn write_append(pipe: &mut impl Write, file: &str, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(BYTES_MAX) {
        write(pipe, &Header::Append { file: file.to_owned(), length: piece.len() }, piece)?;
    }
    if bytes.is_empty() {
        write(pipe, &Header::Append { file: file.to_owned(), length: 0 }, bytes)?;
    }
    Ok(())
}

pub(super) fn write_link(pipe: &mut impl Write, file: &str, target: &str) -> io::Result<()> {
    write(pipe, &Header::Link { file: file.to_owned(), target: target.to_owned() }, &[])
}

pub(super) fn write_remove(pipe: &mut impl Write, file: &str) -> io::Result<()> {
    write(pipe, &Header::Remove { file: file.to_owned() }, &[])
}

pub(super) fn write_unlink(pipe: &mut impl Write, file: &str) -> io::Result<()> {
    write(pipe, &Header::Unlink { file: file.to_owned() }, &[])
}

fn write(pipe: &mut impl Write, header: &Header, bytes: &[u8]) -> io::Result<()> {
    let mut record = serde_json::to_vec(header)?;
    record.push(b'\n');
    record.extend_from_slice(bytes);
    pipe.write_all(&record)
}

/// Replays records, as their bytes come, into a folder of this machine.
///
/// What comes out of the lab is not trusted: a path that climbs out of the folder is refused.
#[derive(Debug)]
pub struct Replay {
    sink: Sink,
    pending: Vec<u8>,
    /// What was appended to a `report.json`.
    report: Vec<u8>,
    command_runs: bool,
    /// The first change that this machine refused.
    refused: Option<io::Error>,
}

impl Replay {
    /// Replays into `root`.
    #[must_use]
    pub fn into_folder(root: &Path) -> Self {
        Self {
            sink: Sink::Disk(root.to_owned()),
            pending: Vec::new(),
            report: Vec::new(),
            command_runs: false,
            refused: None,
        }
    }

    /// The report that came by.
    #[must_use]
    pub fn report(&self) -> &[u8] {
        &self.report
    }

    /// Whether a command in the guest was said to run.
    #[must_use]
    pub fn command_runs(&self) -> bool {
        self.command_runs
    }

    /// What kept evidence from being written, the first of it: a full disk must not change a verdict.
    #[must_use]
    pub fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }

    /// Takes the next bytes and carries out every record that is complete.
    ///
    /// # Errors
    /// A malformed record, or a path that leaves the folder.
    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(used) = self.next(done)? {
            done += used;
        }
        self.pending.drain(..done);
        Ok(())
    }

    /// Carries out the record at `start` and tells its length, if all of it is there.
    fn next(&mut self, start: usize) -> io::Result<Option<usize>> {
        let rest = &self.pending[start..];
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return if rest.len() > HEADER_MAX { Err(malformed("a header without end")) } else { Ok(None) };
        };
        let header: Header = serde_json::from_slice(&rest[..end]).map_err(|e| malformed(&e.to_string()))?;
        let body = end + 1;
        let length = match &header {
            Header::Append { length, .. } if *length > BYTES_MAX => {
                return Err(malformed("a record too long"));
            }
            Header::Append { length, .. } => *length,
            Header::Link { .. } | Header::Remove { .. } | Header::Unlink { .. } => 0,
        };
        if rest.len() < body + length {
            return Ok(None);
        }
        let done = match header {
            Header::Append { file, .. } => {
                let bytes = rest[body..body + length].to_vec();
                let done = self.sink.append(inside(&file)?, &bytes);
                match file.rsplit('/').next() {
                    Some("report.json") => self.report.extend(bytes),
                    Some(COMMAND_FILE) => self.command_runs = true,
                    _ => {}
                }
                done
            }
            Header::Link { file, target } => self.sink.link(inside(&file)?, inside(&target)?),
            Header::Remove { file } => self.sink.remove(inside(&file)?),
            Header::Unlink { file } => self.sink.unlink_dangling(inside(&file)?),
        };
        if let Err(error) = done {
            self.refused.get_or_insert(error);
        }
        Ok(Some(body + length))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("evidence from the lab is malformed: {what}"))
}

fn inside(path: &str) -> io::Result<&str> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() {
        Ok(path)
    } else {
        Err(malformed(&format!("path {path:?} leaves the folder")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_cut_anywhere_arrive_whole() {
        let mut stream = Vec::new();
        write_append(&mut stream, "suite/case/run/console.log", b"first\n{}\n").unwrap();
        write_append(&mut stream, "suite/case/run/console.log", b"second").unwrap();
        write_append(&mut stream, "suite/case/run/passed", b"").unwrap();
        write_link(&mut stream, "suite/case/latest", "run").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut replay = Replay::into_folder(folder.path());
        for byte in stream {
            replay.feed(&[byte]).unwrap();
        }
        let latest = folder.path().join("suite/case/latest");
        assert_eq!(std::fs::read(latest.join("console.log")).unwrap(), b"first\n{}\nsecond");
        assert!(latest.join("passed").exists());
    }

    #[test]
    fn path_that_climbs_out_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", "./x"] {
            let mut stream = Vec::new();
            write_append(&mut stream, path, b"x").unwrap();
            let error = Replay::into_folder(folder.path()).feed(&stream).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{path}");
        }
    }

    #[test]
    fn header_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Replay::into_folder(folder.path()).feed(&[b'x'; HEADER_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
