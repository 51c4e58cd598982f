//! Ways in, and devices that are not virtio, seen by bare-metal payloads.

mod debug;
mod machine;
mod multiboot;
mod ports;

kiln::main!();
