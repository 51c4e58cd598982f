//! Assertions from inside a Linux guest, and from the host on one.

mod adoption;
mod control;
mod disk;
mod gdb;
mod machine;
mod port;
mod registers;
mod terminal;
mod time;

kiln::main!();
