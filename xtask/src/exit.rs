//! Exit statuses, as scripts and `git bisect run` take them.

use std::process::ExitCode;

/// The exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    /// All is well.
    pub(crate) const PASSED: Self = Self(0);
    /// The guest or the kernel failed; for `ci`, a step.
    pub(crate) const FAILED: Self = Self(1);
    /// Nothing was learnt of the kernel: usage errors, our own failures. `git bisect run` skips.
    pub(crate) const UNTESTABLE: Self = Self(125);

    /// A status handed on from elsewhere: a verdict's, or that of a command in a guest.
    pub(crate) const fn status(status: u8) -> Self {
        Self(status)
    }

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}
