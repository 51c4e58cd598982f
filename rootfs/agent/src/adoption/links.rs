//! What is on one file system, made to be seen in another.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What a new ext4 has, and no other file system needs.
const LOST_FOUND: &str = "lost+found";

/// Links all that is below `from` to the same places below `to`: folders are made, files are links to them, links are
/// copied. What is there already stays, and so does what is below a file that is there.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == LOST_FOUND {
            continue;
        }
        let (from, to) = (entry.path(), to.join(&name));
        let kind = entry.file_type()?;
        let made = if kind.is_dir() {
            match fs::create_dir(&to) {
                // One that was made just now, or was there, which a link may lead to.
                Ok(()) => link(&from, &to),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => link(&from, &to),
                other => other,
            }
        } else if kind.is_symlink() {
            fs::read_link(&from).and_then(|target| symlink(target, &to))
        } else if kind.is_file() {
            symlink(&from, &to)
        } else {
            Ok(())
        };
        match made.as_ref().map_err(io::Error::kind) {
            // The last two: what is in the place of a folder is a file, or a link that leads nowhere.
            Err(io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {}
            _ => made?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kiln-links-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, path: &str, content: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_seen_at_their_places_and_links_stay_links() {
        let (disk, root) = (Scratch::new("disk"), Scratch::new("root"));
        disk.put("usr/lib/deep/libx.so.1.2", "library");
        disk.put("home/who/target/program", "program");
        disk.put("lost+found/what", "");
        symlink("libx.so.1.2", disk.0.join("usr/lib/deep/libx.so")).unwrap();
        link(&disk.0, &root.0).unwrap();
        assert_eq!(root.read("home/who/target/program"), "program");
        assert_eq!(root.read("usr/lib/deep/libx.so"), "library");
        let target = fs::read_link(root.0.join("usr/lib/deep/libx.so")).unwrap();
        assert_eq!(target, Path::new("libx.so.1.2"));
        assert!(!root.0.join("lost+found").exists());
        // Once more changes nothing.
        link(&disk.0, &root.0).unwrap();
        assert_eq!(root.read("home/who/target/program"), "program");
    }

    #[test]
    fn what_is_there_stays_and_links_to_folders_are_followed() {
        let (disk, root) = (Scratch::new("over-disk"), Scratch::new("over-root"));
        for path in ["lib/libc.so", "lib/other.so", "etc/passwd", "bin/deep/tool", "gone/x", "z"] {
            disk.put(path, "the disk's");
        }
        root.put("usr/lib/libc.so", "the root's");
        root.put("etc/passwd", "the root's");
        // A file, and a link that leads nowhere, where the disk has folders.
        root.put("bin/deep", "the root's");
        symlink("usr/lib", root.0.join("lib")).unwrap();
        symlink("nowhere", root.0.join("gone")).unwrap();
        link(&disk.0, &root.0).unwrap();
        assert_eq!(root.read("usr/lib/libc.so"), "the root's");
        assert_eq!(root.read("usr/lib/other.so"), "the disk's");
        assert_eq!(root.read("etc/passwd"), "the root's");
        assert_eq!(root.read("bin/deep"), "the root's");
        // It went on behind what it left alone.
        assert_eq!(root.read("z"), "the disk's");
    }
}
