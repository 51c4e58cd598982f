//! What can't become an image: one clear line each, and nothing of it is left in the cache.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

/// Asserts that in no format such an image can be had, for a reason that has `words` in it, and that the cache
/// is as it was.
#[track_caller]
fn assert_refused(spec: &ImageSpec, words: &str) {
    for (format, name) in FORMATS {
        assert_refused_as(spec, format, &format!("{name}: "), words);
    }
}

#[track_caller]
fn assert_refused_as(spec: &ImageSpec, format: Format, name: &str, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
    let error = build(&cache, spec, format).expect_err(name);
    let line = chain(&error);
    assert!(line.contains(words) && !line.contains('\n'), "{name}{line}");
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "{name}scratch is left");
    assert!(!dir.path().join("images").exists(), "{name}an entry is left");
}

/// An error with what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn with_file(host: &Path, inside: &str) -> ImageSpec {
    ImageSpec { files: vec![(host.to_owned(), inside.to_owned())], ..ImageSpec::default() }
}

fn with_dir(host: &Path) -> ImageSpec {
    ImageSpec { dirs: vec![(host.to_owned(), "/data".to_owned())], ..ImageSpec::default() }
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (host_file(dir.path(), "one", "1", 0o644), host_file(dir.path(), "two", "2", 0o644));
    let refused = |files: &[(&Path, &str)]| {
        let files = files.iter().map(|(host, inside)| ((*host).to_owned(), (*inside).to_owned())).collect();
        let spec = ImageSpec { files, ..ImageSpec::default() };
        let error = as_format(&spec, Format::default()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let twice = refused(&[(&one, "/x"), (&two, "/x")]);
    assert!(twice.contains("the image can't have /x: it would be both") && twice.contains("/two"), "{twice}");
    assert!(refused(&[(&one, "/a/../../x")]).contains("climbs"));
    assert!(refused(&[(&one, "x")]).contains("begins with /"));
    assert!(refused(&[(&one, "/")]).contains("the root is a folder"));
    assert!(refused(&[(&one, "/x"), (&two, "/x/y")]).contains("no folder"));
    assert!(refused(&[(&dir.path().join("none"), "/x")]).starts_with("failed to find /"));
    assert!(refused(&[(dir.path(), "/x")]).contains("a folder where a file is asked for"));
    assert!(refused(&[(Path::new("/dev/null"), "/x")]).contains("a device: an image takes only files"));
    image(&ImageSpec {
        files: vec![(one.clone(), "/x".into()), (one, "//x".into())],
        ..ImageSpec::default()
    });
}

#[test]
fn host_path_that_is_missing_or_goes_in_circles_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    symlink(&a, &b).unwrap();
    symlink(&b, &a).unwrap();
    assert_refused(&with_file(&dir.path().join("none"), "/x"), "No such file");
    assert_refused(&with_file(&a, "/x"), "symbolic links");
    assert_refused(&with_dir(&a), "symbolic links");
    assert_refused(&with_dir(&dir.path().join("none")), "No such file");
    assert_refused(&ImageSpec { execs: vec![a], ..ImageSpec::default() }, "symbolic links");
}

#[test]
fn links_in_a_folder_that_lead_in_a_circle_refuse_what_would_be_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    symlink("b", dir.path().join("a")).unwrap();
    symlink("a", dir.path().join("b")).unwrap();
    let one = host_file(dir.path(), "one", "1", 0o644);
    // By themselves they are links like others.
    image(&with_dir(dir.path()));
    let spec = ImageSpec { files: vec![(one, "/data/a/x".to_owned())], ..with_dir(dir.path()) };
    assert_refused(&spec, "the links on the way to it lead in a circle");
}

#[test]
fn folder_with_a_fifo_or_a_socket_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("deep/fifo");
    fs::create_dir(dir.path().join("deep")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_refused(&with_dir(dir.path()), &format!("{}: a FIFO", fifo.display()));
    fs::remove_file(&fifo).unwrap();
    let socket = dir.path().join("deep/socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_refused(&with_dir(dir.path()), &format!("{}: a socket", socket.display()));
    assert_refused(&with_file(Path::new("/dev/null"), "/x"), "/dev/null: a device");
}

/// Root may read all folders, so root becomes nobody for this.
#[test]
fn folder_that_may_not_be_read_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("closed");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
    if !rustix::process::geteuid().is_root() {
        assert_refused(&with_dir(dir.path()), &format!("failed to read {}: Permission", folder.display()));
        return;
    }
    let own = dir.path().join("own");
    fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let output = Command::new(own)
        .args([name.as_str(), "--exact"])
        .env_remove("TMPDIR")
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn names_and_paths_that_linux_has_no_room_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let one = host_file(dir.path(), "one", "1", 0o644);
    let name = "n".repeat(255);
    image(&with_file(&one, &format!("/{name}")));
    assert_refused(&with_file(&one, &format!("/a/{name}n/b")), "a name is at most 255 bytes");
    let longest = format!("/{name}").repeat(16);
    image(&with_file(&one, &longest[..4095]));
    assert_refused(&with_file(&one, &longest), "a path is at most 4095 bytes");
}

#[test]
fn file_of_4_gib_is_refused_in_an_initramfs_and_not_in_ext4() {
    let dir = tempfile::tempdir().unwrap();
    let host = host_file(dir.path(), "large", "", 0o644);
    File::options().write(true).open(&host).unwrap().set_len(4 << 30).unwrap();
    let spec = with_file(&host, "/large");
    for (format, name) in &FORMATS[..3] {
        assert_refused_as(
            &spec,
            *format,
            name,
            "can't have large: no file in an initramfs is 4 GiB or larger",
        );
    }
    write(&spec, Format::Ext4 { size: None }, &mut tempfile::tempfile().unwrap()).unwrap();
    assert_refused_as(&spec, Format::Ext4 { size: Some(4 << 30) }, "", "no room for its content");
}

/// Writes nothing after so many bytes, or changes a file then.
struct Disk<'a> {
    inner: Cursor<Vec<u8>>,
    written: usize,
    full_at: usize,
    then: &'a dyn Fn() -> io::Result<()>,
}

impl<'a> Disk<'a> {
    fn new(full_at: usize, then: &'a dyn Fn() -> io::Result<()>) -> Self {
        Self { inner: Cursor::default(), written: 0, full_at, then }
    }
}

impl io::Write for Disk<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() > self.full_at {
            (self.then)()?;
        }
        self.written += bytes.len();
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn full_disk_is_said_wherever_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let noise: String =
        (0..400_000_u32).map(|n| char::from(b' ' + (n.wrapping_mul(n) >> 7).to_le_bytes()[0] % 64)).collect();
    let spec = with_file(&host_file(dir.path(), "one", &noise, 0o644), "/one");
    for (format, name) in FORMATS {
        let mut disk = Disk::new(usize::MAX, &|| Ok(()));
        write(&spec, format, &mut disk).unwrap();
        let all = disk.written;
        for full_at in [0, 1, all / 3, all - 1] {
            let then = || Err(rustix::io::Errno::NOSPC.into());
            let error = write(&spec, format, &mut Disk::new(full_at, &then)).expect_err(name);
            let line = chain(&error);
            assert!(line.starts_with("failed to write the image: No space left"), "{name}: {line}");
        }
    }
}

#[test]
fn file_that_changes_while_it_is_copied_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let host = host_file(dir.path(), "log", "", 0o644);
    let file = File::options().write(true).open(&host).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH;
    let changes: [(&str, &dyn Fn() -> io::Result<()>); 3] = [
        ("longer", &|| file.set_len(8 << 20)),
        ("shorter", &|| file.set_len(3 << 20)),
        ("other", &|| file.write_all_at(b"x", 1)),
    ];
    for format in [Format::default(), Format::Ext4 { size: None }] {
        for (name, change) in changes {
            file.set_len(0).unwrap();
            for piece in 0..4_u64 {
                file.write_all_at(&[1; 1 << 20], piece << 20).unwrap();
            }
            file.set_modified(old).unwrap();
            let mut disk = Disk::new(1 << 20, change);
            let error = write(&with_file(&host, "/log"), format, &mut disk).expect_err(name).to_string();
            assert!(error.contains("it changed while it was copied"), "{name}: {error}");
        }
    }
    // The kernel's own files do not say how long they are.
    assert_refused(&with_file(Path::new("/proc/self/status"), "/x"), "it says that it is empty and is not");
}

#[test]
fn name_that_ends_an_archive_is_refused_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let spec = with_file(&host_file(dir.path(), "one", "1", 0o644), "/TRAILER!!!");
    for (format, name) in FORMATS {
        match format {
            Format::Ext4 { .. } => drop(as_format(&spec, format).unwrap()),
            Format::Initramfs(_) => assert_refused_as(&spec, format, name, "an archive ends with"),
        }
    }
}
