//! The console's state: what of each port the guest knows, and how far its bytes are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ConsoleDevice;
use super::port::Host;
use crate::snapshot::PersistError;
use crate::snapshot::persist::{from_value, to_value};

/// The longest control message: a header of eight bytes and a port's name.
const MESSAGE_MAX: usize = 8 + 64;

/// A console's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Which ports have a host's side.
    hosts: Vec<bool>,
    /// What its worker left, if there was one.
    active: Option<Active>,
}

/// A worker's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Active {
    /// In order, as many as the driver can use.
    pub(super) ports: Vec<PortState>,
    /// Control messages for the guest.
    pub(super) waiting: Vec<Vec<u8>>,
}

/// A port's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortState {
    /// A program of the guest's has it open.
    pub(super) guest_open: bool,
    /// The guest closed it, and not all that it sent before is out.
    pub(super) closing: bool,
    /// The host's side sends no more.
    pub(super) ended: bool,
    /// The guest was told that the host's side is open.
    pub(super) announced: bool,
    /// How many bytes of the next chain are sent.
    pub(super) sent: u64,
}

impl ConsoleDevice {
    /// The device's own state, beside what its worker left.
    pub(super) fn state(&self, active: Option<Active>) -> Result<Value, PersistError> {
        to_value(State { hosts: self.slots.iter().map(|slot| slot.host.is_some()).collect(), active })
    }

    /// Takes on a state; what a worker left waits for the next one. A stream whose counterpart was gone is closed: the
    /// guest knows of that.
    pub(super) fn take_on_state(&mut self, state: Value) -> Result<(), PersistError> {
        let State { hosts, active } = from_value(state)?;
        let refused = |what: &str| Err(PersistError::Refused(what.to_owned()));
        if hosts.len() != self.slots.len() {
            return refused("it has another number of ports");
        }
        if let Some(active) = &active {
            // A round adds at most a few messages for each port to what already waits.
            let most = 4 * self.slots.len() + 16;
            let lengths = active.waiting.iter().all(|message| message.len() <= MESSAGE_MAX);
            if active.ports.len() > self.slots.len() || active.waiting.len() > most || !lengths {
                return refused("it has more to say than a console ever has");
            }
        }
        for (slot, had) in self.slots.iter_mut().zip(hosts) {
            if !had && let Some(host) = slot.host.take_if(|host| matches!(host, Host::Stream(_))) {
                host.close();
            }
        }
        self.taken_on = active;
        Ok(())
    }
}
