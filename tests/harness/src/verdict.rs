//! The closed list of verdicts, and the exit statuses that follow from them.

use serde::{Deserialize, Serialize};

/// How a run ended: one per run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// At least one assertion ran, and nothing failed.
    Passed,
    /// An in-guest assertion or command failed.
    Assertion,
    /// The kernel panicked.
    Panic,
    /// The kernel took a fault it could not handle.
    Oops,
    /// The kernel found one of its own invariants broken (`BUG()`).
    Bug,
    /// The kernel warned (`WARN()`).
    Warning,
    /// The lock validator, or RCU's, reported.
    Lockdep,
    /// A sanitizer reported: KASAN, KMSAN, KCSAN, UBSAN or KFENCE.
    Sanitizer,
    /// The kernel's leak detector reported.
    Leak,
    /// RCU stalled, a CPU locked up, or a task hung.
    Stall,
    /// A vCPU shut down.
    TripleFault,
    /// Every vCPU halted for ever, interrupts off.
    Halted,
    /// The guest rebooted unexpectedly.
    Reset,
    /// The guest powered off, or its agent died, without a word.
    AgentLost,
    /// Silent at the limit.
    Hang,
    /// Still talking at the limit.
    Timeout,
    /// The machine itself failed.
    Vmm,
    /// This could not be tested here.
    Untestable,
}

impl Verdict {
    /// The name that reports and scripts use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Assertion => "assertion",
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::Bug => "bug",
            Self::Warning => "warning",
            Self::Lockdep => "lockdep",
            Self::Sanitizer => "sanitizer",
            Self::Leak => "leak",
            Self::Stall => "stall",
            Self::TripleFault => "triple-fault",
            Self::Halted => "halted",
            Self::Reset => "reset",
            Self::AgentLost => "agent-lost",
            Self::Hang => "hang",
            Self::Timeout => "timeout",
            Self::Vmm => "vmm",
            Self::Untestable => "untestable",
        }
    }

    /// The process's exit status for this verdict: 0, 1, 124 or 125.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Hang | Self::Timeout => 124,
            Self::Vmm | Self::Untestable => 125,
            _ => 1,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_in_json_is_the_name_in_text() {
        for verdict in [Verdict::Passed, Verdict::TripleFault, Verdict::AgentLost, Verdict::Untestable] {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
        }
    }

    #[test]
    fn exit_status_follows_the_contract() {
        assert_eq!(Verdict::Passed.exit(), 0);
        assert_eq!(Verdict::Oops.exit(), 1);
        assert_eq!(Verdict::Halted.exit(), 1);
        assert_eq!(Verdict::Hang.exit(), 124);
        assert_eq!(Verdict::Timeout.exit(), 124);
        assert_eq!(Verdict::Vmm.exit(), 125);
        assert_eq!(Verdict::Untestable.exit(), 125);
    }
}
