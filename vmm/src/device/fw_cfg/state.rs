//! fw_cfg's state: what is selected, and a checksum of what there is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FwCfg;
use crate::snapshot::checksum::Checksum;
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    selected: u16,
    offset: usize,
    dma_address: [u8; 8],
    /// Of all items: a guest that has read half of a file must find the other half of the same.
    content: Checksum,
}

impl FwCfg {
    fn content(&self) -> Checksum {
        let mut sum = Checksum::new();
        for (number, bytes) in &self.items {
            sum.add(&number.to_le_bytes());
            sum.add(bytes);
        }
        sum
    }
}

impl Persist for FwCfg {
    fn save(&mut self) -> Result<Value, PersistError> {
        let content = self.content();
        to_value(State {
            selected: self.selected,
            offset: self.offset,
            dma_address: self.dma_address,
            content,
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), PersistError> {
        let own: State = from_value(state)?;
        if own.content != self.content() {
            let what = "the files that it gives to the guest have changed since".to_owned();
            return Err(PersistError::Refused(what));
        }
        (self.selected, self.offset, self.dma_address) = (own.selected, own.offset, own.dma_address);
        Ok(())
    }
}
