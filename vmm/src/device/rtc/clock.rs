//! A moment as the chip's registers have it, and as seconds since 1970.

use serde::{Deserialize, Serialize};

use super::{B_24_HOURS, B_BINARY, CENTURY};

/// In hours of twelve, the bit for the second half of the day.
const PM: u8 = 1 << 7;
const DAY: i64 = 24 * 60 * 60;

/// How numbers stand in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    binary: bool,
    hours_24: bool,
}

impl Form {
    /// What register B says.
    pub(super) fn of(status_b: u8) -> Self {
        Self { binary: status_b & B_BINARY != 0, hours_24: status_b & B_24_HOURS != 0 }
    }

    fn write(self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10 % 10) << 4) | (value % 10) }
    }

    fn read(self, value: u8) -> u8 {
        if self.binary { value } else { (value >> 4) * 10 + (value & 0xf) }
    }
}

/// A moment in UTC, in the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    /// 0 to 9999.
    year: u16,
}

impl Time {
    /// The moment so many seconds after the beginning of 1970.
    pub(super) fn at(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Days are counted from the first of March of the year 0, so that a leap day is the last of its year.
        let days_0 = days + 719_468;
        let (era, of_era) = (days_0.div_euclid(146_097), days_0.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let small = |value: i64| u8::try_from(value).unwrap_or(0);
        Self {
            second: small(of_day % 60),
            minute: small(of_day / 60 % 60),
            hour: small(of_day / 3600),
            weekday: small((days + 4).rem_euclid(7) + 1),
            day: small(day),
            month: small(month),
            year: u16::try_from(year.clamp(0, 9999)).unwrap_or(0),
        }
    }

    /// Seconds since the beginning of 1970. A date that there is not (the 31st of June) is as many days later.
    pub(super) fn seconds(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = (month + 9) % 12;
        let of_year = (153 * from_march + 2) / 5 + i64::from(self.day) - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// What a register of the clock holds; none if it is another register.
    pub(super) fn field(self, register: u8, form: Form) -> Option<u8> {
        let part = |value: u16| u8::try_from(value).unwrap_or(0);
        Some(match register {
            0 => form.write(self.second),
            2 => form.write(self.minute),
            4 if form.hours_24 => form.write(self.hour),
            4 => {
                let hour = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
                form.write(hour) | if self.hour >= 12 { PM } else { 0 }
            }
            6 => form.write(self.weekday),
            7 => form.write(self.day),
            8 => form.write(self.month),
            9 => form.write(part(self.year % 100)),
            CENTURY => form.write(part(self.year / 100)),
            _ => return None,
        })
    }

    /// Takes what is written to a register of the clock; false if it is another register.
    pub(super) fn set_field(&mut self, register: u8, value: u8, form: Form) -> bool {
        let plain = form.read(value);
        match register {
            0 => self.second = plain,
            2 => self.minute = plain,
            4 if form.hours_24 => self.hour = plain,
            4 => {
                let half = if value & PM != 0 { 12 } else { 0 };
                self.hour = form.read(value & !PM) % 12 + half;
            }
            // It follows from the date.
            6 => {}
            7 => self.day = plain,
            8 => self.month = plain,
            9 => self.year = self.year / 100 * 100 + u16::from(plain.min(99)),
            CENTURY => self.year = u16::from(plain.min(99)) * 100 + self.year % 100,
            _ => return false,
        }
        true
    }
}
