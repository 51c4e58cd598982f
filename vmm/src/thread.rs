//! The machine's threads.

use std::thread::Builder;

/// Less than a huge page: a host that gives every mapping huge pages would clear 2 MiB for each thread, which is more
/// than all that a machine without Linux costs.
const STACK: usize = 512 << 10;

/// A thread to be, of that name.
pub fn named(name: &str) -> Builder {
    Builder::new().name(name.to_owned()).stack_size(STACK)
}
