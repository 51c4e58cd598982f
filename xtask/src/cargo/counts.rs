//! How many cases ran, read off what test runners print.

use std::fmt;

/// Cases that passed, failed and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Adds `other`.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.skipped = self.skipped.saturating_add(other.skipped);
    }

    /// Adds `other`, whose cases are among those that were skipped so far.
    pub(crate) fn fill_in(&mut self, other: Self) {
        self.skipped = self.skipped.saturating_sub(other.passed.saturating_add(other.failed));
        self.add(other);
    }

    /// What a line says, if it is the last that a libtest, or one with its manners, prints:
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, figures) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for figure in figures.split(';') {
            match figure.trim().split_once(' ') {
                Some((number, "passed")) => counts.passed = number.parse().ok()?,
                Some((number, "failed")) => counts.failed = number.parse().ok()?,
                Some((number, "ignored")) => counts.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }

    /// What the closing line of our own commands says, [`Counts`] as it is displayed.
    fn of_closing_line(line: &str) -> Option<Self> {
        let mut figures = line.trim().split(", ");
        let mut next = |word: &str| figures.next()?.strip_suffix(word)?.parse().ok();
        let counts = Self { passed: next(" passed")?, failed: next(" failed")?, skipped: next(" skipped")? };
        figures.next().is_none().then_some(counts)
    }
}

/// Counts added up line by line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    sum: Counts,
    closing: Option<Counts>,
}

impl Tally {
    /// Takes a line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(more) = Counts::of_line(line) {
            self.sum.add(more);
        } else if let Some(closing) = Counts::of_closing_line(line) {
            self.closing = Some(closing);
        }
    }

    /// What was counted: a closing line knows better than the sum of what came before it, because a case
    /// that is ignored in one place may have run in another.
    pub(crate) fn counts(&self) -> Counts {
        self.closing.unwrap_or(self.sum)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_line_gives_its_counts() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(Counts::of_line(line), Some(Counts { passed: 5, failed: 2, skipped: 1 }));
    }

    #[test]
    fn closing_line_replaces_the_sum() {
        let mut tally = Tally::default();
        tally.line("test result: ok. 5 passed; 0 failed; 9 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally.counts().skipped, 9);
        tally.line("14 passed, 0 failed, 0 skipped");
        assert_eq!(tally.counts(), Counts { passed: 14, failed: 0, skipped: 0 });
    }

    #[test]
    fn any_other_line_gives_none() {
        for line in ["", "test result", "test result: ok", "test a ... ok", "5 passed; 2 failed"] {
            assert_eq!(Counts::of_line(line), None, "{line}");
        }
    }
}
