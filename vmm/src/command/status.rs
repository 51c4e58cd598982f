//! How a machine's end becomes an exit status.

use clap::ValueEnum;
use kiln_vmm::control::protocol::End;
use kiln_vmm::outcome::Outcome;

use crate::FAILED;

/// What `timeout(1)` ends with.
const TIMED_OUT: u8 = 124;

pub(super) const HELP: &str = "\
Exit status: 0 for a guest that powered off, 2v+1 for one that wrote v to the debug-exit port (0 for v = 0, unless \
--exit-status raw), 1 for one that reset, halted, panicked, triple-faulted or accessed nothing under --strict, 124 for one ended by \
--timeout, 125 for a machine that could not run, or whose output was lost (but for a reader of standard output that wants \
no more of it). SIGINT and SIGTERM end the machine in order, then this by that signal; a second one \
ends it at once.";

/// What a guest's write to the debug-exit port becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExitStatus {
    /// 0 for v = 0, which means passed; else 2v+1.
    Verdict,
    /// Always 2v+1, as QEMU's isa-debug-exit has it.
    Raw,
}

/// The exit status for how the machine ended, and the word for it.
pub(super) fn status(outcome: &Outcome, kind: ExitStatus, panicked: bool) -> (u8, String) {
    match outcome {
        Outcome::Panicked => (1, "the guest panicked".to_owned()),
        // Whatever it did afterwards.
        Outcome::PowerOff | Outcome::Reset | Outcome::Halted if panicked => {
            (1, "the guest panicked".to_owned())
        }
        Outcome::PowerOff => (0, "the guest powered off".to_owned()),
        Outcome::DebugExit { value: 0 } if kind == ExitStatus::Verdict => (0, "passed".to_owned()),
        Outcome::DebugExit { value } => {
            let status = value.wrapping_mul(2).wrapping_add(1).to_le_bytes()[0];
            (status, format!("the guest exited with {value}"))
        }
        Outcome::Reset => (1, "the guest reset".to_owned()),
        Outcome::TripleFault { cpu } => (1, format!("triple fault of vCPU {cpu}")),
        Outcome::Halted => (1, "every vCPU halted with interrupts off".to_owned()),
        Outcome::Unclaimed(access) => (1, format!("the machine is strict: {access}")),
        Outcome::Stopped => (TIMED_OUT, "ended from outside".to_owned()),
        other => (FAILED, format!("the machine failed: {other:?}")),
    }
}

/// How a machine ended, in words.
pub(super) fn word(end: &End) -> String {
    status(&end.outcome, ExitStatus::Raw, end.panicked).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_exit_is_a_verdict_or_raw() {
        let of = |value, kind| status(&Outcome::DebugExit { value }, kind, false).0;
        assert_eq!(of(0, ExitStatus::Verdict), 0);
        assert_eq!(of(0, ExitStatus::Raw), 1);
        for kind in [ExitStatus::Verdict, ExitStatus::Raw] {
            assert_eq!(of(1, kind), 3);
            assert_eq!(of(127, kind), 255);
            // Only eight bits of it are a process's.
            assert_eq!(of(128, kind), 1);
            assert_eq!(of(u32::MAX, kind), 255);
        }
    }
}
