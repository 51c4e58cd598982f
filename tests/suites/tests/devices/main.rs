//! Ways in, and devices that are not virtio, seen by bare-metal payloads.

mod machine;
mod multiboot;

kiln::main!();
