//! The kernel's random numbers.

use std::fs::File;
use std::io;

use kiln_protocol::wire::ENTROPY;

/// Where the kernel is told of randomness (random(4)).
const RANDOM: &str = "/dev/urandom";

/// Has the kernel's generator depend on `bytes` from now on, which count as random.
pub(super) fn stir(bytes: &[u8]) -> io::Result<()> {
    if !ENTROPY.contains(&bytes.len()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let random = File::open(RANDOM)?;
    crate::system::add_entropy(&random, bytes)?;
    // At once, and not at the next time of its own, until when all would draw the same.
    crate::system::reseed(&random)
}
