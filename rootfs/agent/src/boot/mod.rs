//! What PID 1 does before anything else can run.

mod modules;
mod mounts;
mod root;

use std::process::{Command, Stdio};

/// What went wrong without ending the boot; bounded, for it has to fit a message.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Vec<String>);

/// How many warnings are kept.
const WARNINGS_MAX: usize = 64;
/// How long each may be, in bytes.
const WARNING_MAX: usize = 500;

impl Warnings {
    /// Keeps a warning.
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        let mut text: String = text.into();
        if self.0.len() < WARNINGS_MAX {
            crate::text::cut(&mut text, WARNING_MAX);
            self.0.push(text);
        }
    }

    /// Keeps a failure.
    pub(crate) fn note<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>) {
        if let Err(error) = result {
            self.add(format!("{what}: {error}"));
        }
    }

    /// All of them.
    pub(crate) fn list(&self) -> &[String] {
        &self.0
    }

    /// All of them.
    pub(crate) fn into_list(self) -> Vec<String> {
        self.0
    }
}

/// Makes a bare kernel a system that programs can run on. Nothing here is fatal: what is missing shows in
/// the warnings, and in what fails for it.
pub(crate) fn prepare(warnings: &mut Warnings) {
    mounts::all(warnings);
    if let Ok(name) = std::fs::read_to_string("/etc/hostname") {
        warnings.note("set the host name", rustix::system::sethostname(name.trim().as_bytes()));
    }
    warnings.note("bring up lo", crate::system::loopback_up());
    modules::load(warnings);
    root::switch();
    run_script(warnings);
}

fn run_script(warnings: &mut Warnings) {
    const SCRIPT: &str = "/etc/init.d/rcS";
    if !std::path::Path::new(SCRIPT).exists() {
        return;
    }
    let status = Command::new(SCRIPT)
        .env_clear()
        .envs(crate::server::ENVIRONMENT.iter().copied())
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => warnings.add(format!("{SCRIPT} ended with {status}")),
        Err(error) => warnings.add(format!("{SCRIPT} can't be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded_and_never_cut_a_character() {
        let mut warnings = Warnings::default();
        for _ in 0..1000 {
            warnings.add("é".repeat(1000));
        }
        assert_eq!(warnings.list().len(), WARNINGS_MAX);
        assert!(warnings.into_list().iter().all(|w| w.len() <= WARNING_MAX));
    }
}
