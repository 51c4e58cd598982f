//! The rules of the house that no compiler checks.

mod tidy {
    pub(crate) mod arrows;
    pub(crate) mod source;
}

use std::path::Path;
use std::process::Command;

use tidy::source::{self, File};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace's folder")
}

/// Asserts that `faults` is empty, and shows all of it if not.
#[track_caller]
fn assert_none(faults: Vec<String>, rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

fn faults_of(files: &[File], fault: impl Fn(&File) -> Option<String>) -> Vec<String> {
    files.iter().filter_map(|file| Some(format!("{}: {}", file.path, fault(file)?))).collect()
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).unwrap();
    assert_none(tidy::arrows::faults(&metadata), "a dependency goes against the arrows");
}

#[test]
fn source_files_are_short() {
    let faults = faults_of(&source::rust(root()), |file| {
        let lines = file.text.lines().count();
        (lines >= 600).then(|| format!("{lines} lines"))
    });
    assert_none(faults, "files are split before they have 600 lines");
}

#[test]
fn source_files_begin_with_what_they_are_for() {
    let faults = faults_of(&source::rust(root()), |file| {
        let first = file.text.lines().next().unwrap_or_default();
        let said = first.strip_prefix("//! ").is_some_and(|words| words.split(' ').count() > 1);
        (!said).then(|| format!("begins with {first:?}"))
    });
    assert_none(faults, "each file begins with `//!` and a sentence: what it is responsible for");
}

#[test]
fn source_files_leave_nothing_for_later() {
    // Each is put together here, so that this file passes.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("db", "g!("),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let faults = faults_of(&source::rust(root()), |file| source::line_with(&file.text, &words));
    assert_none(faults, "what is left to do is an issue's business, and debugging leaves no trace");
}

#[test]
fn files_name_no_place_that_only_one_machine_has() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("crates", ".io"),
        concat!("deb.deb", "ian.org"),
        concat!("archive.ubu", "ntu.com"),
        concat!("/tmp/", "bash"),
    ];
    let faults = faults_of(&source::all(root()), |file| source::line_with(&file.text, &words));
    assert_none(faults, "paths of one machine and names of registries' hosts go stale");
}

#[test]
fn text_files_end_in_a_line_end_and_have_no_trailing_space() {
    let faults = faults_of(&source::all(root()), |file| {
        let number = file.text.lines().position(|line| line.ends_with([' ', '\t']));
        let trailing = number.map(|number| format!("line {} ends in a space", number + 1));
        trailing.or_else(|| (!file.text.ends_with('\n')).then(|| "its last line has no end".to_owned()))
    });
    assert_none(faults, "text is clean");
}

#[test]
fn readme_names_every_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"smoke"), "{help}");
    let readme = source::read(root(), "README.md");
    let faults = commands
        .into_iter()
        .filter(|command| *command != "help" && !readme.contains(&format!("| `{command}")))
        .map(|command| format!("{command} has no row in README.md's table"))
        .collect();
    assert_none(faults, "README.md names every command");
}

#[test]
fn readme_begins_with_the_two_commands() {
    let readme = source::read(root(), "README.md");
    let first: Vec<_> =
        readme.lines().map(str::trim).filter(|line| line.starts_with("cargo ")).take(2).collect();
    let commands: Vec<_> =
        first.iter().map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    assert_eq!(commands, ["cargo xtask smoke", "cargo xtask test"]);
}

#[test]
fn tests_that_the_architecture_names_exist() {
    let (text, files) = (source::read(root(), "ARCHITECTURE.md"), source::rust(root()));
    let rows = text.lines().skip_while(|line| *line != "| there | here | shown by |").skip(2);
    let shown_by = rows.map_while(|line| line.strip_prefix('|')?.strip_suffix('|')?.rsplit('|').next());
    let names: Vec<&str> = shown_by.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 40, "the table was not found: {names:?}");
    let exists = |name: &&str| {
        // A function, a case named by a string, or a payload, whose own name has dashes.
        let shapes = [format!("fn {name}("), format!("{name}\""), format!("\"{}\"", name.replace('_', "-"))];
        files.iter().any(|file| shapes.iter().any(|shape| file.text.contains(shape.as_str())))
    };
    let faults = names.iter().filter(|name| !exists(name)).map(|name| format!("ARCHITECTURE.md: {name}"));
    assert_none(faults.collect(), "a test is named that is not there");
}
