//! Registers in JSON: as `"0x…"`, because most readers of JSON keep no more than 53 bits of a number.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{value:#x}"))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no number of the form 0x…")))
}

fn parse(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Several of them.
pub(crate) mod array {
    use super::{Deserialize, Deserializer, Error, Serializer, parse};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        values: &[u64; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| format!("{value:#x}")))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u64; N], D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let values: Option<Vec<u64>> = texts.iter().map(|text| parse(text)).collect();
        values
            .and_then(|values| values.try_into().ok())
            .ok_or_else(|| D::Error::custom(format!("{N} numbers of the form 0x… are wanted")))
    }
}

/// Bytes, as a string of two digits each.
pub(crate) mod bytes {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes
            .filter(|_| text.len().is_multiple_of(2))
            .ok_or_else(|| D::Error::custom("bytes have two hexadecimal digits each"))
    }
}
