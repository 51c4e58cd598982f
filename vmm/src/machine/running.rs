//! A machine that runs, until it ends.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outlet::Drain;
use super::unclaimed::UnclaimedTeller;
use crate::control::Served;
use crate::device::uart::{SerialInput, Uart};
use crate::dump::VcpuDump;
use crate::event_loop::EventLoop;
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::{Saver, SnapshotError};
use crate::trace::Trace;
use crate::vcpu::{ControlError, Controller, Idle, MachineState, Owner, VcpuThread};
use crate::virtio::mmio::MmioTransport;

/// How often a machine that runs is looked at: for half a line that waits in the UART, and for processors that
/// sleep for ever.
const LOOK: Duration = Duration::from_millis(50);

/// A machine that runs. Dropping it ends it.
pub struct Running {
    threads: Vec<VcpuThread>,
    controller: Controller,
    power: PowerSwitch,
    uart: Arc<Mutex<Uart>>,
    virtio: Vec<Arc<Mutex<MmioTransport>>>,
    drains: Vec<Drain>,
    teller: UnclaimedTeller,
    saver: Saver,
    // In this order: what is served ends before the loop that serves it.
    served: Option<Served>,
    _events: Option<Arc<EventLoop>>,
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

/// Those that are looked after while it runs: COM1, virtio's, what is written behind threads.
pub(super) type Devices = (Arc<Mutex<Uart>>, Vec<Arc<Mutex<MmioTransport>>>, Vec<Drain>);

impl Running {
    pub(super) fn new(
        threads: Vec<VcpuThread>,
        controller: Controller,
        power: PowerSwitch,
        (uart, virtio, drains): Devices,
        (teller, saver): (UnclaimedTeller, Saver),
        (served, _events): (Option<Served>, Option<Arc<EventLoop>>),
    ) -> Self {
        Self { threads, controller, power, uart, virtio, drains, teller, saver, served, _events }
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
        SerialInput::new(self.uart.clone())
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
        self.saver.save(&self.controller, to)?;
        let (trace, dumps) = self.end();
        Ok(Ended { outcome: Outcome::Stopped, trace, dumps })
    }

    /// Waits for the machine's end, or ends it at `deadline`, which is put off by the time for which the machine is held
    /// meanwhile ([`Controller::hold`]): who looks at a paused machine does not lose it.
    #[must_use]
    pub fn wait(mut self, deadline: Option<Instant>) -> Ended {
        let mut watch = SleepWatch::default();
        let held_before = self.controller.held();
        let outcome = loop {
            let put_off = self.controller.held().saturating_sub(held_before);
            let deadline = deadline.and_then(|at| at.checked_add(put_off));
            let left = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
            if let Some(outcome) = self.power.wait(left.min(LOOK)) {
                break outcome;
            }
            if deadline.is_some_and(|at| Instant::now() >= at) {
                self.power.end(Outcome::Stopped);
                continue;
            }
            // A UART that is busy is not silent.
            if let Ok(mut uart) = self.uart.try_lock() {
                uart.flush();
            }
            for drain in &self.drains {
                drain.look();
            }
            self.teller.look();
            if watch.all_sleep_for_ever(&self.threads) {
                self.power.end(Outcome::Halted);
            }
        };
        let (trace, mut dumps) = self.end();
        self.controller.name(&mut dumps);
        Ended { outcome, trace, dumps }
    }

    /// Ends the machine and all of its threads.
    fn end(&mut self) -> (Trace, Vec<VcpuDump>) {
        self.power.end(Outcome::Stopped);
        self.controller.wake();
        for thread in &self.threads {
            thread.kick();
        }
        let (vcpus, dumps): (Vec<_>, Vec<_>) = self.threads.drain(..).map(VcpuThread::join).unzip();
        for transport in &self.virtio {
            transport.lock().unwrap_or_else(PoisonError::into_inner).stop();
        }
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        uart.close_input();
        uart.flush();
        drop(uart);
        for drain in &self.drains {
            drain.finish();
        }
        self.teller.finish();
        if let Some(served) = self.served.take() {
            served.finish();
        }
        (Trace { vcpus }, dumps.into_iter().flatten().collect())
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
