//! The verdict, from what the console said, how the machine ended and how far the task came.

use std::time::Duration;

use kiln_vmm::outcome::Outcome;

use crate::console::Summary;
use crate::verdict::Verdict;

/// What a verdict is made of.
pub(super) struct Facts<'a> {
    pub(super) console: &'a Summary,
    pub(super) outcome: &'a Outcome,
    pub(super) task: TaskState,
    /// How long the console had been silent when the machine was stopped at its limit.
    pub(super) silent: Option<Duration>,
    /// The run's limit.
    pub(super) timeout: Duration,
}

/// How far the task came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    /// All of it was done: so many assertions ran, so many failed.
    Done { run: usize, failed: usize },
    /// There was nothing to do but watch.
    Watched,
    /// The agent never said hello, or went away; so many assertions had failed by then.
    Lost { failed: usize },
}

/// A guest that has said nothing for this part of its limit, or for [`SILENCE`], hangs; else it was still
/// at work.
const SILENT_PART: u32 = 2;
/// Silence that is a hang however long the limit is.
const SILENCE: Duration = Duration::from_secs(30);

/// Names the verdict. A kernel's report outranks all else.
pub(super) fn judge(facts: &Facts<'_>) -> Verdict {
    if let Some((verdict, _)) = facts.console.first {
        return verdict;
    }
    match facts.outcome {
        Outcome::TripleFault { .. } => return Verdict::TripleFault,
        Outcome::Halted => return Verdict::Halted,
        // The host's assertion on the guest.
        Outcome::Unclaimed(_) => return Verdict::Assertion,
        Outcome::Panicked => return Verdict::Panic,
        Outcome::FailEntry { .. }
        | Outcome::InternalError { .. }
        | Outcome::UnexpectedExit { .. }
        | Outcome::MachineFailed { .. } => return Verdict::Vmm,
        _ => {}
    }
    match (facts.task, facts.outcome) {
        (TaskState::Done { failed, .. } | TaskState::Lost { failed, .. }, _) if failed > 0 => {
            Verdict::Assertion
        }
        // Asked to power off, and it did not.
        (TaskState::Done { .. }, Outcome::Stopped) => Verdict::Hang,
        (TaskState::Done { run: 0, .. }, _) => Verdict::Untestable,
        (TaskState::Done { .. }, _) => Verdict::Passed,
        (_, Outcome::DebugExit { value }) if *value > 0 => Verdict::Assertion,
        (TaskState::Lost { .. }, _) if facts.console.no_port.is_some() => Verdict::Untestable,
        (TaskState::Watched, Outcome::PowerOff | Outcome::DebugExit { .. }) => Verdict::Passed,
        (TaskState::Lost { .. } | TaskState::Watched, _) => unfinished(facts),
    }
}

fn unfinished(facts: &Facts<'_>) -> Verdict {
    match (facts.outcome, facts.silent) {
        (Outcome::Reset, _) => Verdict::Reset,
        (Outcome::Stopped, Some(silent)) if silent >= SILENCE.min(facts.timeout / SILENT_PART) => {
            Verdict::Hang
        }
        (Outcome::Stopped, Some(_)) => Verdict::Timeout,
        _ => Verdict::AgentLost,
    }
}

#[cfg(test)]
mod tests {
    use kiln_vmm::config::BusKind;
    use kiln_vmm::machine::UnclaimedAccess;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn verdict(outcome: Outcome, task: TaskState, silent: Option<u64>) -> Verdict {
        let console = Summary::default();
        let silent = silent.map(Duration::from_secs);
        judge(&Facts { console: &console, outcome: &outcome, task, silent, timeout: LIMIT })
    }

    #[test]
    fn done_task_is_judged_by_its_assertions() {
        assert_eq!(verdict(Outcome::PowerOff, TaskState::Done { run: 3, failed: 0 }, None), Verdict::Passed);
        assert_eq!(
            verdict(Outcome::PowerOff, TaskState::Done { run: 3, failed: 1 }, None),
            Verdict::Assertion
        );
        assert_eq!(
            verdict(Outcome::PowerOff, TaskState::Done { run: 0, failed: 0 }, None),
            Verdict::Untestable
        );
    }

    #[test]
    fn access_to_nothing_on_a_strict_machine_is_a_failed_assertion() {
        let access = UnclaimedAccess { cpu: None, bus: BusKind::Pio, write: true, address: 0xb00, width: 1 };
        let outcome = Outcome::Unclaimed(access);
        for task in [TaskState::Done { run: 3, failed: 0 }, TaskState::Lost { failed: 0 }, TaskState::Watched]
        {
            assert_eq!(verdict(outcome.clone(), task, None), Verdict::Assertion);
        }
    }

    #[test]
    fn nothing_passes_without_an_assertion() {
        let lost = TaskState::Lost { failed: 0 };
        assert_eq!(verdict(Outcome::DebugExit { value: 0 }, lost, None), Verdict::AgentLost);
        assert_eq!(verdict(Outcome::PowerOff, TaskState::Lost { failed: 1 }, None), Verdict::Assertion);
        let failed = TaskState::Done { run: 2, failed: 1 };
        assert_eq!(verdict(Outcome::DebugExit { value: 0 }, failed, None), Verdict::Assertion);
    }

    #[test]
    fn guest_that_does_not_power_off_when_asked_hangs() {
        assert_eq!(verdict(Outcome::Stopped, TaskState::Done { run: 3, failed: 0 }, None), Verdict::Hang);
    }

    #[test]
    fn stop_at_the_limit_is_a_hang_when_silent_and_a_timeout_when_not() {
        assert_eq!(verdict(Outcome::Stopped, TaskState::Lost { failed: 0 }, Some(9)), Verdict::Hang);
        assert_eq!(verdict(Outcome::Stopped, TaskState::Lost { failed: 0 }, Some(1)), Verdict::Timeout);
    }

    #[test]
    fn guest_that_leaves_without_a_word_is_named_by_how_it_left() {
        assert_eq!(verdict(Outcome::PowerOff, TaskState::Lost { failed: 0 }, None), Verdict::AgentLost);
        assert_eq!(verdict(Outcome::Stopped, TaskState::Lost { failed: 0 }, None), Verdict::AgentLost);
        assert_eq!(verdict(Outcome::Reset, TaskState::Lost { failed: 0 }, None), Verdict::Reset);
        assert_eq!(
            verdict(Outcome::TripleFault { cpu: 0 }, TaskState::Lost { failed: 0 }, None),
            Verdict::TripleFault
        );
        assert_eq!(verdict(Outcome::Halted, TaskState::Lost { failed: 0 }, None), Verdict::Halted);
    }

    #[test]
    fn kernel_report_outranks_a_failed_assertion_and_the_way_it_ended() {
        let console = Summary {
            first: Some((Verdict::Oops, "Oops: 0002".into())),
            panicked: true,
            ..Summary::default()
        };
        let facts = Facts {
            console: &console,
            outcome: &Outcome::Reset,
            task: TaskState::Done { run: 2, failed: 1 },
            silent: None,
            timeout: LIMIT,
        };
        assert_eq!(judge(&facts), Verdict::Oops);
    }

    #[test]
    fn kernel_without_a_port_is_untestable() {
        let console = Summary { no_port: Some("CONFIG_VIRTIO_CONSOLE".into()), ..Summary::default() };
        let facts = Facts {
            console: &console,
            outcome: &Outcome::PowerOff,
            task: TaskState::Lost { failed: 0 },
            silent: None,
            timeout: LIMIT,
        };
        assert_eq!(judge(&facts), Verdict::Untestable);
    }
}
