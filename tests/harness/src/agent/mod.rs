//! The host's side of the agent: programs, files and connections inside a guest.

mod channel;
mod client;
mod error;
mod process;
mod relay;
mod request;
mod transfer;

#[cfg(test)]
pub(crate) mod tests;

pub use client::Client;
pub use error::AgentError;
pub use kiln_protocol::wire::{Exec as Command, Hello, Status, TerminalSize};
pub use process::{Process, ProcessEvent, Stdin, Terminal};
