//! Assertions from inside a Linux guest, and from the host on one.

mod control;
mod disk;
mod gdb;
mod machine;
mod port;
mod registers;
mod snapshots;
mod terminal;
mod time;

kiln::main!();
