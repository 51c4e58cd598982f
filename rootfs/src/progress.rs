//! Who is told how far long work has come.

/// Told of downloads and builds as they go. One piece of work is under way at a time.
pub trait Progress: Sync {
    /// Work on `what` begins; `total_bytes` if it is known.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// One step more is done, of work that is counted in steps; `at` is what it was about.
    fn step(&self, at: &str);
    /// The work that was begun is done.
    fn end(&self);
    /// A line that stays.
    fn note(&self, line: &str);
}

/// Tells no one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn step(&self, _at: &str) {}
    fn end(&self) {}
    fn note(&self, _line: &str) {}
}

/// Work that has begun, and ends however its scope is left.
pub(crate) struct Work<'a>(&'a dyn Progress);

impl<'a> Work<'a> {
    pub(crate) fn begin(progress: &'a dyn Progress, what: &str, total_bytes: Option<u64>) -> Self {
        progress.begin(what, total_bytes);
        Self(progress)
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    pub(crate) fn step(&self, at: &str) {
        self.0.step(at);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
