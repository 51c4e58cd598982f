//! Bars for what takes more than a second, on a terminal only; elsewhere a line that says what it is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln::rootfs::progress::Progress;

use super::{Stream, line, sanitize};

/// Work that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows progress on standard error: a bar when the size of the work is known, else what is done so far, bytes or
/// steps.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    now: Mutex<Option<Bar>>,
}

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    what: String,
    began: Instant,
    shown: bool,
}

impl Bar {
    fn set_template(&self, template: &str) {
        self.bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
    }
}

impl Bars {
    /// Nothing in progress.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn with<R>(&self, act: impl FnOnce(&mut Option<Bar>) -> R) -> R {
        act(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        let template = match total_bytes {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes}, {eta} left",
            None => "{msg} {spinner} {bytes} in {elapsed}",
        };
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::hidden());
        let what = sanitize(what.as_bytes());
        bar.set_message(what.clone());
        let bar = Bar { bar, what, began: Instant::now(), shown: false };
        bar.set_template(template);
        self.with(|now| *now = Some(bar));
    }

    fn advance(&self, bytes: u64) {
        self.with(|now| {
            let Some(now) = now else { return };
            if !now.shown && now.began.elapsed() >= PATIENCE {
                now.shown = true;
                if Stream::Stderr.is_terminal() {
                    now.bar.set_draw_target(ProgressDrawTarget::stderr());
                    now.bar.enable_steady_tick(Duration::from_millis(200));
                } else {
                    // With standard error closed there is no one to tell.
                    let _ = line(Stream::Stderr, &format!("{}…", now.what));
                }
            }
            now.bar.inc(bytes);
        });
    }

    fn step(&self, at: &str) {
        self.with(|now| {
            let Some(now) = now else { return };
            if now.bar.position() == 0 {
                now.bar.set_prefix(now.bar.message());
                now.set_template("{prefix} {spinner} {pos} done in {elapsed}, {wide_msg}");
            }
            now.bar.set_message(sanitize(at.as_bytes()));
        });
        self.advance(1);
    }

    fn end(&self) {
        if let Some(ended) = self.with(Option::take) {
            ended.bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        let text = sanitize(text.as_bytes());
        let write = || {
            // With standard error closed there is no one to tell.
            let _ = line(Stream::Stderr, &text);
        };
        self.with(|now| match now {
            Some(now) => now.bar.suspend(write),
            None => write(),
        });
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_without_a_terminal_counts_and_ends_quietly() {
        let bars = Bars::new();
        bars.advance(1);
        bars.begin("fetching", Some(10));
        bars.advance(4);
        assert_eq!(bars.with(|now| now.as_ref().map(|now| now.bar.position())), Some(4));
        bars.end();
        bars.end();
        assert!(bars.with(|now| now.is_none()));
    }

    #[test]
    fn steps_are_counted_and_the_last_is_named() {
        let bars = Bars::new();
        bars.begin("building", None);
        bars.step("a.o");
        bars.step("\x1b[2Jb.o");
        bars.with(|now| {
            let bar = &now.as_ref().unwrap().bar;
            assert_eq!((bar.position(), bar.prefix().as_str()), (2, "building"));
            assert_eq!(bar.message(), "\\u{1b}[2Jb.o");
        });
    }
}
