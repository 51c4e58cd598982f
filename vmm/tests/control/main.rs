//! Machines under control by their names: the commands, the socket, and clients that mean no good.

mod clients;
mod commands;
mod vm;

kiln::main!();
