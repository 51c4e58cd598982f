//! Test cases: how they are declared, listed, gated and run.
//!
//! A test target has `harness = false`, its cases, and [`crate::main!`]. The command line is libtest's, so filters,
//! `--list`, `--exact`, nextest and the run buttons of editors work.

mod case;
mod guest;
mod ignored;
mod run;

#[doc(hidden)]
pub use linkme;

pub use case::{Body, CASES, Case, Disk, IntoOutcome, Options, Outcome};
pub use guest::{Guest, Output, machine_for};
pub use ignored::{Ignored, ignored_log};
pub use run::main;

/// The `main` of a test target without a harness of its own.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::cases::main(env!("CARGO_CRATE_NAME"))
        }
    };
}
