//! What a program needs of its host to run elsewhere: its interpreter and shared libraries, found as the
//! dynamic linker finds them, without running anything.

mod linker;
mod loaded;
mod object;

use std::path::{Path, PathBuf};

pub(crate) use linker::Linker;
pub use loaded::loaded;
pub(crate) use object::Object;

use crate::Error;

/// A program and all that it needs, itself first: where each file is here, and where it belongs in a guest.
///
/// # Errors
/// It is no program for x86-64, or a library is missing.
pub fn closure(path: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    let inside = path.to_string_lossy().into_owned();
    Linker::of_host().closure(&path, &inside)
}

/// The interpreter of a program, if it has one, and the shared libraries that it names itself.
///
/// # Errors
/// It is no ELF file for x86-64.
pub fn needs(path: &Path) -> Result<(Option<String>, Vec<String>), Error> {
    let object = Object::read(path)?;
    Ok((object.interpreter, object.needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_programs_closure_is_whole() {
        let own = std::env::current_exe().unwrap();
        let files = closure(&own).unwrap();
        assert_eq!(files[0].0, own);
        let (interpreter, needed) = needs(&own).unwrap();
        assert!(files.iter().any(|(_, guest)| Some(guest) == interpreter.as_ref()), "{files:?}");
        for library in needed {
            assert!(files.iter().any(|(_, guest)| guest.ends_with(&format!("/{library}"))), "{library}");
        }
        assert!(
            files
                .iter()
                .all(|(host, guest)| host.is_file() && guest.starts_with('/') && !guest.contains(".."))
        );
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in [&b""[..], b"\x7fELF", &[0x7f; 100]] {
            std::fs::write(file.path(), bytes).unwrap();
            let error = closure(file.path()).unwrap_err().to_string();
            assert!(error.contains("not a program for x86-64"), "{error}");
        }
        assert!(closure(Path::new("/nonexistent")).unwrap_err().to_string().starts_with("failed to open"));
    }
}
