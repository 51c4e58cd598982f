//! Whether the same image comes out when it is made again, and if not, what differs.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, Format, ImageSpec, archive};

/// How much is compared at once.
const PIECE: usize = 1 << 20;

/// Makes the image twice, each time from scratch, and compares the two with each other and with `kept`, the one in
/// the cache.
///
/// # Errors
/// They differ, or the image can't be made.
pub(super) fn verify(cache: &Cache, spec: &ImageSpec, format: Format, kept: &Path) -> Result<()> {
    let mut builds = Vec::new();
    for _ in 0..2 {
        let mut build = cache.scratch()?.into_file();
        image::write(spec, format, &mut build)?;
        builds.push(build);
    }
    let [first, second] = &mut builds[..] else { unreachable!("two were made") };
    if let Some(difference) = difference(first, second, format)? {
        bail!("two builds of the image differ: {difference}");
    }
    let mut kept_file = File::open(kept).with_context(|| format!("failed to open {}", kept.display()))?;
    if let Some(difference) = difference(first, &mut kept_file, format)? {
        bail!("{} is not what is built now: {difference}: remove it", kept.display());
    }
    Ok(())
}

/// The first thing that two images differ in; nothing if they are the same.
fn difference(one: &mut File, other: &mut File, format: Format) -> Result<Option<String>> {
    let Some(at) = first_difference(one, other)? else { return Ok(None) };
    if matches!(format, Format::Ext4 { .. }) {
        return Ok(Some(format!("first at byte {at}")));
    }
    let [one, other] = [one, other].map(|file| -> Result<Vec<archive::Entry>> {
        file.rewind()?;
        Ok(archive::read(BufReader::new(file))?)
    });
    let (one, other) = (one?, other?);
    let differs = (0..one.len().max(other.len())).find(|&n| one.get(n) != other.get(n));
    let path = differs.and_then(|n| {
        // If one has a path that the other has not, the archives go apart at the one that would come first.
        let paths = [&one, &other].map(|entries| entries.get(n).map(|entry| entry.listed.path.as_str()));
        paths.into_iter().flatten().min()
    });
    Ok(Some(match path {
        Some(path) => format!("first in /{path}"),
        None => format!("first at byte {at}, though they hold the same"),
    }))
}

/// The offset of the first byte that two files differ in.
fn first_difference(one: &mut File, other: &mut File) -> Result<Option<u64>> {
    one.seek(SeekFrom::Start(0))?;
    other.seek(SeekFrom::Start(0))?;
    let (mut first, mut second, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        first.clear();
        second.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut first)?;
        other.by_ref().take(PIECE as u64).read_to_end(&mut second)?;
        if first != second {
            let same = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + same as u64));
        }
        if first.is_empty() {
            return Ok(None);
        }
        at += first.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln::rootfs::image::Compression;

    use super::*;

    const FORMATS: [Format; 3] = [
        Format::Initramfs(Compression::None),
        Format::Initramfs(Compression::Gzip),
        Format::Ext4 { size: None },
    ];

    fn build(spec: &ImageSpec, format: Format) -> File {
        let mut file = tempfile::tempfile().unwrap();
        image::write(spec, format, &mut file).unwrap();
        file
    }

    #[test]
    fn difference_is_named_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("host");
        let spec = |inside: &str| ImageSpec {
            files: vec![(host.clone(), inside.to_owned())],
            ..ImageSpec::default()
        };
        for format in FORMATS {
            fs::write(&host, "1").unwrap();
            let (mut first, mut same) = (build(&spec("/m/x"), format), build(&spec("/m/x"), format));
            assert_eq!(difference(&mut first, &mut same, format).unwrap(), None);
            fs::write(&host, "2").unwrap();
            let (mut content, mut more) = (build(&spec("/m/x"), format), build(&spec("/m/a"), format));
            let content = difference(&mut first, &mut content, format).unwrap().unwrap();
            let more = difference(&mut first, &mut more, format).unwrap().unwrap();
            if matches!(format, Format::Ext4 { .. }) {
                assert!(content.starts_with("first at byte "), "{content}");
            } else {
                assert_eq!((content.as_str(), more.as_str()), ("first in /m/x", "first in /m/a"));
            }
        }
    }

    #[test]
    fn difference_beside_what_an_archive_holds_is_named_by_its_place() {
        let format = FORMATS[0];
        let (mut one, mut other) =
            (build(&ImageSpec::default(), format), build(&ImageSpec::default(), format));
        let end = other.seek(SeekFrom::End(0)).unwrap();
        other.set_len(end + 4).unwrap();
        let difference = difference(&mut one, &mut other, format).unwrap().unwrap();
        assert_eq!(difference, format!("first at byte {end}, though they hold the same"));
    }

    #[test]
    fn image_in_the_cache_that_was_changed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path().join("cache"))).unwrap();
        let kept = dir.path().join("kept");
        for format in FORMATS {
            let mut file = File::create(&kept).unwrap();
            image::write(&ImageSpec::default(), format, &mut file).unwrap();
            verify(&cache, &ImageSpec::default(), format, &kept).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            assert!(verify(&cache, &ImageSpec::default(), format, &kept).is_err());
        }
    }
}
