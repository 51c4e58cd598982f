//! How a device gives its state to a snapshot, and takes one on.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A state that could not be given or taken.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// It has not the form of such a device's state.
    #[error("it has not the form of such a device's state")]
    Form(#[source] serde_json::Error),
    /// It has the form, and says what can't be, or what this machine is not like.
    #[error("{0}")]
    Refused(String),
}

/// A device whose state a snapshot holds.
///
/// A machine that is saved is held and never goes on: [`Persist::save`] may end the device's own thread and pass on what
/// it held back. A state comes from a file: whoever takes it checks it as it checks what a guest writes.
pub trait Persist: Send {
    /// The state: all that a guest could find out about the device, now or later.
    ///
    /// # Errors
    /// The device has no state any more: its thread is gone.
    fn save(&mut self) -> Result<Value, PersistError>;

    /// Takes on a state that [`Persist::save`] gave, on a device that is new.
    ///
    /// # Errors
    /// The state is none of such a device; the device is of no use then.
    fn restore(&mut self, state: Value) -> Result<(), PersistError>;
}

/// A state as it lies in the file.
pub(crate) fn to_value(state: impl Serialize) -> Result<Value, PersistError> {
    serde_json::to_value(state).map_err(PersistError::Form)
}

/// A state out of the file.
pub(crate) fn from_value<T: DeserializeOwned>(state: Value) -> Result<T, PersistError> {
    serde_json::from_value(state).map_err(PersistError::Form)
}

/// A device that has no state says so by this.
macro_rules! stateless {
    ($device:ty) => {
        impl $crate::snapshot::Persist for $device {
            fn save(&mut self) -> Result<serde_json::Value, $crate::snapshot::PersistError> {
                Ok(serde_json::Value::Null)
            }

            fn restore(&mut self, state: serde_json::Value) -> Result<(), $crate::snapshot::PersistError> {
                $crate::snapshot::persist::from_value::<()>(state)
            }
        }
    };
}
pub(crate) use stateless;
