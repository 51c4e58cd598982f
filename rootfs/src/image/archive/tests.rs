//! Archives as others make them, and as nobody should.

use std::io::Write;

use super::*;

/// An entry as the format has it.
fn entry(name: &[u8], mode: u32, size: u32, content: &[u8]) -> Vec<u8> {
    let name_size = u32::try_from(name.len()).unwrap() + 1;
    let numbers = [7, mode, 1, 2, 1, 9, size, 0, 0, 5, 1, name_size, 0];
    let mut bytes = MAGIC.to_vec();
    numbers.iter().for_each(|number| bytes.extend(format!("{number:08X}").bytes()));
    bytes.extend_from_slice(name);
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn end() -> Vec<u8> {
    entry(TRAILER.as_bytes(), 0, 0, b"")
}

#[track_caller]
fn assert_wrong(bytes: &[u8], at: u64, words: &str) {
    let error = entries(bytes).unwrap_err();
    assert!(matches!(&error, Error::Archive { at: is, why } if *is == at && why.contains(words)), "{error}");
}

#[test]
fn entries_are_what_they_say() {
    let link = entry(b"l", 0o120_777, 6, b"target");
    let bytes = [entry(b"dev/x", 0o020_600, 0, b""), link, entry(b"f", 0o100_644, 3, b"abc"), end()].concat();
    let found = entries(&bytes).unwrap();
    assert_eq!((found[0].listed.device, found[0].listed.target.as_deref()), (Some((5, 1)), None));
    assert_eq!((found[1].listed.device, found[1].listed.target.as_deref()), (None, Some("target")));
    let (file, listed) = (&found[2], &found[2].listed);
    assert_eq!((listed.path.as_str(), listed.mode, listed.size), ("f", 0o100_644, 3));
    assert_eq!((listed.uid, listed.gid, file.inode, file.links, file.mtime), (1, 2, 7, 1, 9));
    assert_eq!(file.sha256, <[u8; 32]>::from(Sha256::digest(b"abc")));
}

#[test]
fn archives_may_follow_each_other() {
    let one = [entry(b"a", 0o100_644, 0, b""), end()].concat();
    let bytes = [one.clone(), vec![0; 512], one, vec![0; 100]].concat();
    assert_eq!(entries(&bytes).unwrap().len(), 2);
}

#[test]
fn archive_that_is_cut_off_anywhere_is_refused() {
    let whole = [entry(b"name", 0o100_644, 5, b"12345"), end()].concat();
    for length in 0..whole.len() {
        assert!(entries(&whole[..length]).is_err(), "{length}");
    }
    assert_wrong(&whole[..120], 116, "cut off");
}

#[test]
fn archive_with_absurd_numbers_is_refused() {
    assert_wrong(b"", 0, "no cpio archive");
    assert_wrong(b"070702", 0, "no cpio archive");
    assert_wrong(&[b"070701".to_vec(), vec![b'+'; 104]].concat(), 0, "a number of a header");
    assert_wrong(&entry(b"x", 0o100_644, u32::MAX, b""), 112, "cut off");
    assert_wrong(&entry(b"l", 0o120_777, u32::MAX, b""), 0, "a link's target");
    assert_wrong(&entry(b"", 0o100_644, 0, b""), 0, "does not end");
    assert_wrong(&entry(b"a\0b", 0o100_644, 0, b""), 0, "does not end");
    assert_wrong(&entry(&[b'n'; 4096], 0o100_644, 0, b""), 0, "longer than a path");
    assert_wrong(&entry(b"\xff", 0o100_644, 0, b""), 110, "not UTF-8");
    assert_wrong(&[entry(b"a", 0o100_644, 0, b""), vec![b'x'; 200]].concat(), 112, "no entry begins");
    assert_wrong(&[end(), b"more".to_vec()].concat(), 124, "cut off");
}

#[test]
fn compressed_archive_that_is_damaged_or_without_end_is_refused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // A file that says that it is larger than all that is read.
    gzip.write_all(&entry(b"x", 0o100_644, u32::MAX, b"")).unwrap();
    gzip.write_all(&vec![0; 1 << 20]).unwrap();
    let gzip = gzip.finish().unwrap();
    assert_wrong(&gzip, 112 + (1 << 20), "cut off");
    assert!(entries(&gzip[..gzip.len() / 2]).is_err());
    let zstd = ruzstd::encoding::compress_to_vec(&*end(), ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(entries(&zstd).unwrap(), []);
    for length in 0..zstd.len() {
        assert!(entries(&zstd[..length]).is_err(), "{length}");
    }
    let mut other = zstd.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_wrong(&other, 124, "its checksum");
}
