//! The guest's agent: built once for each state of its sources, the same bytes wherever that is.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Key};
use crate::child;
use crate::distro::{is_absent, run};
use crate::progress::Progress;
use crate::{Error, workspace};

/// Names an agent that is built already.
pub const VARIABLE: &str = "KILN_AGENT";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const NAME: &str = "kiln-agent";
/// What the agent is built from, in the workspace.
const SOURCES: &[&str] = &["Cargo.lock", "Cargo.toml", "rootfs/agent", "rootfs/protocol"];
/// What of the user's settings for cargo and rustc would change what is built.
const SETTINGS: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_ENCODED_",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "RUSTC",
    "RUSTFLAGS",
];

/// The agent that `KILN_AGENT` names, else one built from the sources that this was compiled from.
///
/// # Errors
/// The sources are gone, or don't build.
pub fn build(cache: &Cache, progress: &dyn Progress) -> Result<PathBuf, Error> {
    if let Some(chosen) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let path = std::path::absolute(&chosen).map_err(Error::io("resolve", &chosen))?;
        if !path.is_file() {
            return Err(Error::file(&path, format!("{VARIABLE} names it, and it is not there")));
        }
        return Ok(path);
    }
    let workspace = workspace();
    if !workspace.join("rootfs/agent/Cargo.toml").is_file() {
        return Err(Error::file(
            workspace,
            format!(
                "the agent's sources are no longer here: build this program again, or name an agent in {VARIABLE}"
            ),
        ));
    }
    let compiler = compiler(cache, workspace)?;
    let mut key = Key::new("agent-1").field("rustc", &compiler);
    for path in sources(workspace)? {
        let label = path.strip_prefix(workspace).unwrap_or(&path).to_string_lossy().into_owned();
        key = key.file(&label, &path)?;
    }
    let entry = cache.entry("agent", &key, |dir| compile(cache, workspace, dir, progress))?;
    Ok(entry.join(NAME))
}

/// What rustc says of its version. Under `cargo` the toolchain is known, and asked only once: it takes rustup longer to
/// find than all else here.
fn compiler(cache: &Cache, workspace: &Path) -> Result<Vec<u8>, Error> {
    let ask = || {
        let output = run(clean("rustc").arg("-vV").current_dir(workspace), "-vV");
        output.map(|output| output.stdout).map_err(|error| match error {
            absent if is_absent(&absent) => Error::file(
                workspace,
                format!("the agent can't be built from here without rustc: install Rust, or name an agent in {VARIABLE}"),
            ),
            other => other,
        })
    };
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (Some(home), Some(toolchain)) = (variable("RUSTUP_HOME"), variable("RUSTUP_TOOLCHAIN")) else {
        return ask();
    };
    let Ok(rustc) = fs::metadata(home.join("toolchains").join(toolchain).join("bin/rustc")) else {
        return ask();
    };
    let identity =
        format!("{} {} {} {}.{}", rustc.dev(), rustc.ino(), rustc.size(), rustc.mtime(), rustc.mtime_nsec());
    let key = Key::new("rustc-1").field("identity", identity.as_bytes());
    let entry = cache.entry("rustc", &key, |dir| {
        let path = dir.join("version");
        fs::write(&path, ask()?).map_err(Error::io("write", &path))
    })?;
    let path = entry.join("version");
    fs::read(&path).map_err(Error::io("read", &path))
}

fn compile(cache: &Cache, workspace: &Path, to: &Path, progress: &dyn Progress) -> Result<(), Error> {
    let target = cache.tmp().join("agent-target");
    let _lock = cache.lock("agent-target")?;
    progress.note("building the guest's agent…");
    let cargo = std::env::var_os("CARGO").filter(|value| !value.is_empty()).unwrap_or_else(|| "cargo".into());
    let mut command = clean(cargo);
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "agent",
        "--package",
        NAME,
        "--target",
        TARGET,
    ]);
    command.arg("--target-dir").arg(&target).current_dir(workspace);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(workspace));
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "cc");
    command.env("CARGO_INCREMENTAL", "0").env("CARGO_TERM_COLOR", "never");
    run(&mut command, "build --package kiln-agent")?;
    let built = target.join(TARGET).join("agent").join(NAME);
    let place = to.join(NAME);
    fs::copy(&built, &place).map_err(Error::io("copy", &built)).map(drop)
}

/// Static, and without the paths of whoever builds it.
fn flags(workspace: &Path) -> OsString {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    let mut hide = |path: &Path, name: &str| {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(name);
    };
    let home = std::env::var_os("CARGO_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))) {
        hide(&home, "/cargo");
    }
    // The last that fits is taken: a workspace may be below cargo's home.
    hide(workspace, "/kiln");
    flags
}

/// A command without the settings that would change what is built.
fn clean(program: impl Into<OsString>) -> Command {
    let mut command = child::command(program.into());
    for (name, _) in std::env::vars_os() {
        if SETTINGS.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}

/// All files that the agent is built from, in order.
fn sources(workspace: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut todo: Vec<PathBuf> = SOURCES.iter().map(|path| workspace.join(path)).collect();
    while let Some(path) = todo.pop() {
        // The lock file of a workspace that was never built is not there yet.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).map_err(Error::io("read", &path))?;
            todo.extend(entries.flatten().map(|entry| entry.path()));
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_the_agents_and_the_protocols() {
        let files = sources(workspace()).unwrap();
        assert!(files.iter().any(|path| path.ends_with("rootfs/agent/src/main.rs")));
        assert!(files.iter().any(|path| path.ends_with("rootfs/protocol/src/wire.rs")));
        assert!(files.iter().all(|path| !path.ends_with("rootfs/src/lib.rs")));
    }

    #[test]
    fn flags_hide_where_it_is_built() {
        let flags = flags(Path::new("/some/where")).into_string().unwrap();
        let words: Vec<_> = flags.split('\u{1f}').collect();
        assert_eq!(words.first(), Some(&"-Ctarget-feature=+crt-static"));
        assert_eq!(words.last(), Some(&"--remap-path-prefix=/some/where=/kiln"));
    }
}
