//! Who holds a machine paused: it runs when nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One who may hold a machine paused. Two of the same name are two; a clone is the same one.
///
/// Each takes and ends its own hold ([`super::Controller::hold`], [`super::Controller::release`]), so that nobody lets a
/// machine go on that another still looks at. A hold does not end with its owner: whoever may vanish ends it before.
#[derive(Clone, Debug)]
pub struct Owner {
    token: u64,
    name: Arc<str>,
    pauses: bool,
    stops_deadline: bool,
}

impl Owner {
    /// An owner whose holds make the deadline of [`crate::machine::Running::wait`] stand still; `name` is what
    /// people read.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { token, name: name.into(), pauses: true, stops_deadline: true }
    }

    /// An owner whose holds make the deadline stand still, and leave the guest running.
    #[must_use]
    pub fn onlooker(name: &str) -> Self {
        Self { pauses: false, ..Self::new(name) }
    }

    /// The same owner, whose later holds let the deadline come nearer as ever: for what no person looks at, as in CI.
    #[must_use]
    pub fn with_running_deadline(mut self) -> Self {
        self.stops_deadline = false;
        self
    }

    /// Another owner, of that name: the same one whenever it is made of this one or of its clones.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// Whether its holds pause the machine.
    pub(super) fn pauses(&self) -> bool {
        self.pauses
    }

    fn is(&self, other: &Self) -> bool {
        self.token == other.token && self.name == other.name
    }

    /// What people read.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The holds on a machine, in the order in which they were taken.
#[derive(Default)]
pub(super) struct Holds {
    owners: Vec<Owner>,
    /// How long the deadline has stood still until `since`.
    stood: Duration,
    /// Since when it stands still, if it does.
    since: Option<Instant>,
}

impl Holds {
    /// Whether the machine is to be paused.
    pub(super) fn any(&self) -> bool {
        self.owners.iter().any(|owner| owner.pauses)
    }

    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.owners.iter().any(|held| held.is(owner))
    }

    /// Adds `owner`'s hold; tells whether it had none.
    pub(super) fn add(&mut self, owner: &Owner, now: Instant) -> bool {
        let new = !self.has(owner);
        if new {
            self.owners.push(owner.clone());
            self.mark(now);
        }
        new
    }

    pub(super) fn remove(&mut self, owner: &Owner, now: Instant) {
        self.owners.retain(|held| !held.is(owner));
        self.mark(now);
    }

    /// The names of those for whom the machine is paused.
    pub(super) fn names(&self) -> Vec<String> {
        self.owners.iter().filter(|owner| owner.pauses).map(|owner| owner.name.to_string()).collect()
    }

    /// Whether the deadline stands still.
    pub(super) fn stop_deadline(&self) -> bool {
        self.since.is_some()
    }

    /// How long the deadline has stood still until `now`.
    pub(super) fn time(&self, now: Instant) -> Duration {
        self.stood + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long the deadline has stood still until it began to stand still as it does now.
    pub(super) fn time_before(&self) -> Duration {
        self.stood
    }

    /// Starts or stops the measure of the time for which the deadline stands still.
    fn mark(&mut self, now: Instant) {
        let stands = self.owners.iter().any(|owner| owner.stops_deadline);
        if stands != self.since.is_some() {
            self.stood = self.time(now);
            self.since = stands.then_some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_stands_still_while_one_holds_who_stops_it() {
        let (one, two) = (Owner::new("one"), Owner::new("two"));
        let idle = Owner::new("ci").with_running_deadline();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut holds = Holds::default();
        let onlooker = Owner::onlooker("onlooker");
        assert!(holds.add(&onlooker, at(0)) && !holds.any() && holds.stop_deadline());
        holds.remove(&onlooker, at(0));
        assert!(holds.add(&idle, at(0)) && holds.any());
        assert_eq!(holds.time(at(5)), Duration::ZERO);
        assert!(holds.add(&one, at(5)) && !holds.add(&one, at(6)) && holds.add(&two, at(7)));
        assert_eq!(holds.time(at(8)), Duration::from_secs(3));
        holds.remove(&one, at(9));
        holds.remove(&two, at(10));
        holds.remove(&two, at(11));
        assert_eq!((holds.time(at(60)), holds.names()), (Duration::from_secs(5), vec!["ci".to_owned()]));
        holds.add(&one.clone(), at(70));
        assert!(holds.has(&one) && !holds.has(&one.named("two")) && !holds.has(&two.named("one")));
        assert!(holds.has(&one.named("one")) && holds.stop_deadline());
        assert_eq!(
            (holds.time(at(71)), holds.time_before()),
            (Duration::from_secs(6), Duration::from_secs(5))
        );
    }
}
