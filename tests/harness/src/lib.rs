//! kiln: an assertion inside a guest as an ordinary `cargo test` case.
//!
//! What a test case and the commands use: the agent's client, verdicts, evidence, gates and the lab. The
//! machine itself is `kiln-vmm`'s, images and kernels are `kiln-rootfs`'.

pub mod agent;
pub mod cases;
pub mod check;
pub mod console;
pub mod evidence;
pub mod fork;
pub mod gate;
pub mod guest;
pub mod lab;
pub mod run;
pub mod verdict;

pub use kiln_fixtures as fixtures;
pub use kiln_macros::{guest_test, host_test, vm_test};
pub use kiln_protocol as protocol;
pub use kiln_rootfs as rootfs;
pub use kiln_vmm as vmm;
