//! ACPI's sleep and reset registers of a hardware-reduced machine: how a guest powers off and reboots.

use crate::bus::BusDevice;
use crate::layout::ACPI_RESET_VALUE;
use crate::outcome::{Outcome, PowerSwitch};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};

/// The sleep control register (ACPI 6.5 §4.8.3.7).
const SLEEP_CONTROL: u64 = 0;
/// The reset register (ACPI 6.5 §4.8.3.6). The sleep status register lies between the two; it reads zero, for
/// its one bit says that the machine woke, and this one never sleeps.
const RESET: u64 = 2;
/// `SLP_TYPx`: the sleeping state to enter.
const SLEEP_TYPE: u8 = 0b0001_1100;
/// How far `SLP_TYPx` is from bit 0.
const SLEEP_TYPE_SHIFT: u32 = 2;
/// `SLP_EN`: enter the state now. Write only.
const SLEEP_ENABLE: u8 = 0b0010_0000;

/// The value of `SLP_TYPx` that means S5, soft off: what the DSDT's `_S5` must say.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Three ports: sleep control, sleep status, reset.
pub struct AcpiPower {
    power: PowerSwitch,
    sleep_type: u8,
}

impl AcpiPower {
    /// Makes the registers that end the machine behind `power`.
    #[must_use]
    pub fn new(power: PowerSwitch) -> Self {
        Self { power, sleep_type: 0 }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        match offset {
            SLEEP_CONTROL => {
                self.sleep_type = value & SLEEP_TYPE;
                let s5 = self.sleep_type >> SLEEP_TYPE_SHIFT == SLEEP_TYPE_S5;
                if value & SLEEP_ENABLE != 0 && s5 {
                    self.power.end(Outcome::PowerOff);
                }
            }
            RESET if value == ACPI_RESET_VALUE => self.power.end(Outcome::Reset),
            _ => {}
        }
    }
}

impl BusDevice for AcpiPower {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let sleep_type = self.sleep_type;
        super::bytes::read(offset, data, |offset| if offset == SLEEP_CONTROL { sleep_type } else { 0 });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        super::bytes::write(offset, data, |offset, value| self.write_register(offset, value));
    }
}

/// The sleeping state that was chosen and not entered.
impl Persist for AcpiPower {
    fn save(&mut self) -> Result<serde_json::Value, PersistError> {
        to_value(self.sleep_type)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), PersistError> {
        self.sleep_type = from_value::<u8>(state)? & SLEEP_TYPE;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::power_switch;

    const S5: u8 = SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT;

    fn outcome_of(offset: u64, data: &[u8]) -> Option<Outcome> {
        let (power, ended) = power_switch();
        AcpiPower::new(power).write(offset, data);
        ended()
    }

    #[test]
    fn sleep_control_s5_enabled_powers_off() {
        assert_eq!(outcome_of(SLEEP_CONTROL, &[S5 | SLEEP_ENABLE]), Some(Outcome::PowerOff));
    }

    #[test]
    fn sleep_control_s5_not_enabled_does_nothing() {
        assert_eq!(outcome_of(SLEEP_CONTROL, &[S5]), None);
    }

    #[test]
    fn sleep_control_another_state_does_nothing() {
        for state in (0..8).filter(|state| *state != SLEEP_TYPE_S5) {
            let value = state << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
            assert_eq!(outcome_of(SLEEP_CONTROL, &[value]), None, "state {state}");
        }
    }

    #[test]
    fn sleep_control_written_reads_back_without_the_enable_bit() {
        let (power, _ended) = power_switch();
        let mut device = AcpiPower::new(power);
        device.write(SLEEP_CONTROL, &[3 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE]);
        let mut data = [0xff; 2];
        device.read(SLEEP_CONTROL, &mut data);
        assert_eq!(data, [3 << SLEEP_TYPE_SHIFT, 0]);
    }

    #[test]
    fn reset_register_its_value_resets() {
        assert_eq!(outcome_of(RESET, &[ACPI_RESET_VALUE]), Some(Outcome::Reset));
    }

    #[test]
    fn reset_register_another_value_does_nothing() {
        assert_eq!(outcome_of(RESET, &[ACPI_RESET_VALUE.wrapping_add(1)]), None);
    }

    #[test]
    fn sleep_status_written_does_nothing() {
        assert_eq!(outcome_of(1, &[0xff]), None);
    }

    #[test]
    fn wide_write_reaches_each_register_by_its_own_byte() {
        assert_eq!(outcome_of(1, &[0, ACPI_RESET_VALUE]), Some(Outcome::Reset));
    }
}
