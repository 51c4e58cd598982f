//! The MMIO bus as a listener to the map: a transaction's ranges show all at once, at its end.

use std::sync::{Arc, Mutex, PoisonError};

use super::map::{Listener, MapError};
use super::table::{Change, Piece};
use crate::bus::{Bus, Published};

/// Publishes the bus after each transaction that changed it.
#[derive(Default)]
pub(crate) struct BusListener {
    published: Arc<Published>,
    /// The bus as the transaction will leave it, if it has changed anything.
    staged: Mutex<Option<Bus>>,
}

impl BusListener {
    /// Where the bus is published.
    pub(crate) fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    fn stage(&self, change: impl FnOnce(&mut Bus) -> Result<(), MapError>) -> Result<(), MapError> {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        change(staged.get_or_insert_with(|| (*self.published.now()).clone()))
    }
}

impl Listener for BusListener {
    fn begin(&self) {
        // One that failed has left its own.
        *self.staged.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn apply(&self, change: &Change) -> Result<(), MapError> {
        match change {
            Change::Add(Piece::Range { name, base, size, device }) => {
                self.stage(|bus| Ok(bus.insert_again(name.clone(), (*base, *size), device.clone())?))
            }
            Change::Remove(Piece::Range { base, .. }) => self.stage(|bus| {
                bus.remove(*base);
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    fn commit(&self) {
        if let Some(bus) = self.staged.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.published.publish(bus);
        }
    }
}
