//! The guest's clock, set to the host's.
//!
//! A time that the host sent is old by what it took to come. So it is asked for: when it was given lies between the
//! question and the answer. Each answer bounds what the clock is off by, all of them together the best, and the clock is
//! moved by the middle once they are close enough. A guest or host that is slow takes more questions, and does not get a
//! wrong time.

use std::io;

use kiln_protocol::wire::Adopted;
use rustix::time::{ClockId, clock_gettime};

use super::refusal;
use crate::server::Refusal;

/// Bounds that are so close are close enough, in nanoseconds: the clock is then off by half of it at most.
const CLOSE: i128 = 4_000_000;
/// So many questions are asked at most; then the best that is known has to do, and is told.
const MOST: u32 = 200;
const NANOSECONDS: i128 = 1_000_000_000;

/// How far the host's clock is before the guest's, in nanoseconds: between these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i128,
    high: i128,
}

impl Bounds {
    /// From the host's time, and when it was asked for and came by the guest's clock.
    fn of(asked: i128, host: i128, came: i128) -> Self {
        Self { low: host - came, high: host - asked }
    }

    /// What holds if both do; if they contradict each other somebody set the host's clock, and the later one holds.
    fn and(self, later: Self) -> Self {
        let (low, high) = (self.low.max(later.low), self.high.min(later.high));
        if low <= high { Self { low, high } } else { later }
    }

    fn width(self) -> i128 {
        self.high - self.low
    }

    fn middle(self) -> i128 {
        self.low + self.width() / 2
    }
}

/// The questions, and what came of them.
pub(crate) struct Exchange {
    asked: i128,
    questions: u32,
    bounds: Option<Bounds>,
}

impl Exchange {
    /// The host is asked for its time now.
    pub(crate) fn begin() -> Self {
        Self { asked: now(), questions: 1, bounds: None }
    }

    /// The host answered. Sets the clock, or is none when the host is asked again now.
    pub(crate) fn answer(&mut self, host: u64) -> Result<Option<Adopted>, Refusal> {
        let latest = Bounds::of(self.asked, host.into(), now());
        let bounds = self.bounds.map_or(latest, |known| known.and(latest));
        if bounds.width() > CLOSE && self.questions < MOST {
            self.bounds = Some(bounds);
            self.questions += 1;
            self.asked = now();
            return Ok(None);
        }
        move_clock(bounds.middle()).map_err(|error| refusal("set the clock", &error))?;
        // The kernel takes microseconds.
        let clock_error = u64::try_from(bounds.width() - bounds.width() / 2 + 1000).unwrap_or(u64::MAX);
        Ok(Some(Adopted { clock_error }))
    }
}

/// The guest's time, in nanoseconds since 1970.
fn now() -> i128 {
    let time = clock_gettime(ClockId::Realtime);
    i128::from(time.tv_sec) * NANOSECONDS + i128::from(time.tv_nsec)
}

/// Moves the clock as it stands by so many nanoseconds: how long it takes to get there does not matter.
fn move_clock(by: i128) -> io::Result<()> {
    let seconds = i64::try_from(by.div_euclid(NANOSECONDS));
    let rest = i64::try_from(by.rem_euclid(NANOSECONDS) / 1000);
    match (seconds, rest) {
        (Ok(seconds), Ok(rest)) => crate::system::move_clock(seconds, rest),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_bound_what_the_clock_is_off_by() {
        // The host is 1,000 before the guest; the way there takes 10, the way back 30.
        let slow = Bounds::of(0, 1_010, 40);
        assert_eq!((slow, slow.width()), (Bounds { low: 970, high: 1_010 }, 40));
        // There 30, back 5: both together are better than either.
        let both = slow.and(Bounds::of(100, 1_130, 135));
        assert_eq!(both, Bounds { low: 995, high: 1_010 });
        assert!(both.middle().abs_diff(1_000) <= 8);
        // One that says nothing takes nothing away.
        assert_eq!(both.and(Bounds::of(200, 6_000, 9_000)), both);
    }

    #[test]
    fn clock_of_the_host_that_was_set_meanwhile_counts_from_then_on() {
        let before = Bounds::of(0, 1_000, 10);
        let after = Bounds::of(20, 500, 40);
        assert_eq!(before.and(after), after);
    }

    #[test]
    fn clock_before_the_hosts_goes_back() {
        let bounds = Bounds::of(5_000_000_000, 1_000_000_000, 5_000_000_100);
        assert_eq!(bounds.middle(), -4_000_000_050);
        assert_eq!(bounds.middle().div_euclid(NANOSECONDS), -5);
    }
}
