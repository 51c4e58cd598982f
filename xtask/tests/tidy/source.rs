//! The files of this repository.

use std::fs;
use std::path::Path;

/// A text file.
pub(crate) struct File {
    /// Relative to the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every text file that people write, in the order of the paths: not what is built, not the lock file, not
/// what was recorded elsewhere.
pub(crate) fn all(root: &Path) -> Vec<File> {
    let mut files = Vec::new();
    walk(root, root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 20, "the walk went wrong: {} files", files.len());
    files
}

/// Every Rust source file.
pub(crate) fn rust(root: &Path) -> Vec<File> {
    let mut files = all(root);
    files.retain(|file| file.path.ends_with(".rs"));
    files
}

/// The text of one file.
pub(crate) fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first line with one of `words`, for people.
pub(crate) fn line_with(text: &str, words: &[&str]) -> Option<String> {
    text.lines().enumerate().find_map(|(number, line)| {
        let word = words.iter().find(|word| line.contains(**word))?;
        Some(format!("line {} has {word}", number + 1))
    })
}

fn walk(folder: &Path, root: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            // `target` has a mark that says so, wherever a user keeps one.
            let built = path.join("CACHEDIR.TAG").exists() || name == "target";
            if !built && name != ".git" && !path.ends_with("fixtures/consoles") {
                walk(&path, root, files);
            }
        } else if kind.is_file() && is_text(&name) {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.push(File { path, text });
        }
    }
}

fn is_text(name: &str) -> bool {
    let written = ["rs", "toml", "md", "yml", "yaml", "sh", "S", "json"];
    name.rsplit_once('.').is_some_and(|(_, extension)| written.contains(&extension)) || name == "run"
}
