//! Whether a file is still what was written: a checksum against damage, not against malice.
//!
//! A snapshot lies in its owner's folder, and whoever may change it may as well change the program. What it guards
//! against is a file that was cut off or that a disk changed, and there 64 bits do, at one multiplication for each eight
//! bytes: a cryptographic hash of a guest's memory takes longer than all else that is done with it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// An odd constant with its ones well spread: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A checksum as it grows. Each step can be undone, so that no change of one word goes unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(SPREAD)
    }

    /// The checksum of `bytes` alone.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::new();
        sum.add(bytes);
        sum
    }

    /// Adds `bytes`, and how many they are.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.step(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.step(u64::from_le_bytes(last));
        self.step(bytes.len().try_into().unwrap_or(u64::MAX));
    }

    fn step(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(SPREAD).rotate_left(29);
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let value = u64::from_str_radix(&text, 16).ok().filter(|_| plain);
        value.map(Self).ok_or_else(|| D::Error::custom("a checksum has 16 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_tells_each_flipped_bit_and_each_length_apart() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = Checksum::of(&bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(Checksum::of(&changed), whole, "byte {at}, bit {bit}");
            }
            assert_ne!(Checksum::of(&bytes[..at]), whole);
        }
        assert_ne!(Checksum::of(&[0; 7]), Checksum::of(&[0; 8]));
    }

    #[test]
    fn checksum_comes_back_from_its_text_and_from_no_other() {
        let sum = Checksum::of(b"kiln");
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Checksum>(&text).unwrap(), sum);
        for bad in ["\"\"", "\"123\"", "\"0123456789ABCDEF\"", "\"+123456789abcdef\"", "7"] {
            assert!(serde_json::from_str::<Checksum>(bad).is_err(), "{bad}");
        }
    }
}
