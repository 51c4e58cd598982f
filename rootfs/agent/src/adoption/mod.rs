//! How a guest that goes on from a saved one, as one of many, becomes one of its own; and what is done for that before
//! it is saved.
//!
//! Not done here: what all that go on from one saved guest share for good, which are the kernel's addresses, the keys of
//! its hash tables, and whatever a program that ran before kept for itself. The agent keeps nothing random.

mod clock;
mod disk;
mod links;
mod random;
mod warm;

use std::fs;
use std::io;

use kiln_protocol::wire::Adoption;

pub(crate) use self::clock::Exchange;
pub(crate) use self::disk::Disks;
pub(crate) use self::warm::warm;
use crate::server::Refusal;

/// The guest's own number (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// Does all that `adoption` says but for the clock, which is last; `disks` are those that are known.
pub(crate) fn begin(adoption: &Adoption, disks: &Disks) -> Result<(), Refusal> {
    let refuse = |what: &'static str| move |error: io::Error| refusal(what, &error);
    // First, for what follows may ask the kernel for random numbers.
    random::stir(&adoption.entropy).map_err(refuse("reseed the kernel's random numbers"))?;
    if let Some(name) = &adoption.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| refusal("set the host name", &error.into()))?;
    }
    if let Some(id) = adoption.machine_id {
        let id = format!("{:032x}\n", u128::from_be_bytes(id));
        fs::write(MACHINE_ID, id).map_err(refuse(MACHINE_ID))?;
    }
    adoption.disk.as_ref().map_or(Ok(()), |disk| disk::attach(disk, disks))
}

fn refusal(what: &str, error: &io::Error) -> Refusal {
    Refusal { errno: error.raw_os_error().unwrap_or(libc::EIO), message: format!("{what}: {error}") }
}
