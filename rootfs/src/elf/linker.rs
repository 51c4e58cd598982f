//! Where the dynamic linker looks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Object;
use crate::Error;

/// Where linkers look by themselves, by distribution.
const DEFAULT: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
const CONFIG: &str = "/etc/ld.so.conf";
/// Deeper includes are a circle.
const DEEPEST: usize = 8;

/// A folder as this host has it, and as the guest will.
type Folder = (PathBuf, String);

/// The folders that libraries are looked for in, after those that the programs name.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    folders: Vec<Folder>,
}

impl Linker {
    /// As this host's own linker has them.
    pub(crate) fn of_host() -> Self {
        // A guest has no `ld.so.cache`: what is found by configuration goes where its linker looks unasked.
        let home = DEFAULT.iter().find(|folder| Path::new(folder).is_dir()).copied().unwrap_or("/lib");
        let mut listed = Vec::new();
        configured(Path::new(CONFIG), DEEPEST, &mut listed);
        let guest_of =
            |folder: &str| if DEFAULT.contains(&folder) { folder.to_owned() } else { home.to_owned() };
        let mut folders: Vec<Folder> =
            listed.into_iter().map(|folder| (PathBuf::from(&folder), guest_of(&folder))).collect();
        folders.extend(DEFAULT.iter().map(|folder| (PathBuf::from(folder), (*folder).to_owned())));
        Self { folders }
    }

    /// These folders only, at the same paths in the guest.
    pub(crate) fn within(folders: &[PathBuf]) -> Self {
        Self {
            folders: folders
                .iter()
                .map(|folder| (folder.clone(), folder.to_string_lossy().into_owned()))
                .collect(),
        }
    }

    /// The file at `path`, to be at `inside` in the guest, and all that it needs.
    pub(crate) fn closure(&self, path: &Path, inside: &str) -> Result<Vec<(PathBuf, String)>, Error> {
        let mut walk = Walk { linker: self, files: Vec::new(), seen: BTreeSet::new() };
        let object = Object::read(path)?;
        let interpreter = object.interpreter.clone();
        walk.add(path, inside, object, &[])?;
        if let Some(interpreter) = interpreter
            && !walk.files.iter().any(|(_, inside)| *inside == interpreter)
        {
            let host = PathBuf::from(&interpreter);
            fs::metadata(&host).map_err(Error::io("find the interpreter", &host))?;
            walk.files.push((host, interpreter));
        }
        Ok(walk.files)
    }
}

struct Walk<'a> {
    linker: &'a Linker,
    files: Vec<(PathBuf, String)>,
    /// By name: the linker loads a library once, whoever else asks for it.
    seen: BTreeSet<String>,
}

impl Walk<'_> {
    fn add(&mut self, path: &Path, inside: &str, object: Object, inherited: &[Folder]) -> Result<(), Error> {
        self.files.push((path.to_owned(), inside.to_owned()));
        let real = path.canonicalize().map_err(Error::io("resolve", path))?;
        let folder_of = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let (here, there) = (folder_of(&real), folder_of(Path::new(inside)));
        let expand = |folders: &[String]| -> Vec<Folder> {
            folders
                .iter()
                .map(|one| (PathBuf::from(origin(one, &here)), normal(&origin(one, &there))))
                .collect()
        };
        let mut rpath = expand(&object.rpath);
        rpath.extend_from_slice(inherited);
        let runpath = expand(&object.runpath);
        for name in object.needed {
            if !self.seen.insert(name.clone()) {
                continue;
            }
            let search = rpath.iter().chain(&runpath).chain(&self.linker.folders);
            let candidates: Vec<Folder> = if name.contains('/') {
                vec![(PathBuf::from(&name), normal(&name))]
            } else {
                search
                    .map(|(host, guest)| {
                        (host.join(&name), format!("{}/{name}", guest.trim_end_matches('/')))
                    })
                    .collect()
            };
            // A library for another machine is passed over, as the linker does.
            let found = candidates
                .into_iter()
                .filter(|(host, _)| host.is_file())
                .find_map(|(host, guest)| Object::read(&host).ok().map(|object| (host, guest, object)));
            let Some((host, guest, object)) = found else {
                return Err(Error::NoLibrary { library: name, program: path.to_owned() });
            };
            self.add(&host, &guest, object, &rpath)?;
        }
        Ok(())
    }
}

/// What the linker puts for `$ORIGIN` and the like.
fn origin(folder: &str, origin: &str) -> String {
    let replaced = folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin);
    replaced.replace("${LIB}", "lib/x86_64-linux-gnu").replace("$LIB", "lib/x86_64-linux-gnu")
}

/// A path without `.` and `..`: the guest's folders have no links among them.
fn normal(path: &str) -> String {
    let mut normal = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal.to_string_lossy().into_owned()
}

/// The folders of such a configuration and of those that it includes.
fn configured(path: &Path, depth: usize, folders: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(pattern) =
            line.strip_prefix("include").filter(|rest| rest.starts_with(char::is_whitespace))
        {
            if depth > 0 {
                let base = path.parent().unwrap_or(Path::new("/"));
                included(&base.join(pattern.trim()))
                    .iter()
                    .for_each(|path| configured(path, depth - 1, folders));
            }
        } else if line.starts_with('/') {
            let folder = line.trim_end_matches('/');
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
    }
}

/// The files that `FOLDER/PREFIX*SUFFIX` stands for, in order.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let Some((prefix, suffix)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let fits = |name: &str| {
        name.len() >= prefix.len() + suffix.len() && name.starts_with(prefix) && name.ends_with(suffix)
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(fits))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_include_others() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("ld.so.conf", "include d*.conf # all\n/opt/a/\nrelative\ninclude ld.so.conf\n");
        write("d2.conf", "/opt/c\n");
        write("d1.conf", "# none\n/opt/b\n/opt/a\n");
        let mut folders = Vec::new();
        configured(&dir.path().join("ld.so.conf"), DEEPEST, &mut folders);
        assert_eq!(folders, ["/opt/b", "/opt/a", "/opt/c"]);
    }

    #[test]
    fn origin_is_the_files_own_folder() {
        assert_eq!(normal(&origin("$ORIGIN/../lib", "/opt/x/bin")), "/opt/x/lib");
        assert_eq!(normal(&origin("${ORIGIN}/../../../..", "/opt")), "/");
    }

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        let own = std::env::current_exe().unwrap();
        let error = Linker::within(&[]).closure(&own, "/x").unwrap_err().to_string();
        assert!(error.contains("its shared library lib") && error.ends_with("was not found"), "{error}");
    }
}
