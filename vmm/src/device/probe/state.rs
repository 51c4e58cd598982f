//! The probe's state: its registers, counters and log.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bank::{Bank, END};
use super::dma::Fault;
use super::log::Log;
use super::reg::LOG_MAX;
use super::window::{Place, PlaceState};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};
use crate::vcpu::state::hex;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The registers that keep what was written, each at its own offset.
    #[serde(with = "hex::bytes")]
    kept: Vec<u8>,
    accesses: u32,
    log: Vec<u32>,
    raised: u32,
    /// The sum of the last DMA's bytes; none after a fault.
    dma: Option<u32>,
    stream: (u32, u32),
    /// Whether the level-triggered line is high, and how many ends the device saw.
    level: (bool, u32),
    /// The message: where it is to be written, what it is, and how often it was raised.
    message: (u64, Option<(u64, u32)>, u32),
    /// The window that moves, if there is one.
    window: Option<PlaceState>,
}

impl Persist for Bank {
    fn save(&mut self) -> Result<Value, PersistError> {
        to_value(State {
            kept: self.kept.to_vec(),
            accesses: self.accesses,
            log: self.log.0.iter().copied().collect(),
            raised: self.raised,
            dma: self.dma.ok(),
            stream: self.stream,
            level: (self.level.high, self.level.ends()),
            message: (self.message.address, self.message.routed, self.message.raised),
            window: self.place.as_ref().map(Place::state),
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), PersistError> {
        let own: State = from_value(state)?;
        let refused = |what: String| PersistError::Refused(what);
        let kept = <[u8; END]>::try_from(own.kept);
        self.kept = kept.map_err(|_| refused(format!("the registers have {END} bytes")))?;
        if own.log.len() > LOG_MAX {
            return Err(refused(format!("the log has at most {LOG_MAX} accesses")));
        }
        self.log = Log(own.log.into());
        (self.accesses, self.raised, self.stream) = (own.accesses, own.raised, own.stream);
        self.dma = own.dma.ok_or(Fault);
        match (&mut self.place, own.window) {
            (Some(place), Some(state)) => place.take_on(state),
            (None, None) => {}
            _ => return Err(refused("one has a window that moves, and one has none".to_owned())),
        }
        self.message.take_on(own.message);
        self.level.ends_before = own.level.1;
        if own.level.0 {
            self.level.set(true);
        }
        Ok(())
    }
}
