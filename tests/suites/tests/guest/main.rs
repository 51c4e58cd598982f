//! Assertions from inside a Linux guest, and from the host on one.

mod adoption;
mod blk;
mod control;
mod cpus;
mod disk;
mod forks;
mod gdb;
mod generation;
mod interrupts;
mod kernel;
mod memory;
mod port;
mod ports;
mod power;
mod registers;
mod snapshots;
mod terminal;
mod time;
mod virtio;
mod words;

kiln::main!();
