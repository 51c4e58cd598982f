//! Virtio 1.2 devices behind the memory-mapped transport, each served by a thread of its own.

pub mod block;
pub mod console;
pub mod device;
pub mod mmio;
pub mod pmem;
mod ring;
#[cfg(test)]
mod testing;
mod worker;
