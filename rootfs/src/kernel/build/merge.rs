//! Lists of options put together: the last that sets an option wins.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::fragment::{Fragment, Setting};
use super::kconfig::{Kconfig, Values};

/// Options in the order in which they are first asked for.
#[derive(Debug, Default)]
pub(super) struct Merged {
    settings: Vec<Wanted>,
    places: BTreeMap<String, usize>,
    /// How often an option was asked for.
    asked: usize,
    /// What set aside what, a line each.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Wanted {
    setting: Setting,
    /// The list that it is from.
    from: String,
    /// Whether the kernel's not having it is an error.
    checked: bool,
    /// Which was asked for later has the greater number.
    order: usize,
}

impl Merged {
    /// Adds a list whose options must all be had.
    pub(super) fn add(&mut self, list: &Fragment) {
        for setting in &list.settings {
            self.put(setting, &list.label, true);
        }
    }

    /// Adds a whole configuration, of which a kernel of another version may not have all.
    pub(super) fn add_unchecked(&mut self, list: &Fragment) {
        for setting in &list.settings {
            self.put(setting, &list.label, false);
        }
    }

    fn put(&mut self, setting: &Setting, from: &str, checked: bool) {
        self.asked += 1;
        let wanted = Wanted { setting: setting.clone(), from: from.to_owned(), checked, order: self.asked };
        let Some(&place) = self.places.get(&setting.name) else {
            self.places.insert(setting.name.clone(), self.settings.len());
            self.settings.push(wanted);
            return;
        };
        let Some(before) = self.settings.get_mut(place) else { return };
        if before.setting.value != setting.value && before.checked {
            self.notes.push(format!(
                "CONFIG_{} is {} by {}, line {}, in place of {} by {}",
                setting.name, setting.value, from, setting.line, before.setting.value, before.from
            ));
        }
        *before = wanted;
    }

    /// Drops what a later wish for another option of the same choice sets aside.
    pub(super) fn settle_choices(&mut self, kconfig: &Kconfig) {
        let mut last: BTreeMap<usize, (usize, String)> = BTreeMap::new();
        let asked =
            |wanted: &Wanted| kconfig.choice(&wanted.setting.name).filter(|_| wanted.setting.value == "y");
        for wanted in &self.settings {
            let Some(choice) = asked(wanted) else { continue };
            let latest = last.entry(choice).or_insert_with(|| (wanted.order, wanted.setting.name.clone()));
            if latest.0 < wanted.order {
                *latest = (wanted.order, wanted.setting.name.clone());
            }
        }
        let notes = &mut self.notes;
        self.settings.retain(|wanted| {
            let Some((_, taken)) = asked(wanted).and_then(|choice| last.get(&choice)) else { return true };
            let stays = *taken == wanted.setting.name;
            if !stays && wanted.checked {
                notes.push(format!(
                    "CONFIG_{taken} is taken in place of CONFIG_{} by {}: they are of one choice",
                    wanted.setting.name, wanted.from
                ));
            }
            stays
        });
        let names = self.settings.iter().map(|wanted| wanted.setting.name.clone());
        self.places = names.zip(0..).collect();
    }

    /// As kconfig reads it.
    pub(super) fn text(&self) -> String {
        self.settings.iter().fold(String::new(), |mut text, wanted| {
            let Setting { name, value, .. } = &wanted.setting;
            // Writing to a string does not fail.
            let _ = match value.as_str() {
                "n" => writeln!(text, "# CONFIG_{name} is not set"),
                _ => writeln!(text, "CONFIG_{name}={value}"),
            };
            text
        })
    }

    /// What is not in the configuration that kconfig made of it, each with the reason.
    pub(super) fn unmet(&self, kconfig: &Kconfig, values: &Values) -> Vec<String> {
        let mut unmet = Vec::new();
        for Wanted { setting, from, .. } in self.settings.iter().filter(|wanted| wanted.checked) {
            let got = values.raw(&setting.name).unwrap_or("n");
            if is_same(&setting.value, got) || (setting.optional && !kconfig.has(&setting.name)) {
                continue;
            }
            let why = kconfig.why(&setting.name, &setting.value, values);
            let Setting { name, value, line, .. } = setting;
            unmet.push(format!("CONFIG_{name}={value} ({from}, line {line}): {why}"));
        }
        unmet
    }
}

/// Whether two values are the same to kconfig: it writes hexadecimal digits as it likes.
fn is_same(wanted: &str, got: &str) -> bool {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        u64::from_str_radix(digits, 16).ok()
    };
    wanted == got || number(wanted).is_some_and(|wanted| number(got) == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::super::fragment::read;
    use super::*;

    fn merged(lists: &[(&str, &str)]) -> Merged {
        let mut merged = Merged::default();
        for (label, text) in lists {
            merged.add(&read(label, text).unwrap());
        }
        merged
    }

    #[test]
    fn last_wins_and_what_it_sets_aside_is_told() {
        let merged =
            merged(&[("a", "CONFIG_X=y\nCONFIG_Y=3\n"), ("b", "CONFIG_Y=3\n# CONFIG_X is not set\n")]);
        assert_eq!(merged.text(), "# CONFIG_X is not set\nCONFIG_Y=3\n");
        assert_eq!(merged.notes, ["CONFIG_X is n by b, line 2, in place of y by a"]);
    }

    #[test]
    fn whole_configuration_is_neither_checked_nor_told_of() {
        let mut merged = Merged::default();
        merged.add_unchecked(&read(".config", "CONFIG_OLD=y\nCONFIG_X=m\n").unwrap());
        merged.add(&read("a", "CONFIG_X=y\n").unwrap());
        assert!(merged.notes.is_empty());
        let unmet = merged.unmet(&Kconfig::default(), &Values::default());
        assert_eq!(unmet, ["CONFIG_X=y (a, line 1): this kernel has no such option"]);
    }

    #[test]
    fn optional_and_equal_values_are_met() {
        let merged = merged(&[("a", "# optional\nCONFIG_NEW=y\nCONFIG_H=0x0A\n# CONFIG_OFF is not set\n")]);
        let values = Values::read("CONFIG_H=0xa\n");
        assert!(merged.unmet(&Kconfig::default(), &values).is_empty());
    }
}
