//! `state.json`: a line that says what follows, and how long it is; then the state.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::{SCHEMA, SnapshotError, State};

/// The file of a snapshot that holds all but RAM.
pub(super) const STATE: &str = "state.json";
/// The file that holds RAM.
pub(super) const MEMORY: &str = "memory";

/// More than any state: payloads are in it, as numbers.
const STATE_MAX: u64 = 256 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    kiln_snapshot: u32,
    length: usize,
    checksum: Checksum,
}

/// What can be read of any version's first line.
#[derive(Deserialize)]
struct AnyHead {
    kiln_snapshot: u32,
}

pub(super) fn write(state: &State, to: &mut impl Write) -> io::Result<()> {
    let body = serde_json::to_vec(state)?;
    let head = Head { kiln_snapshot: SCHEMA, length: body.len(), checksum: Checksum::of(&body) };
    let mut bytes = serde_json::to_vec(&head)?;
    bytes.push(b'\n');
    bytes.extend(body);
    to.write_all(&bytes)
}

pub(super) fn read(path: &Path) -> Result<State, SnapshotError> {
    let io = |source| SnapshotError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(STATE_MAX).read_to_end(&mut bytes).map_err(io)?;
    parse(&bytes).map_err(|error| match error {
        Bad::Version(there) => SnapshotError::Version { path: path.to_owned(), there, here: SCHEMA },
        Bad::Damaged(what) => SnapshotError::Damaged { path: path.to_owned(), what },
    })
}

/// Why bytes are no state.
#[derive(Debug)]
enum Bad {
    Version(u32),
    Damaged(String),
}

fn parse(bytes: &[u8]) -> Result<State, Bad> {
    let damaged = |what: &str| Bad::Damaged(what.to_owned());
    let line = bytes.iter().position(|byte| *byte == b'\n');
    let (head, body) =
        line.and_then(|at| bytes.split_at_checked(at)).ok_or(damaged("it has no first line"))?;
    let body = body.get(1..).unwrap_or_default();
    let any: AnyHead =
        serde_json::from_slice(head).map_err(|_| damaged("its first line is none of a snapshot"))?;
    if any.kiln_snapshot != SCHEMA {
        return Err(Bad::Version(any.kiln_snapshot));
    }
    let head: Head =
        serde_json::from_slice(head).map_err(|_| damaged("its first line is none of a snapshot"))?;
    if body.len() != head.length {
        let what = format!(
            "it has {} bytes behind its first line, and was written with {}",
            body.len(),
            head.length
        );
        return Err(Bad::Damaged(what));
    }
    if Checksum::of(body) != head.checksum {
        return Err(damaged("its bytes are not those that were written"));
    }
    serde_json::from_slice(body).map_err(|error| Bad::Damaged(format!("it makes no sense: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&super::super::tests::state(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn state_comes_back_as_it_was_written() {
        let mut again = Vec::new();
        write(&parse(&sample()).unwrap(), &mut again).unwrap();
        assert_eq!(again, sample());
    }

    #[test]
    fn state_cut_off_anywhere_is_refused() {
        let bytes = sample();
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Err(Bad::Damaged(_))), "{end} bytes");
        }
    }

    #[test]
    fn state_with_any_byte_changed_is_refused() {
        let bytes = sample();
        for at in 0..bytes.len() {
            for change in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                assert!(parse(&changed).is_err(), "byte {at} changed by {change:#x}");
            }
        }
    }

    #[test]
    fn state_of_another_version_is_named_by_it() {
        let text = String::from_utf8(sample()).unwrap();
        let own = format!("\"kiln_snapshot\":{SCHEMA}");
        let other = text.replace(&own, "\"kiln_snapshot\":4000000");
        assert!(matches!(parse(other.as_bytes()), Err(Bad::Version(4_000_000))));
        let newer = "{\"kiln_snapshot\":99,\"what\":\"ever\"}\n";
        assert!(matches!(parse(newer.as_bytes()), Err(Bad::Version(99))));
    }
}
