//! A machine that runs, until it ends.

use std::time::{Duration, Instant};

use super::fittings::Fittings;
use super::outlet::LostOutput;
use crate::device::uart::SerialInput;
use crate::dump::VcpuDump;
use crate::outcome::{Outcome, PowerSwitch};
use crate::trace::Trace;
use crate::vcpu::{ControlError, Controller, Idle, MachineState, VcpuThread};

/// How often a machine that runs is looked at: for half a line that waits in the UART, and for processors that
/// sleep for ever.
const LOOK: Duration = Duration::from_millis(50);

/// A machine that runs. Dropping it ends it.
pub struct Running {
    threads: Vec<VcpuThread>,
    controller: Controller,
    power: PowerSwitch,
    fittings: Fittings,
}

/// How a machine ended, and what it did.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What it did.
    pub trace: Trace,
    /// Where each vCPU stood, unless the guest ended as it should ([`Outcome::wants_explaining`]).
    pub dumps: Vec<VcpuDump>,
    /// What its devices said and nobody took.
    pub lost: Vec<LostOutput>,
}

/// Ends a machine from anywhere, any time.
#[derive(Clone, Debug)]
pub struct Stopper(PowerSwitch);

impl Stopper {
    /// Ends the machine as [`Outcome::Stopped`], unless it has already ended.
    pub fn stop(&self) {
        self.0.end(Outcome::Stopped);
    }
}

impl Running {
    pub(super) fn new(
        threads: Vec<VcpuThread>,
        controller: Controller,
        power: PowerSwitch,
        fittings: Fittings,
    ) -> Self {
        Self { threads, controller, power, fittings }
    }

    /// A handle that ends the machine.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.power.clone())
    }

    /// The handle that controls the machine.
    #[must_use]
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// What the machine is doing.
    #[must_use]
    pub fn state(&self) -> MachineState {
        self.controller.state()
    }

    /// Pauses it; see [`Controller::pause`].
    ///
    /// # Errors
    /// As [`Controller::pause`].
    pub fn pause(&self) -> Result<(), ControlError> {
        self.controller.pause()
    }

    /// Lets it go on; see [`Controller::resume`].
    ///
    /// # Errors
    /// As [`Controller::resume`].
    pub fn resume(&self) -> Result<(), ControlError> {
        self.controller.resume()
    }

    /// The host's end of COM1's receiver.
    #[must_use]
    pub fn serial_input(&self) -> SerialInput {
        SerialInput::new(self.fittings.uart.clone())
    }

    /// Waits for the machine's end, or ends it at `deadline`, which is put off by the time for which the machine is held
    /// meanwhile ([`Controller::hold`]), from that hold's beginning: who looks at a paused machine does not lose it.
    #[must_use]
    pub fn wait(mut self, deadline: Option<Instant>) -> Ended {
        let mut watch = SleepWatch::default();
        let held_before = self.controller.held_before();
        let controller = self.controller.clone();
        // How long it is to the deadline, which a hold puts off: so the clock is read first, and never ahead of the hold.
        let left = move || {
            let deadline = deadline?;
            let now = Instant::now();
            let put_off = controller.held().saturating_sub(held_before);
            Some(deadline.checked_add(put_off)?.saturating_duration_since(now))
        };
        let outcome = loop {
            if let Some(outcome) = self.power.wait(left().map_or(LOOK, |left| left.min(LOOK))) {
                break outcome;
            }
            if left().is_some_and(|left| left.is_zero()) {
                self.power.end(Outcome::Stopped);
                continue;
            }
            self.fittings.look();
            if watch.all_sleep_for_ever(&self.threads) {
                self.power.end(Outcome::Halted);
            }
        };
        let (trace, mut dumps, lost) = self.end();
        self.controller.name(&mut dumps);
        Ended { outcome, trace, dumps, lost }
    }

    /// Ends the machine and all of its threads.
    fn end(&mut self) -> (Trace, Vec<VcpuDump>, Vec<LostOutput>) {
        self.power.end(Outcome::Stopped);
        self.controller.wake();
        for thread in &self.threads {
            thread.kick();
        }
        let (vcpus, dumps): (Vec<_>, Vec<_>) = self.threads.drain(..).map(VcpuThread::join).unzip();
        let lost = self.fittings.end();
        (Trace { vcpus }, dumps.into_iter().flatten().collect(), lost)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
        }
    }
}

/// Notices processors that halt with interrupts off: KVM's own interrupt controllers keep `HLT` to themselves.
///
/// A vCPU that uses no CPU time is asked, which costs it one exit; only when it used some since is it worth
/// asking again.
#[derive(Default)]
struct SleepWatch {
    /// What the vCPUs had used at the last look.
    used: Vec<Duration>,
    /// Whether they have been asked and not all have answered.
    asked: bool,
    /// What they had used when they last said that they can go on: they are not asked again before they do.
    awake_at: Vec<Duration>,
    /// How often in a row all of them have said that they sleep for ever.
    agreed: u32,
}

/// All must say so twice: one asked early may have been woken by one asked late.
const AGREED: u32 = 2;

impl SleepWatch {
    fn all_sleep_for_ever(&mut self, threads: &[VcpuThread]) -> bool {
        let used: Vec<Duration> = threads.iter().map(VcpuThread::cpu_time).collect();
        if self.asked {
            let answers: Vec<Idle> = threads.iter().map(VcpuThread::idle).collect();
            if answers.contains(&Idle::Unknown) {
                return false;
            }
            self.asked = false;
            if answers.contains(&Idle::No) {
                self.agreed = 0;
                self.awake_at.clone_from(&used);
            } else {
                self.agreed += 1;
                if self.agreed == AGREED {
                    return true;
                }
                self.ask(threads);
            }
        } else if used == self.used && used != self.awake_at {
            self.ask(threads);
        }
        self.used = used;
        false
    }

    fn ask(&mut self, threads: &[VcpuThread]) {
        for thread in threads {
            thread.ask();
        }
        self.asked = true;
    }
}
