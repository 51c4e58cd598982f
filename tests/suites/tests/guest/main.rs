//! Assertions from inside a Linux guest, and from the host on one.

mod control;
mod disk;
mod machine;
mod port;
mod registers;
mod snapshots;
mod time;

kiln::main!();
