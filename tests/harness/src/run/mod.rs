//! One run: a machine, a task in it, and the verdict.
//!
//! A [`Plan`] is plain data with every choice made; [`execute`] carries it out on this host's KVM and leaves
//! a [`Report`]. The lab carries out the same plan by the same code, inside.

mod execute;
mod judge;
mod plan;
mod report;
mod task;

pub use execute::execute;
pub use plan::{CommandPlan, Plan, Task, cmdline};
pub use report::{Assertion, Report};
pub use task::TaskIo;
