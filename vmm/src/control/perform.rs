//! Carries out requests on a machine. Each may take time, and is never done on the event loop's thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::name::is_name;
use super::protocol::{
    Accesses, Done, Door, Dump, End, Held, Kind, OWNER, Refusal, Request, Stats, Status, VcpuAccesses, json,
};
use crate::device::pvpanic::PanicNotice;
use crate::device::uart::Uart;
use crate::gdb::{self, GdbAddress};
use crate::outcome::Outcome;
use crate::vcpu::{ControlError, Controller, MachineState, Owner};

/// How long a status waits for vCPUs to tell of their exits: they do in microseconds, or are held up.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The most who may hold a machine before a client is refused.
const OWNERS_MAX: usize = 16;

/// The machine that requests are carried out on.
pub(crate) struct Subject {
    pub(super) name: String,
    controller: Controller,
    /// Guest RAM in bytes.
    memory: u64,
    com1: Arc<Mutex<Uart>>,
    panic_notice: PanicNotice,
    /// Where gdb is listened for, if it is asked for nowhere else.
    gdb_socket: PathBuf,
    gdb: Mutex<Gdb>,
    built: Instant,
    /// Of whom all are made who hold the machine by the names that clients give.
    clients: Owner,
}

/// The door that clients had opened to gdb.
enum Gdb {
    Closed,
    Open {
        _until_dropped: gdb::Handle,
    },
    /// The machine has ended.
    Over,
}

impl Subject {
    pub(crate) fn new(
        name: String,
        controller: Controller,
        memory: u64,
        com1: Arc<Mutex<Uart>>,
        panic_notice: PanicNotice,
        gdb_socket: PathBuf,
    ) -> Self {
        let (built, clients) = (Instant::now(), Owner::new(OWNER));
        let gdb = Mutex::new(Gdb::Closed);
        Self { name, controller, memory, com1, panic_notice, gdb_socket, gdb, built, clients }
    }

    pub(super) fn controller(&self) -> &Controller {
        &self.controller
    }

    /// How the machine ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        let outcome = self.controller.outcome()?;
        Some(End { outcome, panicked: self.panic_notice.panicked() })
    }

    /// Carries out a request; those that wait for something to happen are the server's.
    pub(crate) fn perform(&self, request: Request) -> Result<Value, Refusal> {
        match request {
            Request::Status {} => Ok(json(&self.status())),
            Request::Pause { owner } => {
                let owner = self.owner(owner)?;
                if self.controller.holders().len() >= OWNERS_MAX {
                    let message = format!("{OWNERS_MAX} hold the machine: no more may");
                    return Err(refusal(Kind::Failed, message));
                }
                self.controller.hold(&owner)?;
                Ok(json(&self.held()))
            }
            Request::Resume { owner } => {
                self.controller.release(&self.owner(owner)?)?;
                Ok(json(&self.held()))
            }
            Request::Stop {} => self.ended_by(Outcome::Stopped),
            Request::Reset {} => self.ended_by(Outcome::Reset),
            Request::Nmi { cpu } => {
                self.controller.nmi(cpu)?;
                Ok(json(&Done {}))
            }
            Request::Sysrq { key } => self.sysrq(key),
            Request::Dump {} => Ok(json(&Dump { vcpus: self.controller.dump()? })),
            Request::Stats {} => self.stats(),
            Request::Trace { last } => self.trace(last),
            Request::Gdb { address } => self.gdb(address),
            Request::Events {} | Request::Wait {} => {
                Err(refusal(Kind::Failed, "it is answered elsewhere".to_owned()))
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            name: self.name.clone(),
            pid: std::process::id(),
            state: self.controller.state(),
            holders: self.controller.holders(),
            deadline_stands: self.controller.deadline_stands(),
            outcome: self.controller.outcome(),
            panicked: self.panic_notice.panicked(),
            cpus: self.controller.cpus(),
            memory: self.memory,
            uptime_ms: u64::try_from(self.built.elapsed().as_millis()).unwrap_or(u64::MAX),
            exits: match self.controller.state() {
                MachineState::Created => Some(0),
                _ => self.controller.trace_within(AT_ONCE).ok().map(|trace| trace.total_exits()),
            },
        }
    }

    fn held(&self) -> Held {
        Held { state: self.controller.state(), holders: self.controller.holders() }
    }

    /// The owner of that name, the same one each time.
    fn owner(&self, name: Option<String>) -> Result<Owner, Refusal> {
        let Some(name) = name else { return Ok(self.clients.clone()) };
        if is_name(&name) {
            return Ok(self.clients.named(&name));
        }
        let message =
            format!("owner {name:?}: it is 1 to 64 of A-Z a-z 0-9 . _ -, and begins with no dot or dash");
        Err(refusal(Kind::BadRequest, message))
    }

    /// Ends the machine, and tells how it ended: by another's hand if that was first.
    fn ended_by(&self, outcome: Outcome) -> Result<Value, Refusal> {
        match outcome {
            Outcome::Reset => self.controller.reset(),
            _ => self.controller.stop(),
        }
        self.end().map(|end| json(&end)).ok_or_else(|| refusal(Kind::Failed, "it goes on".to_owned()))
    }

    fn sysrq(&self, key: char) -> Result<Value, Refusal> {
        let Some(byte) = u8::try_from(key).ok().filter(u8::is_ascii_alphanumeric) else {
            return Err(refusal(Kind::BadRequest, format!("key {key:?}: it is a letter or a digit")));
        };
        if self.controller.state() == MachineState::Stopped {
            return Err(ControlError::Ended.into());
        }
        let mut uart = self.com1.lock().unwrap_or_else(PoisonError::into_inner);
        if uart.enqueue_break(byte) {
            return Ok(json(&Done {}));
        }
        let message = "COM1 has no room: the guest does not read what it got before".to_owned();
        Err(refusal(Kind::Failed, message))
    }

    /// Opens the machine to gdb, unless it is open.
    fn gdb(&self, asked: Option<String>) -> Result<Value, Refusal> {
        let asked = asked.map(|text| text.parse::<GdbAddress>()).transpose();
        let asked = asked.map_err(|message| refusal(Kind::BadRequest, format!("address: {message}")))?;
        if let Some(GdbAddress::Unix(path)) = asked.as_ref()
            && !path.is_absolute()
        {
            let message =
                format!("address: {} begins at no /, and the machine may be elsewhere", path.display());
            return Err(refusal(Kind::BadRequest, message));
        }
        let mut gdb = self.gdb.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*gdb, self.controller.state()) {
            (Gdb::Over, _) | (_, MachineState::Stopped) => return Err(ControlError::Ended.into()),
            (_, MachineState::Created) => return Err(ControlError::NotStarted.into()),
            _ => {}
        }
        let open = self.controller.door().clone();
        match (open, asked) {
            (Some(address), None) => Ok(json(&Door { address })),
            (Some(address), Some(asked)) if asked.is_at(&address) => Ok(json(&Door { address })),
            (open, asked) => {
                let address = asked.unwrap_or_else(|| GdbAddress::Unix(self.gdb_socket.clone()));
                let served = match open {
                    Some(address) => Err(gdb::GdbError::Open { address }),
                    None => gdb::serve(self.controller.clone(), &address),
                };
                let handle = served.map_err(|error| refusal(Kind::Failed, crate::chain(&error)))?;
                let address = handle.address().to_string();
                *gdb = Gdb::Open { _until_dropped: handle };
                Ok(json(&Door { address }))
            }
        }
    }

    /// Closes the door to gdb, which tells a debugger that is there how the machine ended, and lets nobody open it again.
    pub(super) fn close(&self) {
        let gdb = std::mem::replace(&mut *self.gdb.lock().unwrap_or_else(PoisonError::into_inner), Gdb::Over);
        drop(gdb);
    }

    fn stats(&self) -> Result<Value, Refusal> {
        let trace = self.controller.trace()?;
        let mut stats = Stats {
            exits: BTreeMap::new(),
            devices: trace.devices().into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            nothing: Default::default(),
            vcpus: trace.vcpus.iter().map(|vcpu| vcpu.exits.values().sum()).collect(),
        };
        for vcpu in &trace.vcpus {
            for (kind, count) in &vcpu.exits {
                *stats.exits.entry(*kind).or_default() += count;
            }
            stats.nothing.reads += vcpu.nothing.reads;
            stats.nothing.writes += vcpu.nothing.writes;
        }
        Ok(json(&stats))
    }

    fn trace(&self, last: Option<usize>) -> Result<Value, Refusal> {
        let trace = self.controller.trace()?;
        let vcpus = trace.vcpus.into_iter().map(|vcpu| {
            let skipped = vcpu.accesses.len().saturating_sub(last.unwrap_or(usize::MAX));
            VcpuAccesses { index: vcpu.index, accesses: vcpu.accesses.into_iter().skip(skipped).collect() }
        });
        Ok(json(&Accesses { vcpus: vcpus.collect() }))
    }
}

pub(super) fn refusal(kind: Kind, message: String) -> Refusal {
    Refusal { kind, message }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let kind = if matches!(error, ControlError::Ended) { Kind::Ended } else { Kind::Failed };
        refusal(kind, crate::chain(&error))
    }
}
