//! What can keep the lab from being had.

use std::io;

use crate::agent::AgentError;

/// Why there is no lab. None of these says anything about the guest: the verdict is `untestable`.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The kernel, QEMU or the image could not be had.
    #[error("no lab")]
    Rootfs(#[from] kiln_rootfs::Error),
    /// The lab's kernel has no usable ELF in it.
    #[error("no lab kernel")]
    Kernel(#[from] crate::run::VmlinuxError),
    /// The host refused something.
    #[error("no lab: {what}")]
    Host {
        /// What was being done.
        what: String,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The lab's kernel ran but its agent never said hello, or went away.
    #[error("the lab died ({detail})")]
    Died {
        /// How QEMU ended, or the last of the lab's console.
        detail: String,
        /// What the agent's client saw.
        #[source]
        source: AgentError,
    },
    /// The lab was stuck for longer than any run may take.
    #[error("the lab was stuck and was ended after {seconds} s of wall time")]
    Stuck {
        /// The guard's limit.
        seconds: u64,
    },
    /// The program in the lab ended without a report.
    #[error("the program in the lab ended with status {status} and no report: {stderr}")]
    NoReport {
        /// Its exit status.
        status: String,
        /// The last line of its standard error.
        stderr: String,
    },
}

impl LabError {
    /// A step that the host refused.
    pub(super) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}
