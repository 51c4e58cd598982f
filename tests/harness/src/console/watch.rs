//! A console being read: lines, the first report, the last words.

use std::collections::VecDeque;
use std::time::Instant;

use super::classify;
use crate::verdict::Verdict;

/// A line longer than this is cut: the guest decides what it prints, not how much is kept of it.
const LINE_MAX: usize = 4096;
/// How many of the last lines are kept for the tail.
const TAIL_LINES: usize = 40;
/// How many lines of the first report are kept, from its header on.
const REPORT_LINES: usize = 40;
/// Stands in the tail for lines that are in the log only.
const LEFT_OUT: &str = "[...]";

/// Follows a console as its bytes come; bounded in memory whatever the guest prints.
#[derive(Debug, Default)]
pub struct Console {
    partial: Vec<u8>,
    tail: VecDeque<String>,
    /// How many lines there were.
    lines: usize,
    /// The first report's lines, and the number of its header.
    report: (usize, Vec<String>),
    first: Option<(Verdict, String)>,
    panicked: bool,
    no_port: Option<String>,
    last_output: Option<Instant>,
}

/// What a console said in all.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The first kernel report in time, and its header line.
    pub first: Option<(Verdict, String)>,
    /// Whether the kernel panicked, first or later.
    pub panicked: bool,
    /// What the agent named when it found no port: the kernel options that look missing.
    pub no_port: Option<String>,
    /// When the guest last printed anything.
    pub last_output: Option<Instant>,
    /// The first report's lines, if there was one, and the last lines.
    pub tail: Vec<String>,
}

impl Console {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.last_output = Some(Instant::now());
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.partial.len() < LINE_MAX => self.partial.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        if let Some(verdict) = classify(&line) {
            self.panicked |= verdict == Verdict::Panic;
            if self.first.is_none() {
                self.first = Some((verdict, line.clone()));
                self.report.0 = self.lines;
            }
        }
        if self.first.is_some() && self.report.1.len() < REPORT_LINES {
            self.report.1.push(line.clone());
        }
        self.lines += 1;
        if let Some(missing) = line.strip_prefix(NO_PORT) {
            self.no_port = Some(missing.trim().to_owned());
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// What was said so far; an unfinished last line counts.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // Of the report, what has left the tail.
        let first_of_tail = self.lines - self.tail.len();
        let (header, report) = &self.report;
        let left = first_of_tail.saturating_sub(*header).min(report.len());
        let mut tail = report[..left].to_vec();
        if left == report.len() && header + left < first_of_tail && left > 0 {
            tail.push(LEFT_OUT.to_owned());
        }
        tail.extend(self.tail.iter().cloned());
        if !self.partial.is_empty() {
            tail.push(String::from_utf8_lossy(&self.partial).into_owned());
        }
        Summary {
            first: self.first.clone(),
            panicked: self.panicked,
            no_port: self.no_port.clone(),
            last_output: self.last_output,
            tail,
        }
    }
}

/// How the agent begins the line that says it found no port.
const NO_PORT: &str = "kiln-agent: no port:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_report_in_time_wins_and_a_later_panic_stands_beside_it() {
        let mut console = Console::default();
        console.feed(b"[ 1.0] BUG: kernel NULL pointer dereference\r\n[ 1.1] Oops: 0002\r\n");
        console.feed(b"[ 1.2] Kernel panic - not sync");
        console.feed(b"ing: Fatal exception\n");
        let summary = console.summary();
        assert_eq!(summary.first.unwrap().0, Verdict::Oops);
        assert!(summary.panicked);
    }

    #[test]
    fn report_that_scrolled_away_stands_before_the_tail() {
        let mut console = Console::default();
        console.feed(b"before\n[ 1.0] Kernel panic - not syncing: x\n[ 1.1] Call Trace:\n");
        for line in 2..TAIL_LINES {
            console.feed(format!("line {line}\n").as_bytes());
        }
        let tail = console.summary().tail;
        assert_eq!((tail[0].as_str(), tail.len()), ("[ 1.0] Kernel panic - not syncing: x", TAIL_LINES));
        console.feed(b"line 40\n");
        let tail = console.summary().tail;
        assert_eq!(tail[..2], ["[ 1.0] Kernel panic - not syncing: x", "[ 1.1] Call Trace:"]);
        assert_eq!(tail.len(), TAIL_LINES + 1);
        for line in 41..200 {
            console.feed(format!("line {line}\n").as_bytes());
        }
        let tail = console.summary().tail;
        assert_eq!((tail[1].as_str(), tail[REPORT_LINES].as_str()), ("[ 1.1] Call Trace:", LEFT_OUT));
        assert_eq!(tail.len(), REPORT_LINES + 1 + TAIL_LINES);
    }

    #[test]
    fn endless_line_is_cut_and_the_tail_is_bounded() {
        let mut console = Console::default();
        for _ in 0..1000 {
            console.feed(&[b'x'; 1000]);
        }
        assert_eq!(console.summary().tail[0].len(), LINE_MAX);
        for _ in 0..1000 {
            console.feed(b"line\n");
        }
        assert_eq!(console.summary().tail.len(), TAIL_LINES);
    }

    #[test]
    fn missing_port_names_the_options() {
        let mut console = Console::default();
        console.feed(b"kiln-agent: no port: CONFIG_VIRTIO_CONSOLE, CONFIG_VIRTIO_MMIO\n");
        assert_eq!(console.summary().no_port.unwrap(), "CONFIG_VIRTIO_CONSOLE, CONFIG_VIRTIO_MMIO");
    }
}
