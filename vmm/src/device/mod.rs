//! The devices that are not virtio: UART, clock, i8042, power, fw_cfg, the debug ports, pvpanic, pc-testdev's registers,
//! the generation ID and the probe.
//!
//! Each, but for the generation ID, which is bytes in RAM, is a [`crate::bus::BusDevice`] that knows offsets into its range, never its address, and reaches the
//! rest of the machine only through what it was made with: an interrupt line, guest memory, a writer, or the
//! [`crate::outcome::PowerSwitch`]. Which addresses they sit at is `layout`'s, putting them on a bus is the
//! machine's.

mod bytes;
pub mod debug_console;
pub mod debug_exit;
pub mod fw_cfg;
pub(crate) mod generation_id;
pub mod i8042;
pub mod post;
pub mod power;
pub mod probe;
pub mod pvpanic;
pub mod rtc;
pub mod testdev;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod uart;
