//! What an image holds, that it is the same every time, and what is refused.

mod bad_input;
mod contents;
mod disk;
mod formats;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const FORMATS: [(Format, &str); 4] = [
    (Format::Initramfs(Compression::None), "initrd.cpio"),
    (Format::Initramfs(Compression::Gzip), "initrd.cpio.gz"),
    (Format::Initramfs(Compression::Zstd), "initrd.cpio.zst"),
    (Format::Ext4 { size: None }, "rootfs.ext4"),
];

fn image(spec: &ImageSpec) -> Vec<u8> {
    as_format(spec, Format::default()).unwrap()
}

fn as_format(spec: &ImageSpec, format: Format) -> Result<Vec<u8>, Error> {
    let mut bytes = Cursor::new(Vec::new());
    write(spec, format, &mut bytes).map(|()| bytes.into_inner())
}

fn host_file(dir: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}
