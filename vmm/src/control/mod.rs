//! The control socket: a machine with a name ([`crate::config::MachineConfig::name`]) is watched and steered by other
//! processes of the same user.
//!
//! Its socket is `NAME.sock` in the user's own runtime folder ([`folders`]); `NAME.lock` beside it is locked as long as the
//! machine lives, so that a name is taken once and what a dead machine left is reclaimed. Its debugger is at `NAME.gdb` once one was
//! asked for. What is said there is in
//! [`protocol`]; [`Client`] says it.

mod client;
mod connection;
mod endpoint;
mod fork;
#[cfg(fuzzing)]
mod fuzz;
mod name;
mod perform;
pub mod protocol;
mod server;

pub use client::{Client, ClientError, machines};
pub(crate) use endpoint::Endpoint;
pub use endpoint::{EndpointError, folders, socket};
#[cfg(fuzzing)]
pub(crate) use fuzz::converse;
pub use name::{NAME_MAX, is_name};
pub(crate) use perform::Subject;
pub(crate) use server::Served;
