//! What a `.config` says.

use std::collections::BTreeMap;

/// The value of each option that is set; what is not in it is `n`.
#[derive(Clone, Debug, Default)]
pub(in crate::kernel::build) struct Values(BTreeMap<String, String>);

impl Values {
    /// Reads a `.config` as kconfig writes it; what is no setting is passed over.
    pub(in crate::kernel::build) fn read(text: &str) -> Self {
        let settings =
            text.lines().filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.split_once('='));
        Self(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// As it stands in the file: a string with its quotes.
    pub(in crate::kernel::build) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A string without its quotes; nothing for what is not set.
    pub(super) fn text(&self, name: &str) -> &str {
        let raw = self.raw(name).unwrap_or_default();
        raw.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(raw)
    }

    /// Whether it is `y`.
    pub(in crate::kernel::build) fn is_yes(&self, name: &str) -> bool {
        self.raw(name) == Some("y")
    }

    /// Whether it is `m`.
    pub(in crate::kernel::build) fn is_module(&self, name: &str) -> bool {
        self.raw(name) == Some("m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_all_else_is_off() {
        let values =
            Values::read("# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=\"a=b\"\nCONFIG_D=y\n\nnoise\n");
        assert!(values.is_module("B") && values.is_yes("D") && !values.is_yes("A"));
        assert_eq!((values.text("C"), values.raw("C")), ("a=b", Some("\"a=b\"")));
        assert_eq!(values.raw("A"), None);
    }
}
