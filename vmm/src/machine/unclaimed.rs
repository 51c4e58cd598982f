//! Tells whoever wants it of a guest's accesses to nothing, and not too often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bus::{Unclaimed, UnclaimedReport};

/// The least time between two reports.
const PAUSE: Duration = Duration::from_secs(1);

type Told = Box<dyn FnMut(&UnclaimedReport) + Send>;

/// What looks at them while a machine runs.
pub(super) struct UnclaimedTeller {
    unclaimed: Arc<Unclaimed>,
    told: Option<Told>,
    /// When it last had something to tell.
    last: Option<Instant>,
}

impl UnclaimedTeller {
    pub(super) fn new(unclaimed: Arc<Unclaimed>) -> Self {
        Self { unclaimed, told: None, last: None }
    }

    pub(super) fn tell(&mut self, told: Told) {
        self.told = Some(told);
    }

    /// Tells what there is, unless it has just done so.
    pub(super) fn look(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.finish();
        }
    }

    /// Tells what there is.
    pub(super) fn finish(&mut self) {
        if let Some(told) = &mut self.told
            && let Some(report) = self.unclaimed.take()
        {
            told(&report);
            self.last = Some(Instant::now());
        }
    }
}
