//! From lists of options to a `.config` that has them, or to the reason why it can't.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::fragment::{self, Fragment};
use super::kconfig::{self, Values};
use super::make::Make;
use super::merge::Merged;
use super::place::Place;
use super::state::State;
use super::{BuildSpec, DEFAULT_BASE};
use crate::Error;
use crate::cache::Key;
use crate::progress::Progress;

/// What the base of a folder that has a configuration of its own is called.
const OWN: &str = ".config";
/// What an architecture's own configuration has: kiln's machine is x86-64.
const ARCHITECTURE: &str = "X86_64";
/// How many options a message names.
const NAMED_MAX: usize = 12;

/// The lists that a user named, read.
pub(super) struct Lists {
    base: Option<Vec<Fragment>>,
    fragments: Vec<Vec<Fragment>>,
}

impl Lists {
    /// Reads them all before anything is begun.
    pub(super) fn read(spec: &BuildSpec) -> Result<Self, Error> {
        let base = spec.base.as_deref().map(fragment::chain).transpose()?;
        let fragments = spec.fragments.iter().map(|what| fragment::chain(what)).collect::<Result<_, _>>()?;
        Ok(Self { base, fragments })
    }
}

/// A configuration that has all that was asked for.
pub(super) struct Configured {
    pub(super) values: Values,
    pub(super) base: String,
    /// Whether it was made now.
    pub(super) anew: bool,
}

/// What the options begin with.
struct Base {
    label: String,
    lists: Vec<Fragment>,
    /// Whether it is the folder's own `.config`.
    own: bool,
}

/// Makes the `.config` of `place`, or finds that it has not to be made again.
///
/// # Errors
/// What was asked for did not make it: each option, and why.
pub(super) fn configure(
    make: &Make<'_>,
    place: &Place,
    spec: &BuildSpec,
    lists: Lists,
    tools: &[(String, Vec<u8>)],
    progress: &dyn Progress,
) -> Result<Configured, Error> {
    let state = State::load(place);
    let is_ours = state.as_ref().is_some_and(|state| state.is_own(place));
    let base = base(place, spec, lists.base, state.as_ref())?;
    let mut merged = Merged::default();
    let all_off = base.lists.first().and_then(|list| list.over.as_deref()) == Some("nothing");
    let mut seen = BTreeSet::new();
    for list in &base.lists {
        seen.insert(list.label.clone());
        if list.whole || base.own { merged.add_unchecked(list) } else { merged.add(list) }
    }
    let mut over = Merged::default();
    for list in lists.fragments.iter().flatten().filter(|list| seen.insert(list.label.clone())) {
        merged.add(list);
        over.add(list);
    }
    let asked = if base.own { over.text() } else { merged.text() };
    let mut key = Key::new("config-1").field("own", &[base.own.into()]).field("off", &[all_off.into()]);
    key = key.field("asked", asked.as_bytes());
    for (name, value) in tools {
        key = key.field(name, value);
    }
    let input = key.name();
    let config = place.made(OWN);
    let read = || fs::read(&config).map(|bytes| Values::read(&String::from_utf8_lossy(&bytes)));
    let is_same =
        |state: &State| state.input == input && state.is_own(place) && state.has_same_kconfig(place);
    if state.as_ref().is_some_and(is_same) {
        let values = read().map_err(Error::io("read", &config))?;
        return Ok(Configured { values, base: base.label, anew: false });
    }
    let kconfig = kconfig::read(&place.source)?;
    merged.settle_choices(&kconfig);
    for note in &merged.notes {
        progress.note(note);
    }
    // A file of our own, until it is known to have all: what is there stays as it is if it has not, or if we are ended.
    let fresh = place.own("config")?;
    crate::cache::remove(&fresh).map_err(Error::io("remove", &fresh))?;
    if base.own {
        fs::copy(&config, &fresh).map_err(Error::io("copy", &config))?;
    }
    let list = place.own("asked.config")?;
    fs::write(&list, merged.text()).map_err(Error::io("write", &list))?;
    let to: (&str, &Path) = ("KCONFIG_CONFIG", &fresh);
    let from: &[(&str, &Path)] = &[("KCONFIG_ALLCONFIG", &list), to];
    let what = "configuring the kernel";
    match (all_off, base.own && asked.is_empty()) {
        (_, true) => make.run(what, &["olddefconfig"], &[to])?,
        (true, _) => make.run(what, &["allnoconfig"], from)?,
        (false, _) => make.run(what, &["alldefconfig"], from)?,
    };
    let bytes = fs::read(&fresh).map_err(Error::io("read", &fresh))?;
    let values = Values::read(&String::from_utf8_lossy(&bytes));
    let unmet = merged.unmet(&kconfig, &values);
    if !unmet.is_empty() {
        return Err(Error::Options { unmet: sentence(&unmet) });
    }
    if base.own && !is_ours {
        keep(place, &bytes, progress)?;
    }
    State::forget(place)?;
    place.configure(&bytes)?;
    State::new(place, input, base.label.clone(), &kconfig.files)?.save(place)?;
    Ok(Configured { values, base: base.label, anew: true })
}

/// Keeps a user's own configuration as it was before `bytes` take its place, and says so.
fn keep(place: &Place, bytes: &[u8], progress: &dyn Progress) -> Result<(), Error> {
    let config = place.made(OWN);
    if fs::read(&config).map_err(Error::io("read", &config))? == bytes {
        return Ok(());
    }
    let before = place.own("config.before")?;
    crate::cache::remove(&before).map_err(Error::io("remove", &before))?;
    fs::copy(&config, &before).map_err(Error::io("copy the configuration to", &before))?;
    progress.note(&format!(
        "{} is written anew, with all that was asked for; as it was, it is in {}",
        config.display(),
        before.display()
    ));
    Ok(())
}

/// Decides what the options begin with.
fn base(
    place: &Place,
    spec: &BuildSpec,
    given: Option<Vec<Fragment>>,
    state: Option<&State>,
) -> Result<Base, Error> {
    let config = place.made(OWN);
    if let (Some(label), Some(lists)) = (&spec.base, given) {
        let is_users = spec.build_dir.is_some()
            && fs::symlink_metadata(&config).is_ok()
            && !state.is_some_and(|state| state.is_own(place) && state.base != OWN);
        if is_users {
            let why = format!(
                "it is none that kiln made of a base, so it is built with: --base has no use; leave it out, or move \
                 that file away and give {label} as the base"
            );
            return Err(Error::file(&config, why));
        }
        // A file by its whole path: it may be wanted again from another folder.
        let path = Path::new(label);
        let is_file = !fragment::names().contains(&label.as_str());
        let label = match std::path::absolute(path) {
            Ok(path) if is_file => path.display().to_string(),
            _ => label.clone(),
        };
        return Ok(Base { label, lists, own: false });
    }
    let chosen = place.is_in_place() || (spec.build_dir.is_some() && config.exists());
    if !chosen {
        return Ok(Base {
            label: DEFAULT_BASE.to_owned(),
            lists: fragment::chain(DEFAULT_BASE)?,
            own: false,
        });
    }
    // What an earlier build made of a base is no configuration of the user's.
    if let Some(label) =
        state.filter(|state| state.is_own(place) && state.base != OWN).map(|state| &state.base)
    {
        return Ok(Base { label: label.clone(), lists: fragment::chain(label)?, own: false });
    }
    let bytes = fs::read(&config).map_err(Error::io("read", &config))?;
    let text = String::from_utf8_lossy(&bytes);
    if !Values::read(&text).is_yes(ARCHITECTURE) {
        let why = format!(
            "not a configuration for x86-64, which is what kiln's machine is: CONFIG_{ARCHITECTURE} is not set"
        );
        return Err(Error::file(&config, why));
    }
    let mut list = fragment::read(&config.display().to_string(), &text)?;
    list.over = None;
    Ok(Base { label: OWN.to_owned(), lists: vec![list], own: true })
}

fn sentence(unmet: &[String]) -> String {
    let named = unmet.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    match unmet.len().checked_sub(NAMED_MAX) {
        Some(more @ 1..) => format!("{named}; and {more} more"),
        _ => named,
    }
}
