//! The headers by which the kernel begins a report.

use crate::verdict::Verdict;

/// Names the class of kernel report that `line` begins, if it begins one.
///
/// `line` is one console line without its end. Only what stands at the start of the kernel's message
/// counts (after a time stamp, a caller tag and a subsystem prefix), so that a report quoted in the middle
/// of a sentence is not taken for one.
#[must_use]
pub fn classify(line: &str) -> Option<Verdict> {
    let message = strip_prefixes(line);
    let known = HEADERS.iter().find(|(header, _)| message.starts_with(header)).map(|&(_, verdict)| verdict);
    known
        .or_else(|| {
            // Since 6.19 `WARN()` names the place first: `WARNING: mm/slub.c:1 at f+0x1/0x2, CPU#0: task/1`.
            let place = message.strip_prefix("WARNING: ")?.split_once(" at ")?.1;
            place.contains(", CPU#").then_some(Verdict::Warning)
        })
        .or_else(|| {
            let leaks = message.ends_with("suspected memory leaks (see /sys/kernel/debug/kmemleak)");
            leaks.then_some(Verdict::Leak)
        })
}

/// In order: a more exact header stands before the general one that it begins with.
const HEADERS: &[(&str, Verdict)] = &[
    ("Kernel panic - not syncing", Verdict::Panic),
    // Sanitizers (Documentation/dev-tools/{kasan,kmsan,kcsan,ubsan,kfence}.rst).
    ("BUG: KASAN:", Verdict::Sanitizer),
    ("BUG: KMSAN:", Verdict::Sanitizer),
    ("BUG: KCSAN:", Verdict::Sanitizer),
    ("BUG: KFENCE:", Verdict::Sanitizer),
    ("UBSAN:", Verdict::Sanitizer),
    // Leaks (Documentation/dev-tools/kmemleak.rst).
    ("BUG: memory leak", Verdict::Leak),
    // Stalls (Documentation/RCU/stallwarn.rst, Documentation/admin-guide/lockup-watchdogs.rst).
    ("BUG: soft lockup", Verdict::Stall),
    ("BUG: workqueue lockup", Verdict::Stall),
    ("Watchdog detected hard LOCKUP", Verdict::Stall),
    ("INFO: rcu_", Verdict::Stall),
    ("INFO: task ", Verdict::Stall),
    // Locking and RCU validators (Documentation/locking/lockdep-design.rst).
    ("WARNING: possible circular locking dependency", Verdict::Lockdep),
    ("WARNING: possible irq lock inversion dependency", Verdict::Lockdep),
    ("WARNING: possible recursive locking", Verdict::Lockdep),
    ("WARNING: inconsistent lock state", Verdict::Lockdep),
    ("WARNING: suspicious RCU usage", Verdict::Lockdep),
    ("WARNING: bad unlock balance", Verdict::Lockdep),
    ("WARNING: HARDIRQ-", Verdict::Lockdep),
    ("WARNING: SOFTIRQ-", Verdict::Lockdep),
    ("WARNING: held lock freed", Verdict::Lockdep),
    ("WARNING: lock held when returning to user space", Verdict::Lockdep),
    ("WARNING: Nested lock was not taken", Verdict::Lockdep),
    ("INFO: trying to register non-static key", Verdict::Lockdep),
    ("BUG: Invalid wait context", Verdict::Lockdep),
    ("[ BUG: Invalid wait context ]", Verdict::Lockdep),
    // Faults (arch/x86/mm/fault.c, arch/x86/kernel/dumpstack.c, arch/x86/kernel/traps.c).
    ("BUG: unable to handle", Verdict::Oops),
    ("BUG: kernel NULL pointer dereference", Verdict::Oops),
    ("BUG: TASK stack guard page was hit", Verdict::Oops),
    ("BUG: stack guard page was hit", Verdict::Oops),
    ("general protection fault", Verdict::Oops),
    ("stack segment", Verdict::Oops),
    ("divide error", Verdict::Oops),
    ("double fault:", Verdict::Oops),
    ("invalid opcode:", Verdict::Oops),
    ("Oops", Verdict::Oops),
    // Broken invariants.
    ("kernel BUG at", Verdict::Bug),
    ("BUG:", Verdict::Bug),
    // Warnings: `WARN()` prints the CPU or, on newer kernels, the place.
    ("WARNING: CPU:", Verdict::Warning),
    ("WARNING: at ", Verdict::Warning),
];

/// The subsystems whose `pr_fmt` stands before a report.
const SUBSYSTEMS: &[&str] = &["rcu: ", "watchdog: ", "NMI watchdog: ", "kmemleak: ", "traps: "];

/// Takes off what printk puts before a message: `[   12.345678]`, `[    T1]` or `[  C0]`, `<4>`, and a
/// subsystem's prefix.
fn strip_prefixes(line: &str) -> &str {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix('<').and_then(|r| r.split_once('>'))
        && after.0.len() <= 3
        && after.0.bytes().all(|b| b.is_ascii_digit())
    {
        rest = after.1;
    }
    for is_tag in [is_time as fn(&str) -> bool, is_caller] {
        if let Some((tag, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']'))
            && is_tag(tag.trim())
        {
            rest = after.trim_start();
        }
    }
    for subsystem in SUBSYSTEMS {
        rest = rest.strip_prefix(subsystem).unwrap_or(rest);
    }
    // A watchdog of a newer kernel names its CPU.
    if let Some((cpu, after)) = rest.split_once(": ")
        && cpu.strip_prefix("CPU").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    {
        rest = after;
    }
    rest
}

fn is_time(tag: &str) -> bool {
    tag.contains('.') && tag.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn is_caller(tag: &str) -> bool {
    tag.strip_prefix(['T', 'C']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_line_is_a_panic_with_and_without_a_time_stamp() {
        let line = "Kernel panic - not syncing: VFS: Unable to mount root fs";
        assert_eq!(classify(line), Some(Verdict::Panic));
        assert_eq!(classify(&format!("[    1.234567] {line}")), Some(Verdict::Panic));
        assert_eq!(classify(&format!("[    1.234567][    T1] {line}")), Some(Verdict::Panic));
        assert_eq!(classify(&format!("<0>[    1.234567] {line}")), Some(Verdict::Panic));
    }

    #[test]
    fn exact_headers_win_over_general_ones() {
        assert_eq!(classify("[ 1.0] BUG: KASAN: use-after-free in foo"), Some(Verdict::Sanitizer));
        assert_eq!(classify("[ 1.0] BUG: kernel NULL pointer dereference, address: 0"), Some(Verdict::Oops));
        assert_eq!(classify("[ 1.0] BUG: scheduling while atomic: a/1/0x2"), Some(Verdict::Bug));
        assert_eq!(classify("[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck"), Some(Verdict::Stall));
        assert_eq!(classify("[ 1.0] rcu: INFO: rcu_preempt detected stalls"), Some(Verdict::Stall));
        assert_eq!(classify("[ 1.0] WARNING: possible recursive locking detected"), Some(Verdict::Lockdep));
        assert_eq!(classify("[ 1.0] WARNING: CPU: 0 PID: 1 at mm/slub.c:1"), Some(Verdict::Warning));
        assert_eq!(classify("[ 1.0] WARNING: at fs/x.c:3"), Some(Verdict::Warning));
        let newer = "[ 1.0] WARNING: mm/slub.c:1 at f+0x1/0x2, CPU#0: swapper/1";
        assert_eq!(classify(newer), Some(Verdict::Warning));
        assert_eq!(
            classify("[ 1.0] watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3"),
            Some(Verdict::Stall)
        );
        let order = "[ 1.0] WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected";
        assert_eq!(classify(order), Some(Verdict::Lockdep));
        let leaks = "[ 1.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)";
        assert_eq!(classify(leaks), Some(Verdict::Leak));
    }

    #[test]
    fn ordinary_lines_are_no_reports() {
        for line in [
            "",
            "[    0.000000] Linux version 6.1.0",
            "[    0.1] PCI: Fatal: No config space access function found",
            "[    0.2] Booting with debug: say BUG: if you can",
            "a program says Kernel panic - not syncing",
            "WARNING: this is a program's own words",
        ] {
            assert_eq!(classify(line), None, "{line}");
        }
    }
}
