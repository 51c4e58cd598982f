//! Machines under control by their names: the commands, the socket, and clients that mean no good.

mod clients;
mod commands;
mod gdb;
#[allow(dead_code, unreachable_pub, reason = "the suites say more to a stub than is said here")]
#[path = "../../../tests/suites/src/rsp.rs"]
mod rsp;
mod vm;

kiln::main!();
