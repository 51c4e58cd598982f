//! From what is asked for to the files of an image.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::tree::{Node, Source, Tree, wrong};
use super::{AGENT_PATH, DiskSpec, ImageSpec, MODULES_LIST, base};
use crate::elf::{self, Linker};
use crate::{Error, busybox};

/// Where a shell looks for programs.
const PATH: &[&str] = &["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
/// Deeper folders are a mistake.
const DEEPEST: usize = 100;

/// Folders go first, for their links decide where other things come to be; what every image has goes last.
pub(super) fn collect(spec: &ImageSpec) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for (host, inside) in &spec.dirs {
        folder(&mut tree, host, inside, DEEPEST)?;
    }
    for (host, inside) in &spec.files {
        tree.put(inside, file(host)?)?;
    }
    init(&mut tree, spec)?;
    for program in &spec.execs {
        exec(&mut tree, program)?;
    }
    modules(&mut tree, spec)?;
    base::folders(&mut tree)?;
    base::configuration(&mut tree, spec.hostname.as_deref().unwrap_or("kiln"))?;
    if let Some(program) = &spec.busybox {
        tree.put("/bin/busybox", executable(program)?)?;
        for applet in busybox::applets(program)? {
            if applet != "bin/busybox" {
                tree.put_if_free(&format!("/{applet}"), Node::link("/bin/busybox"))?;
            }
        }
        base::busybox(&mut tree, spec.agent.is_some())?;
    }
    Ok(tree)
}

/// Programs with what they need, and files; nothing else.
pub(super) fn of_disk(spec: &DiskSpec) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for (host, inside) in &spec.files {
        tree.put(inside, file(host)?)?;
    }
    for program in &spec.execs {
        let (path, inside) = own_path(program)?;
        with_needs(&mut tree, &path, &inside)?;
    }
    Ok(tree)
}

fn init(tree: &mut Tree, spec: &ImageSpec) -> Result<(), Error> {
    if let Some(agent) = &spec.agent {
        tree.put(AGENT_PATH, executable(agent)?)?;
    }
    match (&spec.init, &spec.agent) {
        (Some(init), _) => with_needs(tree, init, "/init"),
        (None, Some(_)) => tree.put("/init", Node::link(AGENT_PATH)),
        (None, None) => Ok(()),
    }
}

/// Where a program is on this host, and so in the guest.
fn own_path(program: &Path) -> Result<(PathBuf, String), Error> {
    // The folder as it is, whatever `..` and links lead to it; the program under the name that was given.
    let path = std::path::absolute(program).map_err(Error::io("resolve", program))?;
    let path = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => {
            fs::canonicalize(folder).map_err(Error::io("find", program))?.join(name)
        }
        _ => path,
    };
    match path.to_str() {
        Some(inside) => Ok((path.clone(), inside.to_owned())),
        None => Err(Error::file(&path, "a program's path in an image is UTF-8")),
    }
}

/// A program at its own path, and in `/bin` too if no shell would find it there.
fn exec(tree: &mut Tree, program: &Path) -> Result<(), Error> {
    let (path, inside) = own_path(program)?;
    with_needs(tree, &path, &inside)?;
    let folder = path.parent().and_then(Path::to_str).unwrap_or("/");
    if let Some(name) = path.file_name().and_then(|name| name.to_str())
        && !PATH.contains(&folder)
    {
        tree.put_if_free(&format!("/bin/{name}"), Node::link(&*inside))?;
    }
    Ok(())
}

/// A program with its interpreter and libraries.
fn with_needs(tree: &mut Tree, program: &Path, inside: &str) -> Result<(), Error> {
    tree.put(inside, executable(program)?)?;
    if let Some(interpreter) = script_interpreter(program)? {
        for (host, inside) in elf::closure(Path::new(&interpreter))? {
            tree.put(&inside, executable(&host)?)?;
        }
        return Ok(());
    }
    for (host, inside) in Linker::of_host().closure(program, inside)?.iter().skip(1) {
        tree.put(inside, executable(host)?)?;
    }
    Ok(())
}

fn script_interpreter(program: &Path) -> Result<Option<String>, Error> {
    let mut start = Vec::new();
    let file = fs::File::open(program).map_err(Error::io("open", program))?;
    file.take(256).read_to_end(&mut start).map_err(Error::io("read", program))?;
    let Some(line) = start.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    match line.split_whitespace().next() {
        Some(interpreter) if interpreter.starts_with('/') => Ok(Some(interpreter.to_owned())),
        _ => Err(Error::file(program, "its first line names no interpreter")),
    }
}

fn modules(tree: &mut Tree, spec: &ImageSpec) -> Result<(), Error> {
    if spec.modules.is_empty() {
        return Ok(());
    }
    if spec.release.is_empty() || spec.release.contains('/') {
        return Err(wrong("/lib/modules", "it has modules but no kernel's release"));
    }
    let mut list = String::new();
    for module in &spec.modules {
        let path = format!("/lib/modules/{}/{}", spec.release, module.path);
        tree.put(
            &path,
            Node::File { source: Source::Bytes(module.read_for(&spec.release)?), executable: false },
        )?;
        list.push_str(&path);
        list.push('\n');
    }
    tree.put(MODULES_LIST, Node::text(list))
}

/// A file of this host, read-only or executable as it is here.
fn file(host: &Path) -> Result<Node, Error> {
    let metadata = fs::metadata(host).map_err(Error::io("find", host))?;
    if metadata.is_dir() {
        return Err(Error::file(host, "a folder where a file is asked for: give it as a folder"));
    }
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let what = match () {
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a device",
        };
        return Err(Error::file(
            host,
            format!("{what}: an image takes only files, folders and links from a host"),
        ));
    }
    let host = std::path::absolute(host).map_err(Error::io("resolve", host))?;
    Ok(Node::File { source: Source::Host(host), executable: metadata.permissions().mode() & 0o111 != 0 })
}

fn executable(host: &Path) -> Result<Node, Error> {
    match file(host)? {
        Node::File { source, .. } => Ok(Node::File { source, executable: true }),
        other => Ok(other),
    }
}

/// A folder with all that is in it; links stay links.
fn folder(tree: &mut Tree, host: &Path, inside: &str, depth: usize) -> Result<(), Error> {
    if depth == 0 {
        return Err(Error::file(host, "folders this deep are a mistake"));
    }
    let metadata = fs::metadata(host).map_err(Error::io("find", host))?;
    if !metadata.is_dir() {
        return Err(Error::file(host, "a file where a folder is asked for: give it as a file"));
    }
    // A folder like /tmp stays so; all else would differ with the umask of whoever made it.
    let sticky = metadata.permissions().mode() & 0o1000 != 0;
    let mode = if sticky { 0o1777 } else { 0o755 };
    tree.put(inside, Node::Dir { mode })?;
    let mut entries = fs::read_dir(host)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(Error::io("read", host))?;
    // Links first: they decide where what is beside them comes to be.
    entries.sort_by_key(|entry| (!entry.file_type().is_ok_and(|kind| kind.is_symlink()), entry.file_name()));
    for entry in entries {
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::file(&path, "a name in an image is UTF-8"));
        };
        let inside = format!("{}/{name}", inside.trim_end_matches('/'));
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(Error::io("read", &path))?;
            let Some(target) = target.to_str() else {
                return Err(Error::file(&path, "a link's target in an image is UTF-8"));
            };
            tree.put(&inside, Node::link(target))?;
        } else if kind.is_dir() {
            folder(tree, &path, &inside, depth - 1)?;
        } else {
            tree.put(&inside, file(&path)?)?;
        }
    }
    Ok(())
}
