//! A body being run: its panics caught and told, its skips taken for what they are.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use super::Outcome;
use super::case::ShouldPanic;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It passed.
    Passed,
    /// It failed: what was seen.
    Failed(String),
    /// It can't be tried where it ran: why.
    Skipped(String),
}

/// What [`skip!`](crate::skip) unwinds with.
struct Skip(String);

/// Ends the case that runs on this thread as ignored, for the reason `why`.
#[doc(hidden)]
pub fn skip(why: String) -> ! {
    panic::resume_unwind(Box::new(Skip(why)))
}

thread_local! {
    /// Whether a body runs on this thread, so that its panic is kept for its report.
    static KEPT: Cell<bool> = const { Cell::new(false) };
    /// What its panic said, and where.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `body`, and takes a panic for what `panics` says of it.
pub(super) fn attempt(body: impl FnOnce() -> Outcome, panics: Option<ShouldPanic>) -> End {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| if KEPT.get() { keep(info) } else { others(info) }));
    });
    SAID.take();
    KEPT.set(true);
    let came = panic::catch_unwind(AssertUnwindSafe(body));
    KEPT.set(false);
    match (came, panics) {
        (Ok(Ok(())), None) => End::Passed,
        (Ok(Ok(())), Some(_)) => End::Failed("it did not panic, as it was to".to_owned()),
        (Ok(Err(why)), _) => End::Failed(why),
        (Err(payload), panics) => match payload.downcast::<Skip>() {
            Ok(skip) => End::Skipped(skip.0),
            Err(payload) => panicked(&*payload, panics),
        },
    }
}

fn panicked(payload: &(dyn Any + Send), panics: Option<ShouldPanic>) -> End {
    let said = SAID.take();
    let Some(ShouldPanic { expected }) = panics else {
        // A payload that was thrown without a panic says nothing.
        return End::Failed(if said.is_empty() { "it was unwound without a panic".to_owned() } else { said });
    };
    let message = message(payload);
    match expected {
        Some(expected) if !message.contains(expected) => {
            End::Failed(format!("{said}\nits panic was to hold {expected:?}"))
        }
        _ => End::Passed,
    }
}

/// Keeps what the standard hook would print.
fn keep(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let mut said = format!("panicked at {place}:\n{}", message(info.payload()));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let backtrace = backtrace.to_string();
        let whole = std::env::var("RUST_BACKTRACE").is_ok_and(|how| how == "full");
        let shown = if whole { backtrace } else { of_the_body(&backtrace) };
        said.push_str(&format!("\nstack backtrace:\n{}", shown.trim_end()));
    }
    SAID.set(said);
}

/// The frames of a backtrace between a panic's own and those that lead to a body, as the standard hook shows them.
fn of_the_body(backtrace: &str) -> String {
    // Each is a line with a number, and maybe one with its place.
    let mut frames: Vec<String> = Vec::new();
    for line in backtrace.lines() {
        let number = line.trim_start().split(':').next().unwrap_or_default();
        match frames.last_mut() {
            Some(frame) if number.parse::<u32>().is_err() => frame.push_str(line),
            _ => frames.push(line.to_owned()),
        }
        frames.last_mut().into_iter().for_each(|frame| frame.push('\n'));
    }
    let is_panic =
        |frame: &String| frame.contains("rust_begin_unwind") || frame.contains("core::panicking::");
    let from = frames.iter().rposition(is_panic).map_or(0, |at| at + 1);
    // In others' projects this crate may have names and no lines.
    let ours = ["cases/attempt.rs", "kiln::cases::attempt", "catch_unwind"];
    let is_ours = |frame: &String| ours.iter().any(|ours| frame.contains(ours));
    let to = frames.iter().skip(from).position(is_ours).map_or(frames.len(), |at| from + at);
    frames[from..to].concat()
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("Box<dyn Any>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_assertion_says_what_and_where() {
        let end = attempt(
            || {
                assert_eq!(1, 2, "of all things");
                Ok(())
            },
            None,
        );
        let End::Failed(said) = end else { panic!("{end:?}") };
        assert!(said.starts_with("panicked at ") && said.contains("attempt.rs:"), "{said}");
        assert!(
            said.contains("assertion `left == right` failed: of all things\n  left: 1\n right: 2"),
            "{said}"
        );
    }

    #[test]
    fn backtrace_is_that_of_the_body() {
        let whole = "   0: keep\n             at ./cases/attempt.rs:80:21\n   1: rust_begin_unwind\n   \
                     2: core::panicking::panic_fmt\n   3: suite::body\n             at ./suite.rs:9:9\n   \
                     4: kiln::cases::attempt\n             at ./cases/attempt.rs:48:16\n   5: main\n";
        assert_eq!(of_the_body(whole), "   3: suite::body\n             at ./suite.rs:9:9\n");
    }

    #[test]
    fn panic_that_was_to_come_passes_only_with_its_words() {
        let of = |expected, body: fn() -> Outcome| attempt(body, Some(ShouldPanic { expected }));
        assert_eq!(of(None, || panic!("x")), End::Passed);
        assert_eq!(of(Some("ell"), || panic!("hello")), End::Passed);
        let End::Failed(said) = of(Some("bye"), || panic!("hello")) else { panic!("it passed") };
        assert!(said.contains("hello") && said.ends_with("its panic was to hold \"bye\""), "{said}");
        assert!(matches!(of(None, || Ok(())), End::Failed(_)));
        assert_eq!(of(None, || Err("no".to_owned())), End::Failed("no".to_owned()));
    }

    #[test]
    fn skip_is_no_failure_and_tells_its_reason() {
        let body = || -> Outcome { crate::skip!("no {}", "floppy") };
        assert_eq!(attempt(body, None), End::Skipped("no floppy".to_owned()));
        assert_eq!(attempt(body, Some(ShouldPanic { expected: None })), End::Skipped("no floppy".to_owned()));
    }
}
