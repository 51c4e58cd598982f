//! The closure of modules over synthetic folders.

use std::fs;
use std::io::Write;

use super::*;

/// A module for Linux 6.1 that depends on others: a relocatable ELF of one section, `.modinfo`, beside the names of
/// sections.
pub(crate) fn module(depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name=x\0vermagic=6.1 SMP mod_unload \0").into_bytes();
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_at, names_at) = (64, 64 + info.len());
    let table_at = (names_at + names.len()).next_multiple_of(8);
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [1u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for long in [0, 0, table_at as u64] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 0, 0, 64, 3, 2] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(&info);
    elf.extend(names);
    elf.resize(table_at, 0);
    elf.extend([0; 64]);
    for (name, kind, at, size) in [(1u32, 1u32, info_at, info.len()), (10, 3, names_at, names.len())] {
        elf.extend(name.to_le_bytes());
        elf.extend(kind.to_le_bytes());
        for long in [0, 0, at as u64, size as u64, 0, 1, 0] {
            elf.extend(u64::to_le_bytes(long));
        }
    }
    // The link and info halves were written as one long of zeros.
    elf
}

fn tree(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| &*module.name).collect()
}

#[test]
fn without_an_index_the_modules_themselves_tell() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&module("")).unwrap();
    let dir = tree(&[
        ("kernel/virtio/virtio-mmio.ko", module("virtio_ring,virtio")),
        ("kernel/virtio/virtio_ring.ko", module("virtio")),
        ("kernel/virtio/virtio.ko.gz", gz.finish().unwrap()),
        ("kernel/other/broken.ko", b"never read".to_vec()),
        ("modules.builtin", b"kernel/fs/ext4.ko\n".to_vec()),
    ]);
    let modules = closure(dir.path(), &["virtio_mmio", "ext4", "virtio-ring"]).unwrap();
    assert_eq!(names(&modules), ["virtio", "virtio_ring", "virtio_mmio"]);
    assert_eq!(modules[0].path, "kernel/virtio/virtio.ko");
    assert_eq!(modules[0].read_for("6.1").unwrap(), module(""));
    let files = files(dir.path(), &["virtio_ring"]).unwrap();
    assert_eq!(files.len(), 3);
    assert!(files[2].ends_with("modules.builtin"));
}

#[test]
fn an_index_is_believed_and_circles_end() {
    let dir = tree(&[
        ("kernel/a.ko", b"a".to_vec()),
        ("kernel/b.ko", b"b".to_vec()),
        ("kernel/c.ko", b"c".to_vec()),
        (
            "modules.dep",
            b"kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko: kernel/a.ko\n\
            ../../etc/passwd.ko:\n"
                .to_vec(),
        ),
    ]);
    assert_eq!(names(&closure(dir.path(), &["a"]).unwrap()), ["c", "b", "a"]);
    assert!(closure(dir.path(), &["passwd"]).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let dir = tree(&[("kernel/a.ko", module("lost-one")), ("kernel/b.ko", b"\x7fELF".to_vec())]);
    let error = closure(dir.path(), &["a"]).unwrap_err().to_string();
    assert!(error.starts_with("no module lost_one in /") && error.ends_with(", needed by a"), "{error}");
    assert!(closure(dir.path(), &["b"]).unwrap_err().to_string().contains("not a kernel module"));
    assert!(closure(&dir.path().join("no"), &[]).is_err());
}

#[test]
fn updates_go_before_the_kernels_own() {
    let dir = tree(&[("kernel/a.ko", module("")), ("updates/a.ko", module(""))]);
    assert_eq!(closure(dir.path(), &["a"]).unwrap()[0].path, "updates/a.ko");
}

/// The bytes in each packing that modules come in, by the ending of the file's name.
fn packed(bytes: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(bytes).unwrap();
    let zst = ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    [
        ("ko", bytes.to_vec()),
        ("ko.gz", gz.finish().unwrap()),
        ("ko.xz", xz.finish().unwrap()),
        ("ko.zst", zst),
    ]
}

#[test]
fn module_in_each_packing_is_read_and_a_truncated_one_refused() {
    for (ending, bytes) in packed(&module("b")) {
        let name = format!("kernel/a.{ending}");
        let dir = tree(&[(&name, bytes.clone()), ("kernel/b.ko", module(""))]);
        let modules = closure(dir.path(), &["a"]).unwrap();
        assert_eq!(names(&modules), ["b", "a"], "{ending}");
        assert_eq!(modules[1].path, "kernel/a.ko");
        assert_eq!(modules[1].read_for("6.1").unwrap(), module("b"), "{ending}");
        for cut in [0, 5, bytes.len() / 2, bytes.len() - 1] {
            fs::write(dir.path().join(&name), &bytes[..cut]).unwrap();
            let error = modules[1].read_for("6.1").unwrap_err().to_string();
            assert!(error.contains(&name) && error.contains("truncated"), "{ending} {cut}: {error}");
            assert!(closure(dir.path(), &["a"]).is_err(), "{ending} {cut}");
        }
    }
}

#[test]
fn module_of_another_kernel_is_refused_with_both_releases() {
    let dir = tree(&[("kernel/a.ko", module(""))]);
    let modules = closure(dir.path(), &["a"]).unwrap();
    let error = modules[0].read_for("6.1.0-9-x").unwrap_err().to_string();
    for word in ["kernel/a.ko: ", "for Linux 6.1,", "the kernel is 6.1.0-9-x", "--modules-dir"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(
        modules[0].read_for(crate::kernel::UNKNOWN).is_ok(),
        "a kernel that tells no release is not known to differ"
    );
}

#[test]
fn index_that_makes_no_sense_is_as_if_it_were_not_there() {
    let dir = tree(&[
        ("kernel/a.ko", module("b")),
        ("kernel/b.ko", module("")),
        (
            "modules.dep",
            b"/etc/passwd.ko:\nkernel/../../b.ko: kernel/a.ko\n:\n.ko: .ko\nkernel/.ko:\nkernel/a.ko\n\xff\xfe.ko: \xff\n\
            kernel/gone.ko: kernel/a.ko\n"
                .to_vec(),
        ),
    ]);
    assert_eq!(names(&closure(dir.path(), &["a"]).unwrap()), ["b", "a"]);
    // It is listed, and it is not there.
    assert!(closure(dir.path(), &["gone"]).unwrap_err().to_string().starts_with("no module gone in "));
    assert!(closure(dir.path(), &["passwd", "/etc/passwd"]).is_err());
}

#[test]
fn chain_of_modules_may_be_long() {
    let (count, dir) = (3_000, tempfile::tempdir().unwrap());
    let mut list = String::new();
    for number in 0..count {
        fs::write(dir.path().join(format!("m{number}.ko")), "").unwrap();
        list += &format!("m{number}.ko: m{}.ko\n", number + 1);
    }
    fs::write(dir.path().join(format!("m{count}.ko")), "").unwrap();
    list += &format!("m{count}.ko:\n");
    fs::write(dir.path().join("modules.dep"), list).unwrap();
    // Of a stack that is smaller than most.
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    let modules = std::thread::scope(|scope| {
        thread.spawn_scoped(scope, || closure(dir.path(), &["m0"]).unwrap()).unwrap().join().unwrap()
    });
    assert_eq!((modules.len(), modules[0].name.as_str()), (count + 1, "m3000"));
    assert_eq!(modules[count].name, "m0");
}

#[test]
fn what_is_no_file_or_too_large_is_refused_unread() {
    let dir = tree(&[("kernel/large.ko", Vec::new())]);
    let at = |name: &str| dir.path().join(name);
    fs::File::options().write(true).open(at("kernel/large.ko")).unwrap().set_len(3 << 30).unwrap();
    let pipe = |name: &str| rustix::fs::mkfifoat(rustix::fs::CWD, at(name), rustix::fs::Mode::RUSR).unwrap();
    pipe("kernel/pipe.ko");
    let said = |name: &str| closure(dir.path(), &[name]).unwrap_err().to_string();
    assert!(
        said("pipe").ends_with("kernel/pipe.ko: not a kernel module: a module is a file"),
        "{}",
        said("pipe")
    );
    assert!(said("large").ends_with("kernel/large.ko: it is larger than any module"), "{}", said("large"));
    pipe("modules.dep");
    assert!(said("large").ends_with("modules.dep: a list of modules is a file"));
}

#[test]
fn files_of_others_go_with_the_kernels_own_modules_that_they_need() {
    let dir = tree(&[("kernel/bus.ko", module("")), ("modules.order", b"kernel/bus.ko\n".to_vec())]);
    let own = tree(&[("my-base.ko", module("bus")), ("my-driver.ko", module("my_base"))]);
    let path = |name: &str| own.path().join(name).to_string_lossy().into_owned();
    let (driver, base) = (path("my-driver.ko"), path("my-base.ko"));
    let modules = closure(dir.path(), &[&driver, &base]).unwrap();
    assert_eq!(names(&modules), ["bus", "my_base", "my_driver"]);
    assert_eq!(modules[2].path, "updates/my_driver.ko");
    assert_eq!((name_of(&driver), name_of("xen-blk")), ("my_driver".to_owned(), "xen_blk".to_owned()));
    assert!(closure(dir.path(), &["/nowhere/x.ko"]).unwrap_err().to_string().contains("/nowhere/x.ko"));
}
