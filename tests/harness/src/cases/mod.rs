//! Test cases: how they are declared, listed, gated and run.
//!
//! A test target has `harness = false`, its cases, and [`crate::main!`]. The command line is libtest's, so filters,
//! `--list`, `--exact`, nextest and the run buttons of editors work.
//!
//! ```text
//! fn disk() -> Block { … }
//!
//! #[guest_test(cpus = 2, disk = scratch("16M"))]   // the body runs in the guest
//! #[case::first(0)]
//! #[case::last(32767)]
//! fn sector_comes_back_as_it_was_written(sector: u64, #[from(disk)] disk: Block) -> io::Result<()> { … }
//!
//! #[vm_test(timeout = 60)]                         // the body runs on the host, a booted guest in hand
//! fn guest_answers_on_its_console(guest: &mut Guest) -> Result<(), GuestError> { … }
//!
//! kiln::main!();
//! ```
//!
//! A case fails for what it asserts, for how its guest ended, and for what it left behind: see
//! [`Options::allow_warning`].

mod attempt;
mod case;
mod error;
mod guest;
mod ignored;
mod inside;
mod noise;
mod pool;
mod prepared;
mod run;
mod shape;
mod stage;

#[doc(hidden)]
pub use linkme;

#[doc(hidden)]
pub use attempt::skip;
pub use case::{Body, CASES, Case, Disk, IntoOutcome, Options, Outcome, ShouldPanic};
pub use error::{Fault, GuestError};
pub use guest::{Guest, Output};
pub use ignored::{Cause, Ignored, ignored_log};
pub(crate) use noise::letters;
#[doc(hidden)]
pub use prepared::disk_modules;
pub(crate) use prepared::{BUILT, Built, CARRIED, CONFIG, Cargo, Carried, build_sources};
pub(crate) use run::CARGO;
pub use run::main;
pub use stage::{machine_for, machine_on};

/// The `main` of a test target without a harness of its own.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::cases::main(env!("CARGO_CRATE_NAME"))
        }
    };
}

/// Ends a case as ignored, from inside its body, for the reason that the format string gives: what it needs is not
/// there. It is counted and noted as other ignored cases are.
///
/// Works on the thread that the body began on.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::cases::skip(::std::format!($($reason)+))
    };
}
