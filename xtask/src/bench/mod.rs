//! Benchmarks: kiln beside its peers.
//!
//! A boot is a [`spec::Spec`] that goes into a lab whose clock counts instructions, where [`inner`] carries it out,
//! and a table of what came back; forks go the same way. Figures repeat; they count instructions, not caches or a
//! processor's own exit costs. Images are made, and exits measured, on this host.

mod boot;
mod exits;
mod fork;
mod inner;
mod lab;
mod peers;
mod rootfs;
mod spec;
mod table;

pub(crate) use boot::boot;
pub(crate) use exits::{Exits, INNER_EXITS, exits, inner_exits};
pub(crate) use fork::{
    Forks, INNER_FORK, INNER_FORK_CASE, INNER_FORK_RESTORE, fork, inner_case, inner_fork, inner_restore,
};
pub(crate) use inner::{INNER_BENCH, run as inner_bench};
pub(crate) use rootfs::{Images, rootfs};
pub(crate) use spec::Measured;
pub(crate) use table::table;
