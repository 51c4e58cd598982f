//! One run: a machine, a task in it, and the verdict.
//!
//! A [`Plan`] is plain data with every choice made; [`execute`] carries it out on this host's KVM and leaves
//! a [`Report`]. The lab carries out the same plan by the same code, inside.

mod dispatch;
mod execute;
mod hold;
mod judge;
mod line;
mod plan;
mod recipe;
mod report;
mod session;
mod task;
mod told;
mod typist;
mod vmlinux;

pub use dispatch::{Accel, AccelChoice, DispatchError, Done, Prepared, choose, prepare};
pub use execute::execute;
pub(crate) use execute::execute_with;
pub use hold::{HOLD, hold_of_environment};
pub(crate) use hold::{machine_name, not_in_the_lab};
pub use line::{Line, TerminalInput};
pub use plan::{CommandPlan, Plan, Task, cmdline};
pub use recipe::Recipe;
pub use report::{Assertion, Report};
pub(crate) use session::{BodyEnd, Session};
pub use task::TaskIo;
pub(crate) use task::{exit_status, pass_on};
pub use told::Told;
pub use vmlinux::{VmlinuxError, vmlinux_of};
