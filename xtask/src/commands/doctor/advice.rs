//! What the facts mean: for each, whether it will do, and how to mend it.

use serde::Serialize;

use super::facts::{Facts, Tool};
use crate::report::RanOn;
use kiln::gate::KVM_NODE;
use kiln::vmm::level::Level;

/// What is left when there is neither KVM nor lab.
const NOTHING_BOOTS: &str =
    "no Linux guest can run here: KVM is not at level linux, and there is no QEMU for the lab";

/// What is left where guests can't have their agent.
const NO_AGENT: &str = "no Linux guest can run here: its agent can't be built without cargo and rustc";

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It will do.
    Ok,
    /// There is a way round it.
    Note,
    /// It is needed.
    Lack,
}

impl State {
    /// The word in the table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Lack => "lack",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    /// What to do about it.
    pub(super) mend: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), mend: None }
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// Why nothing boots, on a host where a command has nowhere to run its guests.
pub(super) fn nothing_boots(facts: &Facts) -> &'static str {
    if facts.agent() { NOTHING_BOOTS } else { NO_AGENT }
}

/// Where a command would run its guests if nothing is asked for.
pub(super) fn accel(level: &Level, facts: &Facts) -> Option<RanOn> {
    match level {
        _ if !facts.agent() => None,
        Level::Linux => Some(RanOn::Kvm),
        _ if facts.lab() => Some(RanOn::Lab),
        _ => None,
    }
}

/// Everything that was looked at, the most important first.
pub(super) fn checks(level: &Level, facts: &Facts) -> Vec<Check> {
    vec![
        kvm(level, facts),
        lab(level, facts),
        packages(facts),
        kernels(facts),
        busybox(facts),
        rust("cargo", facts.cargo.as_ref()),
        rust("rustc", facts.rustc.as_ref()),
        linker(facts),
        kernel_build(facts),
        cache(facts),
    ]
}

/// What does not run here, a sentence each.
pub(super) fn skipped(level: &Level, facts: &Facts) -> Vec<String> {
    let mut skipped = Vec::new();
    let needs = match level {
        Level::Linux if facts.agent() => return skipped,
        Level::Linux => "a Linux guest",
        Level::Payload { .. } => "level linux",
        Level::None { .. } => "KVM at any level",
    };
    let instead = match accel(level, facts) {
        Some(_) => "`cargo xtask test` runs them in the lab",
        None => "nothing else runs them",
    };
    skipped
        .push(format!("`cargo test` ignores the cases that need {needs}, each with the reason; {instead}"));
    if accel(level, facts).is_none() {
        skipped.push("`smoke`, `run`, `test` and `bench` end untestable, with exit status 125".to_owned());
    }
    skipped
}

fn kvm(level: &Level, facts: &Facts) -> Check {
    let name = "KVM";
    match level {
        Level::Linux => Check::new(name, State::Ok, "level linux: everything runs"),
        Level::Payload { reason } => Check::new(name, State::Note, format!("level payload: {reason}")).mend(
            "bare-metal payloads run here, Linux does not: nested virtualization, if the host above has it, \
             would mend it; until then the lab serves",
        ),
        Level::None { reason } => {
            let check = Check::new(name, State::Note, format!("level none: {reason}"));
            let module = facts.kvm_module;
            match (facts.kvm_node, facts.virtualization) {
                (true, _) => check.mend(format!(
                    "if the permission is what lacks: `sudo usermod -aG kvm $USER`, then log in again; in CI, a udev \
                     rule that gives {KVM_NODE} the mode 0666"
                )),
                (false, true) => check.mend(format!(
                    "`sudo modprobe {module}`; in a container, start it with `--device {KVM_NODE}`"
                )),
                (false, false) => check.mend(format!(
                    "turn virtualization on in the firmware, or nested virtualization in the host above, then \
                     `sudo modprobe {module}`; until then the lab serves"
                )),
            }
        }
    }
}

fn lab(level: &Level, facts: &Facts) -> Check {
    let name = "QEMU for the lab";
    if let Some(tool) = &facts.qemu {
        return Check::new(name, State::Ok, said(tool));
    }
    if facts.cached_qemu {
        return Check::new(name, State::Ok, "in the cache");
    }
    if facts.apt_get.is_some() {
        let found = "not installed; fetched into the cache when it is needed (43 MB, no root)";
        return Check::new(name, State::Ok, found);
    }
    let state = if *level == Level::Linux { State::Note } else { State::Lack };
    Check::new(name, state, "not installed, and no apt-get to fetch it with")
        .mend("install qemu-system-x86_64 by your distribution's means")
}

fn packages(facts: &Facts) -> Check {
    let name = "apt-get";
    match &facts.apt_get {
        Some(tool) => Check::new(name, State::Ok, said(tool)),
        None => Check::new(name, State::Note, "not installed: no kernel, busybox or QEMU can be fetched")
            .mend("give a kernel by `--kernel FILE --modules-dir DIR`, and install busybox and QEMU"),
    }
}

fn kernels(facts: &Facts) -> Check {
    let name = "kernels";
    if !facts.kernels.is_empty() {
        return Check::new(name, State::Ok, format!("in the cache: {}", facts.kernels.join(", ")));
    }
    if facts.apt_get.is_some() {
        return Check::new(
            name,
            State::Ok,
            "none in the cache; fetched when one is needed, or now by `kernel fetch`",
        );
    }
    Check::new(name, State::Lack, "none in the cache, and no apt-get to fetch one with")
        .mend("give one by `--kernel FILE --modules-dir DIR`")
}

fn busybox(facts: &Facts) -> Check {
    let name = "busybox";
    match &facts.busybox {
        Some(tool) => Check::new(name, State::Ok, said(tool)),
        None if facts.apt_get.is_some() => {
            Check::new(name, State::Ok, "not installed; fetched into the cache for `--busybox`")
        }
        None => Check::new(name, State::Note, "not installed: `--busybox` won't work")
            .mend("install a statically linked busybox"),
    }
}

fn rust(name: &'static str, tool: Option<&Tool>) -> Check {
    match tool {
        Some(tool) => Check::new(name, State::Ok, said(tool)),
        None => Check::new(name, State::Lack, "not on PATH: the guest's agent can't be built")
            .mend("install Rust from https://rustup.rs"),
    }
}

fn linker(facts: &Facts) -> Check {
    match &facts.linker {
        Some(tool) => Check::new("linker", State::Ok, said(tool)),
        None => Check::new("linker", State::Lack, "no cc on PATH: rustc can't link")
            .mend("install gcc and the C library's development files"),
    }
}

fn kernel_build(facts: &Facts) -> Check {
    let name = "kernel build";
    match &facts.no_build {
        None => Check::new(name, State::Ok, "the tools for `kernel build` and `--src` are here"),
        // It names the packages.
        Some(why) => Check::new(name, State::Note, "`kernel build` and `--src` lack tools").mend(why.clone()),
    }
}

fn cache(facts: &Facts) -> Check {
    match &facts.cache_error {
        None => Check::new("cache", State::Ok, facts.cache.display().to_string()),
        Some(error) => Check::new("cache", State::Lack, format!("can't be written: {error}"))
            .mend("name a folder that can be written by KILN_CACHE"),
    }
}

fn said(tool: &Tool) -> String {
    if tool.version.is_empty() { tool.path.display().to_string() } else { tool.version.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust_only() -> Facts {
        let tool = || Some(Tool { path: "/usr/bin/rustc".into(), version: "1".to_owned() });
        Facts { cargo: tool(), rustc: tool(), ..Facts::default() }
    }

    fn apt() -> Facts {
        Facts {
            apt_get: Some(Tool { path: "/usr/bin/apt-get".into(), version: "apt 2.6".to_owned() }),
            ..rust_only()
        }
    }

    fn none() -> Level {
        Level::None { reason: "permission denied".to_owned() }
    }

    #[test]
    fn host_whose_kvm_runs_linux_skips_nothing() {
        assert_eq!(accel(&Level::Linux, &rust_only()), Some(RanOn::Kvm));
        assert!(skipped(&Level::Linux, &rust_only()).is_empty());
    }

    #[test]
    fn host_with_apt_only_falls_back_to_the_lab() {
        assert_eq!(accel(&none(), &apt()), Some(RanOn::Lab));
        let skipped = skipped(&Level::Payload { reason: String::new() }, &apt());
        assert!(skipped[0].contains("level linux") && skipped[0].contains("in the lab"), "{skipped:?}");
    }

    #[test]
    fn host_with_nothing_says_so_and_each_lack_has_a_mend() {
        assert_eq!(accel(&none(), &Facts::default()), None);
        assert_eq!(skipped(&none(), &Facts::default()).len(), 2);
        for check in checks(&none(), &Facts::default()) {
            assert_eq!(check.mend.is_some(), check.state != State::Ok, "{check:?}");
        }
    }

    #[test]
    fn host_without_an_agent_runs_no_guest_unless_one_is_named() {
        let facts = Facts { rustc: None, ..apt() };
        assert_eq!((accel(&Level::Linux, &facts), accel(&none(), &facts)), (None, None));
        assert!(nothing_boots(&facts).contains("without cargo and rustc"));
        assert_eq!(skipped(&Level::Linux, &facts).len(), 2);
        assert_eq!(accel(&none(), &Facts { agent: true, ..facts }), Some(RanOn::Lab));
        assert!(nothing_boots(&rust_only()).contains("no QEMU"));
    }

    #[test]
    fn kvm_mend_depends_on_what_is_missing() {
        let mend = |kvm_node, virtualization| {
            let facts = Facts { kvm_node, virtualization, kvm_module: "kvm_amd", ..Facts::default() };
            kvm(&none(), &facts).mend.unwrap()
        };
        assert!(mend(true, false).contains("usermod"));
        assert!(mend(false, true).starts_with("`sudo modprobe kvm_amd`"));
        assert!(mend(false, false).contains("firmware"));
    }
}
