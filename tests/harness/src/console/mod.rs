//! What a guest's console says: the bytes cut into lines, and the kernel reports among them.
//!
//! This is the one place that knows the kernel's report headers. It names a class, no more: frames,
//! symbols and titles are not its business.

mod report;
mod sanitize;
mod search;
mod watch;

pub use report::classify;
pub use sanitize::sanitize;
pub(crate) use search::{Missed, Search};
pub use watch::{Console, Summary};
