//! A machine that runs, until it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use super::chassis::Chassis;
use super::fittings::Fittings;
use super::outlet::LostOutput;
use crate::device::uart::SerialInput;
use crate::dump::VcpuDump;
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::{Saver, SnapshotError};
use crate::trace::Trace;
use crate::vcpu::{ControlError, Controller, Idle, MachineState, Owner, Parked, VcpuThread};

/// How often a machine that runs is looked at: for half a line that waits in the UART, and for processors that
/// sleep for ever.
const LOOK: Duration = Duration::from_millis(50);

/// A machine that runs. Dropping it ends it.
pub struct Running {
    threads: Vec<VcpuThread>,
    controller: Controller,
    power: PowerSwitch,
    fittings: Fittings,
    saver: Saver,
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
        saver: Saver,
    ) -> Self {
        Self { threads, controller, power, fittings, saver }
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

    /// Saves the machine to the new folder `to`, for machines that go on from there ([`super::Machine::restore`]), and
    /// ends it as [`Outcome::Stopped`]: those go on, this one does not. Whoever holds it keeps it where it is; nobody
    /// needs to. The folder is there whole, or not at all.
    ///
    /// # Errors
    /// See [`SnapshotError`]. The machine has ended then as well.
    pub fn save(mut self, to: &Path) -> Result<Ended, SnapshotError> {
        let owner = Owner::new("snapshot");
        self.controller.hold(&owner)?;
        self.controller.keep_debuggers_out(&owner)?;
        self.saver.save(&self.controller, to)?;
        Ok(self.end(Outcome::Stopped).0)
    }

    /// Notes in the snapshot that it went on from, if it did, which pages of RAM it has written since then: machines that go on
    /// from there later have those from the beginning, as each of them is likely to write them as well. One note is enough,
    /// by the first that has done what all of them will do, and no more than that. Tells how many pages it noted, of 8 MiB at most.
    ///
    /// # Errors
    /// The host does not tell, or the snapshot's folder can't be written. It is only slower without.
    pub fn note_early_pages(&self) -> Result<u64, SnapshotError> {
        self.saver.note_early_pages(&self.controller)
    }

    /// Waits for the machine's end, or ends it at `deadline`, which is put off by the time for which the machine is held
    /// meanwhile ([`Controller::hold`]), from that hold's beginning: who looks at a paused machine does not lose it.
    #[must_use]
    pub fn wait(self, deadline: Option<Instant>) -> Ended {
        self.wait_and_keep(deadline).0
    }

    /// As [`Running::wait`]; of a machine that went on from a snapshot and was dismissed ([`Controller::dismiss`]) it keeps what another
    /// can be put on ([`super::Machine::restore_on_chassis`]). There is none where anything stands against it.
    #[must_use]
    pub fn wait_and_keep(mut self, deadline: Option<Instant>) -> (Ended, Option<Chassis>) {
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
        let (mut ended, vcpus) = self.end(outcome);
        self.controller.name(&mut ended.dumps);
        let dismissed = ended.outcome == Outcome::Dismissed;
        self.fittings.virtio.clear();
        let chassis = dismissed.then(|| Chassis::of(&mut self.saver, &self.controller, vcpus)).flatten();
        (ended, chassis)
    }

    /// Ends the machine and all of its threads, but those of vCPUs that are left.
    fn end(&mut self, outcome: Outcome) -> (Ended, Vec<Parked>) {
        self.power.end(Outcome::Stopped);
        self.controller.wake();
        for thread in &self.threads {
            thread.kick();
        }
        let (mut vcpus, mut dumps, mut parked) = (Vec::new(), Vec::new(), Vec::new());
        for (trace, dump, left) in self.threads.drain(..).map(VcpuThread::join) {
            vcpus.push(trace);
            dumps.extend(dump);
            parked.extend(left);
        }
        let lost = self.fittings.end();
        (Ended { outcome, trace: Trace { vcpus }, dumps, lost }, parked)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(Outcome::Stopped);
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
