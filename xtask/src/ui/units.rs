//! Times and sizes as people say them.

use std::time::Duration;

/// A time in three digits or so: `340 ms`, `2.75 s`, `3 min 20 s`.
pub(crate) fn duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let seconds = time.as_secs();
    match seconds {
        _ if milliseconds < 1000 => format!("{milliseconds} ms"),
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..100 => format!("{:.1} s", time.as_secs_f64()),
        100..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size in binary units: `512 B`, `4.0 KiB`, `43 MiB`.
pub(crate) fn bytes(size: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    // Tenths of the unit, rounded, so that no float is needed.
    let mut tenths = (u128::from(size) * 10).div_ceil(1024);
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    match tenths {
        0..100 => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
        _ => format!("{} {}", tenths / 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_keeps_about_three_digits() {
        let texts = [0, 340, 2_750, 12_345, 200_000, 3_900_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(texts, ["0 ms", "340 ms", "2.75 s", "12.3 s", "3 min 20 s", "1 h 05 min"]);
    }

    #[test]
    fn bytes_are_in_the_unit_that_fits() {
        let texts = [0, 1023, 4096, 43 << 20, 3 << 30, u64::MAX].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "4.0 KiB", "43 MiB", "3.0 GiB", "16777216 TiB"]);
    }
}
