//! The SHA-256 of an image as a file has it, holes and all.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::host::{self, HostFile};
use crate::Error;
use crate::cache::{hex, known_sha256, learn_sha256};
use crate::progress::{Progress, Work};

/// The SHA-256 of the image at `path`, in hexadecimal; the cache knows it of its own, of
/// larger ones once it was taken. Holes are zeros,
/// which are hashed but not read.
///
/// # Errors
/// It can't be read, or changes meanwhile.
pub fn sha256(path: &Path, progress: &dyn Progress) -> Result<String, Error> {
    if let Some(known) = known_sha256(path) {
        return Ok(known);
    }
    let zeros = host::buffer();
    let mut buffer = host::buffer();
    let mut file = HostFile::open(path)?;
    let length = file.length();
    let work = Work::begin(progress, "hashing the image", Some(length));
    let (mut hash, mut at) = (Sha256::new(), 0);
    let fill = |hash: &mut Sha256, mut at: u64, to: u64| {
        while at < to {
            let most = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
            hash.update(&zeros[..most]);
            at += most as u64;
            work.advance(most as u64);
        }
    };
    file.copy_data(&mut buffer, |offset, bytes| {
        fill(&mut hash, at, offset);
        hash.update(bytes);
        at = offset + bytes.len() as u64;
        work.advance(bytes.len() as u64);
        Ok(())
    })?;
    fill(&mut hash, at, length);
    let hash = hex(&hash.finalize());
    learn_sha256(path, &hash);
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::cache::sha256_of_file;
    use crate::progress::Silent;

    #[test]
    fn digest_of_a_file_with_holes_is_that_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (length, data) in
            [(0, &[][..]), (100, &[0]), (9 << 20, &[]), ((9 << 20) + 7, &[5 << 20, (9 << 20) + 1])]
        {
            let file = File::create(&path).unwrap();
            file.set_len(length).unwrap();
            for at in data {
                file.write_all_at(b"data", *at).unwrap();
            }
            assert_eq!(sha256(&path, &Silent).unwrap(), sha256_of_file(&path).unwrap(), "{length}");
        }
    }
}
