//! The debug-exit port: a guest's shortest way to end the machine with a status.

use crate::bus::BusDevice;
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::persist::stateless;

/// A port that ends the machine when it is written to.
///
/// A write of any width is one value, little-endian; of eight bytes the low four count. Reads give all ones.
pub struct DebugExit {
    power: PowerSwitch,
}

impl DebugExit {
    /// Makes the port that ends the machine behind `power`.
    #[must_use]
    pub fn new(power: PowerSwitch) -> Self {
        Self { power }
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let value = data.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        self.power.end(Outcome::DebugExit { value });
    }
}

stateless!(DebugExit);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::power_switch;

    fn outcome_of(data: &[u8]) -> Option<Outcome> {
        let (power, ended) = power_switch();
        DebugExit::new(power).write(0, data);
        ended()
    }

    #[test]
    fn debug_exit_byte_written_ends_with_it() {
        assert_eq!(outcome_of(&[21]), Some(Outcome::DebugExit { value: 21 }));
    }

    #[test]
    fn debug_exit_four_bytes_written_are_little_endian() {
        assert_eq!(outcome_of(&[4, 3, 2, 1]), Some(Outcome::DebugExit { value: 0x0102_0304 }));
    }

    #[test]
    fn debug_exit_two_bytes_at_an_odd_offset_count_whole() {
        let (power, ended) = power_switch();
        DebugExit::new(power).write(1, &[0x34, 0x12]);
        assert_eq!(ended(), Some(Outcome::DebugExit { value: 0x1234 }));
    }

    #[test]
    fn debug_exit_eight_bytes_written_count_the_low_four() {
        assert_eq!(outcome_of(&[1, 0, 0, 0, 9, 9, 9, 9]), Some(Outcome::DebugExit { value: 1 }));
    }

    #[test]
    fn debug_exit_read_gives_all_ones_and_ends_nothing() {
        let (power, ended) = power_switch();
        let mut data = [0; 4];
        DebugExit::new(power).read(0, &mut data);
        assert_eq!((data, ended()), ([0xff; 4], None));
    }
}
