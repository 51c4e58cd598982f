//! Gates: which cases this host can run, decided when the cases are listed.
//!
//! `KILN_KVM` says what to do with a case that the host can't run; see [`Mode`].

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use kiln_vmm::level::{self, Level};
use serde::{Deserialize, Serialize};

/// The environment variable that chooses a [`Mode`].
pub const MODE_VARIABLE: &str = "KILN_KVM";

/// The device node that machines are made with.
pub const KVM_NODE: &str = "/dev/kvm";

/// What becomes of cases that need KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those that this host can't run are ignored, with the reason.
    Auto,
    /// Those that this host can't run fail.
    Require,
    /// All are ignored.
    Off,
    /// The test binary runs itself in the lab.
    Lab,
}

/// A value of `KILN_KVM` that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MODE_VARIABLE}={0}: not one of auto, require, off, lab")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "require" => Ok(Self::Require),
            "off" => Ok(Self::Off),
            "lab" => Ok(Self::Lab),
            other => Err(UnknownMode(other.to_owned())),
        }
    }
}

impl Mode {
    /// The mode that the environment asks for; [`Mode::Auto`] when it says nothing.
    ///
    /// # Errors
    /// The variable's value is none of the four.
    pub fn of_environment() -> Result<Self, UnknownMode> {
        std::env::var_os(MODE_VARIABLE).unwrap_or_default().to_string_lossy().parse()
    }
}

/// The level of KVM that a case needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// No KVM at all.
    Nothing,
    /// Bare-metal payloads run.
    Payload,
    /// Linux runs.
    Linux,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Payload => "payload",
            Self::Linux => "linux",
        })
    }
}

/// What becomes of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs here.
    Run,
    /// It is listed as ignored, for this reason.
    Ignore(String),
    /// It is listed, and fails for this reason.
    Fail(String),
}

/// Decides what becomes of a case that needs `needs` on a host at `level`.
#[must_use]
pub fn decide(mode: Mode, level: &Level, needs: Needs) -> Decision {
    let (has, reason) = match level {
        Level::Linux => (Needs::Linux, ""),
        Level::Payload { reason } => (Needs::Payload, reason.as_str()),
        Level::None { reason } => (Needs::Nothing, reason.as_str()),
    };
    if needs == Needs::Nothing {
        return Decision::Run;
    }
    if mode == Mode::Off {
        return Decision::Ignore(format!("needs KVM at level {needs}; {MODE_VARIABLE}=off"));
    }
    if has >= needs {
        return Decision::Run;
    }
    let why = format!("needs KVM at level {needs}; this host is at level {}: {reason}", level.as_str());
    if mode == Mode::Require { Decision::Fail(why) } else { Decision::Ignore(why) }
}

/// This host's level, found out once a process.
pub fn host_level() -> &'static Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    LEVEL.get_or_init(|| level::probe(Path::new(KVM_NODE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Level {
        Level::Payload { reason: "iretq is not emulated".to_owned() }
    }

    #[test]
    fn mode_is_one_of_four_words() {
        assert_eq!("".parse(), Ok(Mode::Auto));
        assert_eq!("lab".parse(), Ok(Mode::Lab));
        let error = "yes".parse::<Mode>().unwrap_err();
        assert_eq!(error.to_string(), "KILN_KVM=yes: not one of auto, require, off, lab");
    }

    #[test]
    fn case_within_the_hosts_level_runs_unless_off() {
        for mode in [Mode::Auto, Mode::Require, Mode::Lab] {
            assert_eq!(decide(mode, &payload(), Needs::Payload), Decision::Run);
            assert_eq!(decide(mode, &Level::Linux, Needs::Linux), Decision::Run);
        }
        assert!(matches!(decide(Mode::Off, &Level::Linux, Needs::Payload), Decision::Ignore(_)));
    }

    #[test]
    fn case_above_the_hosts_level_is_ignored_or_fails_with_the_reason() {
        let Decision::Ignore(why) = decide(Mode::Auto, &payload(), Needs::Linux) else {
            panic!("not ignored")
        };
        assert!(why.contains("level linux") && why.contains("level payload: iretq is not emulated"), "{why}");
        assert!(matches!(decide(Mode::Require, &payload(), Needs::Linux), Decision::Fail(_)));
    }
}
