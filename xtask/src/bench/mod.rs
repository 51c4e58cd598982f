//! Benchmarks: kiln beside its peers, in one lab whose clock counts instructions.
//!
//! A benchmark is a [`spec::Spec`] that goes into the lab, where [`inner`] carries it out, and a table of
//! what came back. Figures repeat; they count instructions, not caches or a processor's own exit costs.

mod boot;
mod inner;
mod peers;
mod spec;
mod table;

pub(crate) use boot::boot;
pub(crate) use inner::{INNER_BENCH, run as inner_bench};
pub(crate) use spec::Measured;
pub(crate) use table::table;
