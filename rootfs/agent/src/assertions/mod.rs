//! What kiln itself asserts inside every guest.

mod machine;
mod physical;
#[cfg(target_arch = "x86_64")]
mod ports;
mod probe;
mod virtio_mmio;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use crate::text::json;

/// How an assertion went; an error says what was seen.
type Outcome = Result<(), String>;
/// An assertion and its name.
type Case = (&'static str, fn() -> Outcome);

fn all() -> impl Iterator<Item = &'static Case> {
    let groups = [machine::CASES, probe::CASES, virtio_mmio::CASES];
    #[cfg(target_arch = "x86_64")]
    let groups = groups.into_iter().chain([ports::CASES]);
    groups.into_iter().flatten()
}

/// Runs every assertion and reports each as a line of JSON on descriptor 3, or on the standard output where
/// there is no such descriptor.
pub(crate) fn run() -> ExitCode {
    let events = format!("/proc/self/fd/{}", crate::descriptors::EVENTS);
    let mut out: Box<dyn Write> = match File::options().append(true).open(events) {
        Ok(file) => Box::new(file),
        Err(_) => Box::new(std::io::stdout()),
    };
    let mut held = true;
    for (name, check) in all() {
        let outcome = check();
        held &= outcome.is_ok();
        let line = report(name, &outcome);
        // A report that is not heard is no report: the status says that something failed.
        held &= out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok();
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(name: &str, outcome: &Outcome) -> String {
    let message = outcome.as_ref().err().map_or("", String::as_str);
    format!("{{\"name\":{},\"ok\":{},\"message\":{}}}\n", json(name), outcome.is_ok(), json(message))
}

/// Fails unless what was read is what was expected.
fn expect<T: PartialEq + std::fmt::LowerHex>(what: &str, got: T, expected: T) -> Outcome {
    if got == expected { Ok(()) } else { Err(format!("{what} reads {got:#x} instead of {expected:#x}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_module_paths_and_each_is_there_once() {
        let mut names: Vec<&str> = all().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| name.contains("::")));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn reports_are_lines_of_json() {
        let line = report("a::b", &Err("said \"no\"\n".to_owned()));
        assert_eq!(line, "{\"name\":\"a::b\",\"ok\":false,\"message\":\"said \\\"no\\\"\\n\"}\n");
        assert!(report("a::b", &Ok(())).contains("\"ok\":true,\"message\":\"\""));
    }

    #[test]
    fn expectation_shows_both_values() {
        assert_eq!(expect("it", 1_u32, 1), Ok(()));
        assert_eq!(expect("it", 1_u32, 2), Err("it reads 0x1 instead of 0x2".to_owned()));
    }
}
