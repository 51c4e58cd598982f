//! The devices that are not virtio: UART, i8042, power, debug-exit, POST and probe.
//!
//! Each is a [`crate::bus::BusDevice`] that knows offsets into its range, never its address, and reaches the
//! rest of the machine only through what it was made with: an interrupt line, guest memory, a writer, or the
//! [`crate::outcome::PowerSwitch`]. Which addresses they sit at is `layout`'s, putting them on a bus is the
//! machine's.

mod bytes;
pub mod debug_exit;
pub mod i8042;
pub mod post;
pub mod power;
pub mod probe;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod uart;
