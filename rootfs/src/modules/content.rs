//! What is in a module's file.

use std::fs;
use std::io::Read;
use std::path::Path;

use object::{Object, ObjectSection};

use super::normal;
use crate::Error;

/// No module is larger; what unpacks to more is not one.
const LARGEST: u64 = 256 << 20;

const ENDINGS: &[&str] = &[".xz", ".gz", ".zst"];

/// A file's name without the ending of its compression.
pub(super) fn uncompressed_name(file: &str) -> &str {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).unwrap_or(file)
}

/// A module's file, decompressed.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let packed = fs::read(path).map_err(Error::io("read", path))?;
    let limited = |reader: &mut dyn Read| -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut reader = reader.take(LARGEST + 1);
        reader.read_to_end(&mut bytes).map_err(Error::io("decompress", path))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::file(path, "it unpacks to more than any module has"));
        }
        Ok(bytes)
    };
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => limited(&mut lzma_rust2::XzReader::new(&packed[..], true)),
        Some("gz") => limited(&mut flate2::read::MultiGzDecoder::new(&packed[..])),
        Some("zst") => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(&packed[..]);
            limited(&mut decoder.map_err(|error| Error::file(path, format!("not Zstandard: {error}")))?)
        }
        _ => Ok(packed),
    }
}

/// The modules that the one in `path` says it depends on.
pub(super) fn dependencies(path: &Path) -> Result<Vec<String>, Error> {
    let bytes = read(path)?;
    let malformed = |error: object::Error| Error::file(path, format!("not a kernel module: {error}"));
    let file = object::File::parse(&*bytes).map_err(malformed)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Err(Error::file(path, "not a kernel module: it has no .modinfo"));
    };
    Ok(depends_in(section.data().map_err(malformed)?))
}

/// The names in `depends=a,b` among the texts of `.modinfo`.
fn depends_in(info: &[u8]) -> Vec<String> {
    let fields = info.split(|byte| *byte == 0);
    let lists = fields.filter_map(|field| field.strip_prefix(b"depends="));
    let names = lists.flat_map(|list| list.split(|byte| *byte == b','));
    names.filter(|name| !name.is_empty()).map(|name| normal(&String::from_utf8_lossy(name))).collect()
}
