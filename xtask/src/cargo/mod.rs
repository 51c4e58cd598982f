//! cargo, run for its output and its counts.

mod counts;
mod step;

pub(crate) use counts::{Counts, Tally};
pub(crate) use step::{CountsAs, Ran, Step};
