//! What is left of a run: its directory, written as things happen.
//!
//! On a host the directory is on disk. Inside the lab each change of it is a record on a pipe, and the host
//! outside replays the records into its own directory: what arrived is on disk, whatever dies next.

mod directory;
mod relay;
mod sink;

pub use directory::{COMMAND_FILE, EVIDENCE_ROOT, RunDirectory, runs_root};
pub use relay::Replay;
pub use sink::{EVIDENCE_FD, Sink};
