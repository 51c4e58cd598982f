//! What can be told of a kernel from its bytes: its header, its notes, its configuration, and which of the options
//! that a guest of ours needs it lacks. Nothing is decompressed here but the configuration.

mod banner;
mod bzimage;
mod config;
mod needs;
mod state;
pub(crate) mod vmlinux;

pub use banner::Banner;
pub use bzimage::{BzImage, Compression};
pub use config::Config;
pub use needs::{NEEDS, Need, need};
pub use state::{Answer, State, answers};
pub use vmlinux::Vmlinux;

#[cfg(test)]
mod tests;
