//! What the agent and its host say to each other.
//!
//! A frame is its payload's length (four bytes, little-endian) and the payload, an [`Envelope`] in postcard.
//! The host chooses an id for each request; everything that belongs to the request bears it, both ways.
//! Bytes of a stream are sent only against credit: each direction of an id begins with [`WINDOW`] bytes of
//! it, and the receiver returns what it consumed.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all that is said here; both ends must have the same.
pub const VERSION: u32 = 3;
/// The name of the virtio port that the agent is reached on.
pub const PORT_NAME: &str = "kiln.agent";
/// Where the agent mounts the disk that an [`Adoption`] names, below the links to all that is on it.
pub const CASE_PATH: &str = "/run/kiln/case";
/// The fewest and the most bytes of [`Adoption::entropy`]: a key of the kernel's generator (32, BLAKE2s's and ChaCha20's), and
/// what more than that adds nothing to.
pub const ENTROPY: core::ops::RangeInclusive<usize> = 32..=512;
/// Where the agent is in a guest.
pub const AGENT_PATH: &str = "/sbin/kiln-agent";
/// The most bytes of a stream that one message carries.
pub const DATA_MAX: usize = 64 << 10;
/// The longest payload: a full message of data, and what is around it.
pub const FRAME_MAX: usize = DATA_MAX + 64;
/// How many bytes each direction of an id may have under way.
pub const WINDOW: usize = 256 << 10;
/// Consumed bytes are told in steps of so many, to spare messages.
pub const CREDIT_STEP: usize = WINDOW / 4;
/// The length of a frame's header.
const HEADER: usize = 4;

/// A message, and the request that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<M> {
    /// The request; 0 for what belongs to none.
    pub id: u32,
    /// The message.
    pub message: M,
}

/// What the host says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Run a program.
    Exec(Exec),
    /// Bytes for its standard input.
    Stdin(#[serde(with = "bytes")] Vec<u8>),
    /// Its standard input ends here.
    StdinClose,
    /// Send a signal to it and all in its process group.
    Kill(i32),
    /// The window of its terminal has this size now.
    Resize(TerminalSize),
    /// Take its terminal away: it is hung up, and all in its session that does not end by itself is killed.
    HangUp,
    /// Make a file of the [`ToAgent::PutData`] that follows.
    Put {
        /// Where it goes.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Bytes for the file.
    PutData(#[serde(with = "bytes")] Vec<u8>),
    /// The file is complete: it takes its place now.
    PutEnd,
    /// Send what a file holds.
    Get {
        /// Which.
        path: String,
    },
    /// Connect to a Unix socket.
    Connect {
        /// Which.
        path: String,
    },
    /// Bytes for the connection.
    Data(#[serde(with = "bytes")] Vec<u8>),
    /// No more bytes for the connection.
    Close,
    /// Forget the request: end the process, the transfer or the connection, and say no more of it.
    Abort,
    /// Write all that is cached to the disks.
    Sync,
    /// The guest is about to be saved: do once what each that goes on from there would have to do, and have nothing under
    /// way. Nothing may be under way before, either.
    Settle,
    /// The guest goes on from one that was saved, as one of many: become this one. The agent asks for the time meanwhile.
    Adopt(Adoption),
    /// The host's time when it was asked for it, in nanoseconds since 1970, without leap seconds.
    Time(u64),
    /// End the guest.
    PowerOff,
    /// So many bytes of the id's stream were consumed.
    Credit(u32),
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// The first message, with id 0.
    Hello(Hello),
    /// The program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Bytes of its standard output.
    Stdout(#[serde(with = "bytes")] Vec<u8>),
    /// Bytes of its standard error.
    Stderr(#[serde(with = "bytes")] Vec<u8>),
    /// Bytes that it wrote to descriptor 3.
    Events(#[serde(with = "bytes")] Vec<u8>),
    /// It ended; this is the id's last message.
    Exited(Status),
    /// The connection stands.
    Connected,
    /// Bytes of a file or from a connection.
    Data(#[serde(with = "bytes")] Vec<u8>),
    /// No more bytes will come from the connection.
    Close,
    /// Say what time it is, at once.
    AskTime,
    /// The guest is the one that it was told to be; this is the id's last message.
    Adopted(Adopted),
    /// The request was done; this is the id's last message.
    Ok,
    /// The request failed; this is the id's last message.
    Refused {
        /// The guest's errno.
        errno: i32,
        /// What was refused and why, in one line.
        message: String,
    },
    /// So many bytes of the id's stream were consumed.
    Credit(u32),
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program, looked for on `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// What is set in its environment beside the defaults.
    pub env: Vec<(String, String)>,
    /// Where it runs; `/` if none.
    pub cwd: Option<String>,
    /// Whether its standard input is what the host sends; otherwise it is empty.
    pub stdin: bool,
    /// Whether it has descriptor 3 to write events to.
    pub events: bool,
    /// The size of its terminal's window, if it runs on a terminal of its own. All that it writes there is standard
    /// output; what the host sends is typed, and the end of it is the terminal's end-of-file character.
    pub terminal: Option<TerminalSize>,
}

/// What makes a guest that goes on from a saved one different from all others that do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Random bytes, as many as [`ENTROPY`] allows, for the kernel's generator: all of them count as random.
    #[serde(with = "bytes")]
    pub entropy: Vec<u8>,
    /// Its name; the one that it has if none.
    pub hostname: Option<String>,
    /// Its `/etc/machine-id` (machine-id(5)); the one that it has, if it has one, if none.
    pub machine_id: Option<[u8; 16]>,
    /// The disk with what it is to run, if there is one.
    pub disk: Option<CaseDisk>,
}

/// A disk that is found by its serial number or, if it is persistent memory, by the kernel's name, mounted read-only at [`CASE_PATH`], and linked into the root: whatever is
/// on it and not in the guest is then at its own path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseDisk {
    /// The serial number of the virtio disk; `pmem0` of persistent memory, which has none.
    pub serial: String,
    /// Its size in bytes, a multiple of 512: it may have had none before, and is waited for.
    pub size: u64,
}

/// How an [`Adoption`] went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The most that the guest's clock can be wrong by, in nanoseconds, as it was set.
    pub clock_error: u64,
}

/// The size of a terminal's window, in characters; 0 is one that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub columns: u16,
}

/// Who the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`VERSION`].
    pub protocol: u32,
    /// The version of its program.
    pub agent: String,
    /// The release of the kernel that it runs on.
    pub kernel: String,
    /// What went wrong on the way here without ending it.
    pub warnings: Vec<String>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The payload is longer than [`FRAME_MAX`], or has no bytes at all.
    Length(usize),
    /// The payload is no message of this version.
    Undecodable,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a frame of {length} bytes; 1 to {FRAME_MAX} are allowed"),
            Self::Undecodable => write!(f, "a frame that is no message of protocol version {VERSION}"),
        }
    }
}

impl core::error::Error for WireError {}

/// The frame of a message.
///
/// # Errors
/// The message is too long for a frame.
pub fn encode<M: Serialize>(id: u32, message: M) -> Result<Vec<u8>, WireError> {
    // The header's room is made first, so that the payload is written once and where it belongs.
    let mut frame = postcard::to_extend(&Envelope { id, message }, Vec::from([0; HEADER]))
        .map_err(|_| WireError::Undecodable)?;
    let length = frame.len() - HEADER;
    if length > FRAME_MAX {
        return Err(WireError::Length(length));
    }
    let header = u32::try_from(length).map_err(|_| WireError::Length(length))?;
    frame[..HEADER].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

/// Takes a stream's bytes as they come, and gives its frames.
///
/// It holds what was fed and not yet taken: take all frames before feeding more, and it never holds more
/// than what was fed at once and one frame.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
    failed: Option<WireError>,
}

impl Decoder {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    /// The bytes are no frame. There is no way to find the next one: the same error is given ever after.
    pub fn next_frame<M: DeserializeOwned>(&mut self) -> Result<Option<Envelope<M>>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take();
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    fn take<M: DeserializeOwned>(&mut self) -> Result<Option<Envelope<M>>, WireError> {
        let Some((header, rest)) = self.buffer[self.taken..].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length == 0 || length > FRAME_MAX {
            return Err(WireError::Length(length));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        match postcard::take_from_bytes(payload) {
            Ok((envelope, [])) => {
                self.taken += HEADER + length;
                Ok(Some(envelope))
            }
            _ => Err(WireError::Undecodable),
        }
    }
}

/// Bytes in one piece; serde's own way for a `Vec<u8>` goes byte by byte.
mod bytes {
    use alloc::vec::Vec;
    use core::fmt;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    fn some() -> Vec<Envelope<ToAgent>> {
        let size = TerminalSize { rows: 24, columns: u16::MAX };
        let exec = Exec { argv: vec!["cat".to_string()], stdin: true, ..Exec::default() };
        [
            ToAgent::Exec(Exec { terminal: Some(size), ..exec.clone() }),
            ToAgent::Exec(exec),
            ToAgent::Stdin(vec![7; 300]),
            ToAgent::StdinClose,
            ToAgent::Resize(size),
            ToAgent::HangUp,
            ToAgent::Adopt(Adoption {
                entropy: vec![9; 64],
                hostname: Some("fork".to_string()),
                machine_id: Some([3; 16]),
                disk: Some(CaseDisk { serial: "vdb".to_string(), size: 512 }),
            }),
            ToAgent::Time(u64::MAX),
            ToAgent::Credit(u32::MAX),
        ]
        .into_iter()
        .zip(1..)
        .map(|(message, id)| Envelope { id, message })
        .collect()
    }

    #[test]
    fn frames_arrive_whole_wherever_the_stream_is_cut() {
        let sent = some();
        let stream: Vec<u8> = sent.iter().flat_map(|e| encode(e.id, &e.message).unwrap()).collect();
        for piece in 1..=stream.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                decoder.feed(bytes);
                while let Some(envelope) = decoder.next_frame().unwrap() {
                    got.push(envelope);
                }
            }
            assert_eq!(got, sent, "in pieces of {piece}");
        }
    }

    #[test]
    fn longest_data_fits_and_one_frame_more_does_not() {
        let frame = encode(u32::MAX, ToHost::Stdout(vec![1; DATA_MAX])).unwrap();
        let mut decoder = Decoder::default();
        decoder.feed(&frame);
        let envelope = decoder.next_frame::<ToHost>().unwrap().unwrap();
        assert_eq!(envelope.message, ToHost::Stdout(vec![1; DATA_MAX]));
        assert!(matches!(encode(1, ToHost::Stdout(vec![1; FRAME_MAX])), Err(WireError::Length(_))));
    }

    #[test]
    fn bad_length_is_refused_before_its_payload_comes_and_for_good() {
        for length in [0, u32::try_from(FRAME_MAX).unwrap() + 1, u32::MAX] {
            let mut decoder = Decoder::default();
            decoder.feed(&length.to_le_bytes());
            assert!(matches!(decoder.next_frame::<ToHost>(), Err(WireError::Length(_))));
            decoder.feed(&encode(1, ToHost::Ok).unwrap());
            assert!(decoder.next_frame::<ToHost>().is_err());
        }
    }

    #[test]
    fn garbage_never_panics_and_trailing_bytes_are_refused() {
        let mut state = 0x1234_5678_u32;
        for length in 1..200_u32 {
            let mut decoder = Decoder::default();
            decoder.feed(&length.to_le_bytes());
            let payload: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect();
            decoder.feed(&payload);
            let _ = decoder.next_frame::<ToAgent>();
        }
        let mut frame = encode(1, ToHost::Ok).unwrap();
        frame.push(0);
        frame[0] += 1;
        let mut decoder = Decoder::default();
        decoder.feed(&frame);
        assert_eq!(decoder.next_frame::<ToHost>(), Err(WireError::Undecodable));
    }
}
