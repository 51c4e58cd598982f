//! The keyboard controller's one use here: pulsing the processor's reset line.
//!
//! There is no keyboard and no controller that answers commands. What a guest reads is chosen so that its
//! probing ends soon: the status says for ever "a byte for you" and never "busy".
//! - Linux's driver drains 16 bytes at most, then says that there is no controller. A status of zero would
//!   pass that check, and each command sent next would be waited for in 10,000 reads.
//! - Linux's reboot waits for "not busy" before its pulse: with all ones that is 65,536 reads.

use crate::bus::BusDevice;
use crate::outcome::{Outcome, PowerSwitch};

/// The status port when read, the command port when written (PC/AT technical reference, keyboard controller).
/// The data port, at offset 0, is not listened to.
const COMMAND: u64 = 4;
/// All status bits but bit 1, "input buffer full": see the module's account of why.
const STATUS: u8 = !0b10;
/// Commands 0xf0 to 0xff pulse those of the output port's low four lines whose bit is zero.
const PULSE: u8 = 0xf0;
/// The output port's line 0: the processor's reset, active low. Guests write 0xfe: this line alone.
const RESET_LINE: u8 = 1;

/// An i8042 that knows how to reset the machine, and else looks absent. Of the five ports from its data port on the first
/// and the last are its own; between them is the PIT's gate.
pub struct I8042 {
    power: PowerSwitch,
    /// The first of the ports in view.
    from: u64,
}

impl I8042 {
    /// Makes the controller that resets the machine behind `power`.
    #[must_use]
    pub fn new(power: PowerSwitch) -> Self {
        Self { power, from: 0 }
    }

    /// The command port alone.
    #[must_use]
    pub fn command(self) -> Self {
        Self { from: COMMAND, ..self }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        super::bytes::read(self.from + offset, data, |offset| if offset == COMMAND { STATUS } else { 0xff });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        super::bytes::write(self.from + offset, data, |offset, value| {
            if offset == COMMAND && value & PULSE == PULSE && value & RESET_LINE == 0 {
                self.power.end(Outcome::Reset);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::power_switch;

    const DATA: u64 = 0;

    fn outcome_of(offset: u64, data: &[u8]) -> Option<Outcome> {
        let (power, ended) = power_switch();
        I8042::new(power).write(offset, data);
        ended()
    }

    fn read(offset: u64) -> u8 {
        let (power, _ended) = power_switch();
        let mut data = [0];
        I8042::new(power).read(offset, &mut data);
        data[0]
    }

    #[test]
    fn i8042_reset_pulse_resets() {
        assert_eq!(outcome_of(COMMAND, &[0xfe]), Some(Outcome::Reset));
    }

    #[test]
    fn i8042_command_port_alone_is_the_same() {
        let (power, ended) = power_switch();
        let mut port = I8042::new(power).command();
        let mut status = [0];
        port.read(0, &mut status);
        assert_eq!(status, [STATUS]);
        port.write(0, &[0xfe]);
        assert_eq!(ended(), Some(Outcome::Reset));
    }

    #[test]
    fn i8042_pulse_of_no_line_does_nothing() {
        assert_eq!(outcome_of(COMMAND, &[0xff]), None);
    }

    #[test]
    fn i8042_pulse_value_on_the_data_port_does_nothing() {
        assert_eq!(outcome_of(DATA, &[0xfe]), None);
    }

    #[test]
    fn i8042_other_commands_do_nothing() {
        for command in 0..0xf0 {
            assert_eq!(outcome_of(COMMAND, &[command]), None, "command {command:#x}");
        }
    }

    #[test]
    fn i8042_wide_write_over_the_command_port_resets() {
        assert_eq!(outcome_of(1, &[0, 0, 0, 0xfe]), Some(Outcome::Reset));
    }

    #[test]
    fn i8042_status_looks_full_for_the_driver_and_idle_for_the_reboot() {
        assert_eq!((read(COMMAND) & 1, read(COMMAND) & 2), (1, 0));
    }

    #[test]
    fn i8042_data_reads_all_ones() {
        assert_eq!(read(DATA), 0xff);
    }
}
