//! The clock's state. The time itself is the host's, and no part of it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::Time;
use super::{NMI_MASK, REGISTERS, Rtc};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};
use crate::vcpu::state::hex;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    index: u8,
    nmi_masked: bool,
    /// The processors whose NMI waits for that to end.
    nmis_waiting: BTreeSet<u32>,
    #[serde(with = "hex::bytes")]
    ram: Vec<u8>,
    /// How many seconds the guest's clock is ahead of the host's.
    ahead: i64,
    setting: Option<Time>,
}

impl Persist for Rtc {
    fn save(&mut self) -> Result<Value, PersistError> {
        to_value(State {
            index: self.index,
            nmi_masked: self.mask.masked(),
            nmis_waiting: self.mask.waiting().clone(),
            ram: self.ram.to_vec(),
            ahead: self.ahead,
            setting: self.setting,
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), PersistError> {
        let own: State = from_value(state)?;
        let ram = <[u8; REGISTERS]>::try_from(own.ram);
        self.ram = ram.map_err(|_| PersistError::Refused(format!("the chip has {REGISTERS} registers")))?;
        (self.index, self.ahead, self.setting) = (own.index & !NMI_MASK, own.ahead, own.setting);
        if !own.nmi_masked && !own.nmis_waiting.is_empty() {
            return Err(PersistError::Refused("NMIs wait at a gate that is open".to_owned()));
        }
        *self.mask.waiting() = own.nmis_waiting;
        self.mask.0.masked.store(own.nmi_masked, Ordering::SeqCst);
        Ok(())
    }
}
