//! Which needs a kernel meets, by its configuration or by what its modules' folder tells.

use std::path::{Path, PathBuf};

use super::{Config, NEEDS, Need};
use crate::Error;
use crate::modules::Found;

/// How a kernel meets a need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is built in.
    BuiltIn,
    /// It is a module, in this file.
    Module(PathBuf),
    /// It is a module, and that is not at hand.
    ModuleAway,
    /// It is not there.
    Missing,
    /// Nothing at hand tells.
    Unknown,
}

/// A need, and how a kernel meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The need.
    pub need: &'static Need,
    /// How it is met.
    pub state: State,
}

impl Answer {
    /// Whether the kernel lacks it for certain.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        matches!(self.state, State::ModuleAway | State::Missing)
    }
}

/// How the kernel of `release` with such a configuration and such a modules' folder meets each need. Without a
/// configuration the folder's own lists tell of what can be a module, and the rest is not known.
///
/// # Errors
/// The modules' folder can't be read.
pub fn answers(release: &str, config: Option<&Config>, modules: Option<&Path>) -> Result<Vec<Answer>, Error> {
    let found = modules.map(Found::read).transpose()?;
    let state = |need: &'static Need| -> Result<State, Error> {
        let file = match (&found, need.module) {
            (Some(found), Some(module)) => found.file(module)?,
            _ => None,
        };
        let Some(config) = config else {
            let (Some(found), Some(module)) = (&found, need.module) else { return Ok(State::Unknown) };
            return Ok(match file {
                Some(file) => State::Module(file),
                None if found.is_builtin(module) => State::BuiltIn,
                // A list of what is built in and no such file: a guest can have it from nowhere.
                None if found.lists_builtin() => State::Missing,
                None => State::Unknown,
            });
        };
        Ok(match config.value(need.option) {
            Some("m") => file.map_or(State::ModuleAway, State::Module),
            Some(_) => State::BuiltIn,
            None if is_before(release, need.since) => State::BuiltIn,
            None => State::Missing,
        })
    };
    NEEDS.iter().map(|need| Ok(Answer { need, state: state(need)? })).collect()
}

/// Whether the release is of a version before `version`; not if it does not tell.
fn is_before(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < version,
        _ => false,
    }
}
