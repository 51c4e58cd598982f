//! Our own panics: one line for the user, the backtrace in a file, and a status that bisecting skips.

use std::backtrace::Backtrace;
use std::fs;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};

use kiln::rootfs::cache::Cache;

use crate::exit::Exit;

/// Replaces the standard hook, which would print a report of many lines, for every thread.
pub(crate) fn install() {
    panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::force_capture();
        let went = match save(&Cache::look().root().join("panics"), info, &backtrace)
            .or_else(|_| save(&std::env::temp_dir(), info, &backtrace))
        {
            Ok(path) => format!("backtrace in {}", path.display()),
            Err(error) => format!("no backtrace, it can't be written: {error}"),
        };
        // Not `eprintln!`: with standard error gone that would panic inside the hook, and abort.
        let _ = writeln!(io::stderr(), "error: kiln itself failed: {}; {went}", one_line(&info.to_string()));
    }));
}

/// Runs `body`; a panic in it ends in [`Exit::UNTESTABLE`], the rustc-made status 101 never.
pub(crate) fn guard(body: impl FnOnce() -> Exit) -> Exit {
    // Nothing is looked at after the unwinding: the process ends.
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(Exit::UNTESTABLE)
}

fn save(folder: &Path, info: &PanicHookInfo<'_>, backtrace: &Backtrace) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("kiln-panic-{}.txt", std::process::id()));
    // Appended to: several threads may panic, one after another.
    let mut file = fs::OpenOptions::new().append(true).create(true).open(&path)?;
    writeln!(file, "{info}\n{backtrace}")?;
    Ok(path)
}

/// `text` with every run of white space made one space.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the process that is to panic.
    const CHILD: &str = "KILN_TEST_PANICS";

    #[test]
    fn panic_is_one_line_that_names_the_file_with_the_backtrace() {
        if std::env::var_os(CHILD).is_some() {
            install();
            std::process::exit(guard(|| panic!("on\n purpose")).code().into());
        }
        let cache = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::tests::panic_is_one_line_that_names_the_file_with_the_backtrace"])
            .envs([(CHILD, "1".as_ref()), ("KILN_CACHE", cache.path().as_os_str())])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("on purpose; backtrace in "), "{said}");
        let file = said.trim_end().rsplit(' ').next().unwrap();
        assert!(fs::read_to_string(file).unwrap().contains("crash::tests"));
    }

    #[test]
    fn panic_in_a_command_ends_in_the_status_that_bisecting_skips() {
        assert_eq!(guard(|| panic!("on purpose")), Exit::UNTESTABLE);
        assert_eq!(guard(|| Exit::status(42)), Exit::status(42));
    }
}
