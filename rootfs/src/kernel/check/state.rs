//! Which needs a kernel meets, by its configuration or by what its modules' folder tells.

use std::path::{Path, PathBuf};

use super::{Banner, Config, NEEDS, Need};
use crate::Error;
use crate::modules::{self, Found};

/// How a kernel meets a need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is built in.
    BuiltIn,
    /// It is a module, in this file.
    Module(PathBuf),
    /// It is a module, and that is not at hand.
    ModuleAway,
    /// It is a module, in this file, and can't be loaded into this kernel: why not.
    Unusable(PathBuf, String),
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
        matches!(self.state, State::ModuleAway | State::Unusable(..) | State::Missing)
    }
}

/// How the kernel that says `banner` of itself, with such a configuration and such a modules' folder, meets each need.
/// The banner tells of a few, `is_64_bit` of one, and goes before the configuration, which may be another kernel's.
/// Without one the folder's own lists tell of what can be a module, and the rest is not known.
///
/// # Errors
/// The modules' folder can't be read.
pub fn answers(
    banner: &Banner,
    is_64_bit: bool,
    config: Option<&Config>,
    modules: Option<&Path>,
) -> Result<Vec<Answer>, Error> {
    let found = modules.map(Found::read).transpose()?;
    let usable = |file: PathBuf, name: &str| match modules.map(|dir| unusable(dir, name, &banner.release)) {
        Some(Err(why)) => State::Unusable(file, why.to_string()),
        _ => State::Module(file),
    };
    let state = |need: &'static Need| -> Result<State, Error> {
        if let Some(is_set) = told(banner, is_64_bit, need) {
            return Ok(if is_set { State::BuiltIn } else { State::Missing });
        }
        let name = need.module.unwrap_or_default();
        let file = match (&found, need.module) {
            (Some(found), Some(module)) => found.file(module)?,
            _ => None,
        };
        let Some(config) = config else {
            let (Some(found), Some(module)) = (&found, need.module) else { return Ok(State::Unknown) };
            return Ok(match file {
                Some(file) => usable(file, name),
                None if found.is_builtin(module) => State::BuiltIn,
                // A list of what is built in and no such file: a guest can have it from nowhere.
                None if found.lists_builtin() => State::Missing,
                None => State::Unknown,
            });
        };
        Ok(match config.value(need.option) {
            Some("m") => file.map_or(State::ModuleAway, |file| usable(file, name)),
            Some(_) => State::BuiltIn,
            None if is_before(&banner.release, need.since) => State::BuiltIn,
            None => State::Missing,
        })
    };
    NEEDS.iter().map(|need| Ok(Answer { need, state: state(need)? })).collect()
}

/// Why the module `name`, or one that it needs, can't be loaded into the kernel of `release`, as an error.
fn unusable(dir: &Path, name: &str, release: &str) -> Result<(), Error> {
    modules::closure(dir, &[name])?.iter().try_for_each(|module| module.read_for(release).map(drop))
}

/// Whether an option is set, where something else than a configuration tells for certain.
fn told(banner: &Banner, is_64_bit: bool, need: &Need) -> Option<bool> {
    match need.option {
        "64BIT" => is_64_bit.then_some(true),
        // The build's flags are made of these options (scripts/mkcompile_h, init/Makefile).
        "SMP" => banner.build.as_deref().map(|build| build.split(' ').any(|word| word == "SMP")),
        _ => None,
    }
}

/// Whether the release is of a version before `version`; not if it does not tell.
fn is_before(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < version,
        _ => false,
    }
}
