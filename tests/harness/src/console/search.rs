//! Waiting for words on a console.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use regex_lite::Regex;

/// How much of a console is kept for those who have not looked at it yet, in bytes; the oldest goes first.
const KEPT_MAX: usize = 1 << 20;

/// A console's text on its way past those who wait for words in it.
#[derive(Debug, Default)]
pub(crate) struct Search {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What has not been looked at, or not to its line's end.
    text: Vec<u8>,
    over: bool,
}

/// Why the words did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The time was up.
    Late,
    /// The machine ended.
    Over,
}

impl Search {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next bytes of the console.
    pub(crate) fn feed(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.text.extend(bytes.iter().filter(|&&byte| byte != b'\r'));
        if state.text.len() > KEPT_MAX {
            let too_many = state.text.len() - KEPT_MAX / 2;
            state.text.drain(..too_many);
        }
        self.changed.notify_all();
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Begins anew, with another machine's console.
    pub(crate) fn begin(&self) {
        *self.lock() = State::default();
    }

    /// Waits for a line with `pattern` in it, and returns that line as far as it has come. What came up to the end of the
    /// match is not looked at again.
    pub(crate) fn wait(&self, pattern: &Regex, deadline: Instant) -> Result<String, Missed> {
        let mut state = self.lock();
        loop {
            if let Some(line) = take_match(&mut state.text, pattern) {
                return Ok(line);
            }
            if state.over {
                return Err(Missed::Over);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Late);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The first line that matches; it and what is before it are taken off `text`, but for what follows the match.
fn take_match(text: &mut Vec<u8>, pattern: &Regex) -> Option<String> {
    let mut from = 0;
    while from < text.len() {
        let end = text[from..].iter().position(|&byte| byte == b'\n').map(|at| from + at);
        let line = String::from_utf8_lossy(&text[from..end.unwrap_or(text.len())]).into_owned();
        if let Some(found) = pattern.find(&line) {
            // In a line that is not UTF-8 the places differ: all of it counts as looked at.
            let length = end.unwrap_or(text.len()) - from;
            let looked_at = if line.len() == length { found.end() } else { length };
            text.drain(..from + looked_at);
            return Some(line);
        }
        let Some(end) = end else { break };
        from = end + 1;
    }
    // Whole lines that do not match never will; the last may still grow.
    text.drain(..from);
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn words_are_found_in_their_order_and_once() {
        let search = Search::default();
        search.feed(b"[ 1.0] one two\r\n[ 1.1] one thr");
        let one = Regex::new("one").unwrap();
        assert_eq!(search.wait(&one, now()).unwrap(), "[ 1.0] one two");
        assert_eq!(search.wait(&Regex::new("two$").unwrap(), now()).unwrap(), " two");
        assert_eq!(search.wait(&one, now()).unwrap(), "[ 1.1] one thr");
        assert_eq!(search.wait(&one, now()), Err(Missed::Late));
        search.end();
        assert_eq!(search.wait(&one, now()), Err(Missed::Over));
    }

    #[test]
    fn waiter_is_woken_by_a_line_that_grows() {
        let search = Search::default();
        search.feed(b"log");
        std::thread::scope(|scope| {
            let waiter = scope
                .spawn(|| search.wait(&Regex::new("^login: $").unwrap(), now() + Duration::from_secs(60)));
            search.feed(b"in: ");
            assert_eq!(waiter.join().unwrap().unwrap(), "login: ");
        });
    }

    #[test]
    fn console_that_nobody_looks_at_is_bounded() {
        let search = Search::default();
        for _ in 0..100 {
            search.feed(&[b'x'; 100_000]);
        }
        assert!(search.lock().text.len() <= KEPT_MAX);
    }
}
