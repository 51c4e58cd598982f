//! What is in a module's file.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use object::{Object, ObjectSection};

use super::normal;
use crate::Error;
use crate::packing::Packing;

/// No module is larger; what unpacks to more is not one.
const LARGEST: u64 = 256 << 20;

/// A file's name without the ending of its compression.
pub(super) fn uncompressed_name(file: &str) -> &str {
    Packing::of(file).1
}

/// A module's file, decompressed.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut packed = Vec::new();
    // Opening a pipe would wait for whoever writes to it.
    if !fs::metadata(path).map_err(Error::io("read", path))?.is_file() {
        return Err(Error::file(path, "not a kernel module: a module is a file"));
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(LARGEST + 1).read_to_end(&mut packed).map_err(Error::io("read", path))?;
    if packed.len() as u64 > LARGEST {
        return Err(Error::file(path, "it is larger than any module"));
    }
    let (packing, _) = Packing::of(path.to_str().unwrap_or_default());
    if packing == Packing::None {
        return Ok(packed);
    }
    let mut bytes = Vec::new();
    packing
        .open(&packed[..])
        .and_then(|reader| reader.take(LARGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::file(path, format!("the module is truncated or damaged: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::file(path, "it unpacks to more than any module has"));
    }
    Ok(bytes)
}

/// What a module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// The release of the kernel that it was made for.
    pub(crate) release: Option<String>,
    /// The names of the modules that it depends on.
    pub(crate) depends: Vec<String>,
}

impl Info {
    /// Reads a module's `.modinfo`.
    pub(crate) fn of(module: &[u8]) -> Result<Self, String> {
        let malformed = |error: object::Error| format!("not a kernel module, or a truncated one: {error}");
        let file = object::File::parse(module).map_err(malformed)?;
        let Some(section) = file.section_by_name(".modinfo") else {
            return Err("not a kernel module: it has no .modinfo".to_owned());
        };
        Ok(Self::parse(section.data().map_err(malformed)?))
    }

    /// Reads the texts of `.modinfo`: `depends=a,b`, `vermagic=6.1.0 SMP mod_unload`.
    fn parse(info: &[u8]) -> Self {
        let mut own = Self::default();
        for field in info.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(field);
            if let Some(list) = text.strip_prefix("depends=") {
                own.depends.extend(list.split(',').filter(|name| !name.is_empty()).map(normal));
            } else if let Some(magic) = text.strip_prefix("vermagic=") {
                own.release = magic.split(' ').next().filter(|word| !word.is_empty()).map(str::to_owned);
            }
        }
        own
    }
}

/// The modules that the one in `path` says it depends on.
pub(super) fn dependencies(path: &Path) -> Result<Vec<String>, Error> {
    Info::of(&read(path)?).map(|info| info.depends).map_err(|why| Error::file(path, why))
}
