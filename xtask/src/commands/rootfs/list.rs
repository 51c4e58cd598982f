//! What is in an image, as a table.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result};
use kiln::rootfs::image::{self, Format, ImageSpec, Listed, archive};

use crate::ui::{self, Align, Table};

/// The table of `image`: an archive is read back, a disk is listed by what went into it.
///
/// # Errors
/// It can't be read.
pub(super) fn table(spec: &ImageSpec, format: Format, image: &Path) -> Result<Table> {
    let entries = match format {
        Format::Ext4 { .. } => image::list(spec)?,
        Format::Initramfs(_) => {
            let file = File::open(image).with_context(|| format!("failed to open {}", image.display()))?;
            archive::read(BufReader::new(file))?.into_iter().map(|entry| entry.listed).collect()
        }
    };
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Right, Align::Left]);
    for entry in &entries {
        table.row(row(entry));
    }
    Ok(table)
}

fn row(entry: &Listed) -> [String; 4] {
    let size = match entry.device {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => entry.size.to_string(),
    };
    let mut path = format!("/{}", entry.path);
    if let Some(target) = &entry.target {
        path.push_str(&format!(" -> {target}"));
    }
    // A name with a line's end in it is no second row.
    let path = path.replace('\n', "\\n");
    [mode(entry.mode), format!("{}:{}", entry.uid, entry.gid), size, ui::sanitize(path.as_bytes())]
}

/// A mode as `ls -l` has it.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_says_what_ls_would() {
        let entry = |mode, device, target: Option<&str>| Listed {
            path: "a/b".to_owned(),
            mode,
            uid: 0,
            gid: 5,
            size: 12,
            device,
            target: target.map(str::to_owned),
        };
        assert_eq!(row(&entry(0o100_644, None, None)), ["-rw-r--r--", "0:5", "12", "/a/b"]);
        assert_eq!(row(&entry(0o041_777, None, None))[0], "drwxrwxrwt");
        assert_eq!(row(&entry(0o106_750, None, None))[0], "-rwsr-s---");
        assert_eq!(row(&entry(0o020_600, Some((5, 1)), None)), ["crw-------", "0:5", "5, 1", "/a/b"]);
        assert_eq!(row(&entry(0o120_777, None, Some("c\x1b")))[3], "/a/b -> c\\u{1b}");
    }
}
