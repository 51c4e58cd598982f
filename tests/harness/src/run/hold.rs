//! `KILN_HOLD=1`: the machine of a run that failed is left running, for somebody to look at, until somebody ends it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_vmm::control::NAME_MAX;
use kiln_vmm::machine::{Controller, Owner};

use crate::lab::IN_LAB;

/// The environment variable that asks for it.
pub const HOLD: &str = "KILN_HOLD";

/// Whether runs of this process are to leave failed machines running.
#[must_use]
pub fn hold_of_environment() -> bool {
    asked() && std::env::var_os(IN_LAB).is_none()
}

fn asked() -> bool {
    std::env::var(HOLD).is_ok_and(|value| value == "1")
}

/// Says, where it was asked for, that a machine in the lab can't be left running.
pub(crate) fn not_in_the_lab() {
    if asked() {
        say(
            "KILN_HOLD: a machine in the lab can't be left running: it and its control socket end with the lab",
        );
    }
}

/// One run's machine, which may be left running.
pub(super) struct Hold {
    name: String,
    told: AtomicBool,
}

impl Hold {
    /// For the machine of that name.
    pub(super) fn new(name: String) -> Self {
        Self { name, told: AtomicBool::new(false) }
    }

    /// From now on the machine's deadline does not end it.
    pub(super) fn keep(machine: &Controller) {
        // A machine that has ended is not kept.
        let _ended = machine.hold(&Owner::onlooker(HOLD));
    }

    /// Says, once, that the machine runs on, and how to get at it.
    pub(super) fn tell(&self, why: &str) {
        if self.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let name = &self.name;
        say(&format!(
            "KILN_HOLD: {why}; the machine {name} runs on until somebody ends it:\n\
             \x20 kiln-vmm status {name}\n\
             \x20 kiln-vmm pause {name}; kiln-vmm dump {name}; kiln-vmm resume {name}\n\
             \x20 kiln-vmm gdb {name}\n\
             \x20 kiln-vmm stop {name}"
        ));
    }
}

/// In one piece: other cases say things, too.
fn say(text: &str) {
    let _closed = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A machine's name for the run in the directory of that path below the runs' root: its case and its own last part, of what names are made of.
pub(crate) fn machine_name(run: &str) -> String {
    let mut parts = run.rsplit('/');
    let (last, case) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    // The end of the start's time and the process tell runs of a case apart.
    let plain = |text: &str, most: usize| {
        let text: Vec<char> = text.chars().collect();
        let from = text.len().saturating_sub(most);
        let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        text.into_iter().skip(from).map(good).collect::<String>()
    };
    let tail = plain(last, 16);
    let name = format!("{}-{tail}", plain(case, NAME_MAX - tail.len() - 1));
    match name.trim_start_matches(['.', '-']) {
        "" => "_".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kiln_vmm::control::is_name;

    use super::*;

    #[test]
    fn runs_have_names_that_machines_may_have() {
        assert_eq!(machine_name("suite/module.case/20260101-4711"), "module.case-20260101-4711");
        for run in [
            "",
            "a",
            "suite/.case/1",
            "suite/-case/1",
            "suite//1",
            "suite/a b ä/1-2",
            &format!("s/{}/{}", "x".repeat(200), "y".repeat(99)),
        ] {
            assert!(is_name(&machine_name(run)), "{run}: {}", machine_name(run));
        }
        assert_ne!(
            machine_name("s/c/20260101T120000.123-4711"),
            machine_name("s/c/20260101T120000.124-4711")
        );
    }
}
