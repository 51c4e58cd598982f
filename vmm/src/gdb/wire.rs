//! The bytes of a session: a client's packets made harmless, and what is said to it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gdbstub::conn::Connection;

/// The longest packet; gdb is told so.
pub(super) const PACKET: usize = 16 << 10;
/// The most that one packet may read of memory: as hexadecimal digits it fits another.
const READ_MAX: u64 = 0x1f00;
/// What is said is passed on in pieces of at most so much.
const PIECE: usize = 32 << 10;
/// How long a client may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's connection.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Has a client that does not read hold up nobody for long.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(Some(PATIENCE)),
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))
            }
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(bytes),
            Self::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => Write::write(stream, bytes),
            Self::Tcp(stream) => Write::write(stream, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number that what can't be done is refused by, where there are words for it: `EINVAL`.
pub(super) const REFUSED: u8 = 22;

/// Why what the client asked for last is refused. It takes the place of the number in the answer ("Standard Replies" in
/// gdb's manual, `E.errtext`), which the protocol's crate can't say.
#[derive(Clone, Default)]
pub(super) struct Words(Arc<Mutex<Option<String>>>);

impl Words {
    /// For the answer that comes next, which is to be [`REFUSED`].
    pub(super) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The way to the client: an answer goes out in one piece.
pub(super) struct Out<W> {
    to: W,
    words: Words,
    waiting: Vec<u8>,
}

impl<W: Write> Out<W> {
    pub(super) fn new(to: W, words: Words) -> Self {
        Self { to, words, waiting: Vec::new() }
    }

    /// Has gdb print `text`, which it does only while it waits for the machine to stop.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.write_all(framed(&format!("O{digits}")).as_bytes())?;
        Connection::flush(self)
    }
}

impl<W: Write> Connection for Out<W> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.waiting.push(byte);
        if self.waiting.len() < PIECE { Ok(()) } else { Connection::flush(self) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(words) = self.words.take()
            && let Some(before) = self.waiting.strip_suffix(framed(&format!("E{REFUSED:02x}")).as_bytes())
        {
            self.waiting = [before, framed(&format!("E.{words}")).as_bytes()].concat();
        }
        let done = self.to.write_all(&self.waiting);
        self.waiting.clear();
        done
    }
}

/// A packet with this in it.
fn framed(body: &str) -> String {
    let sum = body.bytes().fold(0u8, u8::wrapping_add);
    format!("${body}#{sum:02x}")
}

/// Puts a client's bytes together to packets.
#[derive(Default)]
pub(super) struct Packets {
    packet: Vec<u8>,
    /// How many bytes of the check sum are to come, once they are all that is.
    left: Option<u8>,
}

impl Packets {
    /// Takes a byte; returns the packet that it completes. A byte outside of packets is one.
    ///
    /// # Errors
    /// The packet is too long.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<Vec<u8>>, io::Error> {
        if self.packet.is_empty() && byte != b'$' {
            return Ok(Some(vec![byte]));
        }
        if self.packet.len() >= PACKET {
            return Err(io::Error::other("a packet that is too long"));
        }
        self.packet.push(byte);
        self.left = match self.left {
            None if byte == b'#' => Some(2),
            None | Some(0) => None,
            Some(left) => Some(left - 1),
        };
        if self.left == Some(0) {
            self.left = None;
            return Ok(Some(bounded(std::mem::take(&mut self.packet))));
        }
        Ok(None)
    }
}

/// A packet that reads more of memory than fits, or past the last address, reads less instead: that is what the
/// protocol lets a stub do.
fn bounded(packet: Vec<u8>) -> Vec<u8> {
    let asked = packet.strip_prefix(b"$m").and_then(|rest| {
        let body = rest.get(..rest.len().checked_sub(3)?)?;
        let (address, length) = std::str::from_utf8(body).ok()?.split_once(',')?;
        Some((u64::from_str_radix(address, 16).ok()?, u64::from_str_radix(length, 16).ok()?))
    });
    let Some((address, length)) = asked else { return packet };
    let most = READ_MAX.min((u64::MAX - address).saturating_add(1));
    if length <= most {
        return packet;
    }
    framed(&format!("m{address:x},{most:x}")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(bytes: &[u8]) -> Vec<String> {
        let mut packets = Packets::default();
        let complete = bytes.iter().filter_map(|byte| packets.push(*byte).unwrap());
        complete.map(|packet| String::from_utf8(packet).unwrap()).collect()
    }

    #[test]
    fn packets_are_told_apart_from_acknowledgements_and_interrupts() {
        assert_eq!(packets(b"+$g#67\x03$m1000,4#8e-"), ["+", "$g#67", "\x03", "$m1000,4#8e", "-"]);
        assert_eq!(packets(b"$g#6"), [""; 0]);
    }

    #[test]
    fn read_of_too_much_becomes_a_read_of_less() {
        assert_eq!(packets(b"$m0,ffffffffffffffff#xx"), [framed("m0,1f00")]);
        assert_eq!(packets(b"$mfffffffffffffffe,4#xx"), [framed("mfffffffffffffffe,2")]);
        assert_eq!(packets(b"$m1000,1f00#xx"), ["$m1000,1f00#xx"]);
        for odd in ["$m#xx", "$m,#xx", "$m0#xx", "$m0,zz#xx", "$m0,11112222333344445#xx"] {
            assert_eq!(packets(odd.as_bytes()), [odd]);
        }
    }

    #[test]
    fn packet_that_never_ends_is_refused() {
        let mut packets = Packets::default();
        packets.push(b'$').unwrap();
        let refused = (0..PACKET).find(|_| packets.push(b'a').is_err());
        assert_eq!(refused, Some(PACKET - 1));
    }

    #[test]
    fn answer_goes_out_in_one_piece_and_a_long_one_in_several() {
        let mut out = Out::new(Vec::new(), Words::default());
        for byte in *b"$OK#9a" {
            Connection::write(&mut out, byte).unwrap();
        }
        assert!(out.to.is_empty());
        Connection::flush(&mut out).unwrap();
        assert_eq!(out.to, b"$OK#9a");
        for _ in 0..=PIECE {
            Connection::write(&mut out, b'0').unwrap();
        }
        assert_eq!((out.to.len(), out.waiting.len()), (6 + PIECE, 1));
        out.say("hi\n").unwrap();
        assert!(out.to.ends_with(b"0$O68690a#bd"));
    }

    #[test]
    fn refusal_is_told_in_words_once_and_other_answers_are_left_alone() {
        let words = Words::default();
        let mut out = Out::new(Vec::new(), words.clone());
        let mut answer = |text: &[u8]| {
            text.iter().for_each(|byte| Connection::write(&mut out, *byte).unwrap());
            Connection::flush(&mut out).unwrap();
            std::mem::take(&mut out.to)
        };
        words.set("a ROM".to_owned());
        assert_eq!(answer(b"+$E16#ac"), [b"+", framed("E.a ROM").as_bytes()].concat());
        assert_eq!(answer(b"$E16#ac"), b"$E16#ac");
        words.set("a ROM".to_owned());
        assert_eq!(answer(b"$OK#9a"), b"$OK#9a");
    }
}
