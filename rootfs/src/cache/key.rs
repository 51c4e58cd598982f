//! What an entry is told from others by.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{hex, sha256_of_file};
use crate::Error;

/// How much of the hash is in a name: 128 bits are plenty, and short enough to read.
const DIGITS: usize = 32;

/// The hash of all that an entry depends on, or a name that says it all.
#[derive(Clone, Debug)]
pub struct Key {
    hash: Sha256,
    name: Option<String>,
}

impl Key {
    /// A key with no fields yet. `format` changes whenever what is built from the same fields does.
    #[must_use]
    pub fn new(format: &str) -> Self {
        Self { hash: Sha256::new(), name: None }.field("format", format.as_bytes())
    }

    /// A key that is its own name, such as a kernel's release. What can't be in a file's name becomes `_`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let harmless = |c: char| if c.is_ascii_alphanumeric() || "+-._~".contains(c) { c } else { '_' };
        let name: String = name.chars().map(harmless).collect();
        let hidden = name.is_empty() || name.starts_with('.');
        Self { hash: Sha256::new(), name: Some(if hidden { format!("_{name}") } else { name }) }
    }

    /// Adds a field. Lengths are hashed too: no two lists of fields look the same.
    #[must_use]
    pub fn field(mut self, label: &str, value: &[u8]) -> Self {
        for part in [label.as_bytes(), value] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self
    }

    /// Adds a file's content as a field.
    ///
    /// # Errors
    /// It can't be read.
    pub fn file(self, label: &str, path: &Path) -> Result<Self, Error> {
        let hash = sha256_of_file(path)?;
        Ok(self.field(label, hash.as_bytes()))
    }

    /// The folder's name.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => hex(&self.hash.clone().finalize()).chars().take(DIGITS).collect(),
        }
    }
}
