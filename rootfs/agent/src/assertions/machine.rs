//! The guest is the machine that its host described.

use std::fs;

use super::{Case, Outcome};

pub(super) const CASES: &[Case] = &[
    ("kernel::command_line_describes_the_machine", command_line_describes_the_machine),
    ("cpus::all_come_online", all_come_online),
    ("memory::is_what_was_given", is_what_was_given),
];

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"))
}

/// The value of `name=` on a kernel command line.
fn parameter(cmdline: &str, name: &str) -> Option<String> {
    cmdline.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn given(name: &str) -> Result<u64, String> {
    let value =
        parameter(&read("/proc/cmdline")?, name).ok_or_else(|| format!("/proc/cmdline has no {name}="))?;
    let digits = value.strip_suffix('M').unwrap_or(&value);
    digits.parse().map_err(|_| format!("{name}={value} is no number"))
}

fn command_line_describes_the_machine() -> Outcome {
    given("kiln.cpus")?;
    given("kiln.mem").map(drop)
}

/// How many numbers a list such as `0-3,5` has.
fn count(list: &str) -> Option<u64> {
    list.trim().split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn all_come_online() -> Outcome {
    let expected = given("kiln.cpus")?;
    let online = match fs::read_to_string("/sys/devices/system/cpu/online") {
        Ok(list) => count(&list).ok_or_else(|| format!("the list of online CPUs reads {list:?}"))?,
        // A kernel for one CPU alone.
        Err(_) => {
            let cpus = read("/proc/cpuinfo")?;
            cpus.lines().filter(|line| line.starts_with("processor")).map(|_| 1).sum()
        }
    };
    if online == expected { Ok(()) } else { Err(format!("{online} of {expected} CPUs are online")) }
}

/// `MemTotal` in KiB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn is_what_was_given() -> Outcome {
    let given = given("kiln.mem")?.saturating_mul(1024);
    let total = total(&read("/proc/meminfo")?).ok_or("/proc/meminfo has no MemTotal")?;
    // The kernel keeps a part for itself, and of a small machine a large one.
    if total <= given && total.saturating_mul(5) > given.saturating_mul(3) {
        Ok(())
    } else {
        Err(format!("the kernel manages {total} KiB of {given} KiB"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_whole_words() {
        let line = "console=ttyS0 xkiln.cpus=9 kiln.cpus=2 kiln.mem=256M\n";
        assert_eq!(parameter(line, "kiln.cpus").as_deref(), Some("2"));
        assert_eq!(parameter(line, "kiln.mem").as_deref(), Some("256M"));
        assert_eq!(parameter(line, "kiln"), None);
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-3,5,7-8\n"), Some(7));
        assert_eq!(count("3-0"), None);
        assert_eq!(count(""), None);
    }

    #[test]
    fn total_memory_is_found() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:         245760 kB\n"), Some(245_760));
        assert_eq!(total(""), None);
    }
}
