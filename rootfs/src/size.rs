//! Sizes as users write them.

/// Bytes: `K`, `M`, `G` are binary, a bare number is MiB.
///
/// # Errors
/// It is no size, nothing, or too much: why.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let shift = match unit {
        "K" | "k" => 10,
        "" | "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return Err("not a size; write 512, 512M, 2G or 65536K".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| match digits {
        "" => "not a size; write 512, 512M, 2G or 65536K",
        _ => "too much",
    })?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("it can't be nothing".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("too much".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_with_a_unit_is_binary_and_without_one_mib() {
        assert_eq!(parse("512"), Ok(512 << 20));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("64k"), Ok(64 << 10));
        assert_eq!(parse("3G"), Ok(3 << 30));
    }

    #[test]
    fn size_that_is_none_is_refused() {
        for text in
            ["", "M", "0", "0G", "-1", "1.5G", "12T", "1 G", "99999999999999999999", "99999999999999G"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
