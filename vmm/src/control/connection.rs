//! One client's connection: its lines, what it is owed, and how long it may leave that unread.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fork::NotInChildren;
use super::protocol::LINE_MAX;

/// How much is read at a time, so that one who says much does not keep the loop from others.
const AT_ONCE: usize = 16 << 10;
/// How much a client may leave unread before it gets no more events but is dropped.
pub(super) const UNREAD_MAX: usize = 1 << 20;
/// How long a client that is owed something may read nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A client's connection, which never waits.
pub(super) struct Connection {
    _not_in_children: Option<NotInChildren>,
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    /// How much of the input is known to hold no end of a line.
    seen: usize,
    output: Vec<u8>,
    /// Since when nothing of the output has been taken.
    stalled: Option<Instant>,
    /// A request is under way off the loop: the number of its reply.
    pub(super) busy: Option<u64>,
    /// It waits for the machine's end: the number of that reply.
    pub(super) waits: Option<u64>,
    /// It wants to be told of what happens.
    pub(super) listens: bool,
    /// It has said all that it will.
    pub(super) over: bool,
    /// Nothing more is said to it, or heard, once the output is out.
    pub(super) last_word: bool,
}

/// A line that is longer than lines may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The connection can be used no more.
#[derive(Debug)]
pub(super) struct Gone;

impl Connection {
    pub(super) fn new(stream: UnixStream, not_in_children: Option<NotInChildren>) -> Self {
        Self {
            _not_in_children: not_in_children,
            stream,
            input: Vec::new(),
            seen: 0,
            output: Vec::new(),
            stalled: None,
            busy: None,
            waits: None,
            listens: false,
            over: false,
            last_word: false,
        }
    }

    /// Whether the next request may be looked at: each is answered, and the answer taken, before the next.
    pub(super) fn is_free(&self) -> bool {
        self.busy.is_none() && self.waits.is_none() && self.output.is_empty() && !self.last_word
    }

    pub(super) fn owes(&self) -> bool {
        !self.output.is_empty()
    }

    pub(super) fn unread(&self) -> usize {
        self.output.len()
    }

    /// Whether it has been owed something for longer than a client may leave it.
    pub(super) fn has_stalled(&self, now: Instant) -> bool {
        self.stalled.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
    }

    /// Takes in some of what the client says.
    pub(super) fn read(&mut self) -> Result<(), Gone> {
        let mut bytes = [0; AT_ONCE];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.over = true,
            Ok(count) => self.input.extend(bytes.iter().take(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// Takes in `bytes`, as if the client had said them.
    #[cfg(any(test, fuzzing))]
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// The client's next whole line, without its end. What follows the last end of a line is one, too, once the
    /// client has said all.
    pub(super) fn next_line(&mut self) -> Option<Result<Vec<u8>, TooLong>> {
        let end = self.input.iter().skip(self.seen).position(|byte| *byte == b'\n');
        match end.map(|end| self.seen + end) {
            Some(end) if end >= LINE_MAX => Some(Err(TooLong)),
            Some(end) => {
                self.seen = 0;
                let mut line: Vec<u8> = self.input.drain(..=end).collect();
                line.pop();
                Some(Ok(line))
            }
            None if self.input.len() >= LINE_MAX => Some(Err(TooLong)),
            None if self.over && !self.input.is_empty() => {
                self.seen = 0;
                Some(Ok(std::mem::take(&mut self.input)))
            }
            None => {
                self.seen = self.input.len();
                None
            }
        }
    }

    /// Says `line`, or as much of it as the client takes now.
    pub(super) fn say(&mut self, line: &impl Serialize) -> Result<(), Gone> {
        // What is said here can always be written.
        let _infallible = serde_json::to_writer(&mut self.output, line);
        self.output.push(b'\n');
        self.write()
    }

    /// Has the client take more of what it is owed.
    pub(super) fn write(&mut self) -> Result<(), Gone> {
        let mut written = 0;
        while let Some(rest) = self.output.get(written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count @ 1..) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => return Err(Gone),
            }
        }
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output.shrink_to(UNREAD_MAX);
            self.stalled = None;
        } else if written > 0 || self.stalled.is_none() {
            self.stalled = Some(Instant::now());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (UnixStream, Connection) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, Connection::new(far, None))
    }

    #[test]
    fn lines_come_out_whole_however_they_came() {
        let (_near, mut connection) = connection();
        for piece in ["a", "b\n\nc", "d\nefg"] {
            connection.hear(piece.as_bytes());
        }
        for line in ["ab", "", "cd"] {
            assert_eq!(connection.next_line(), Some(Ok(line.as_bytes().to_vec())));
        }
        assert_eq!(connection.next_line(), None);
        connection.over = true;
        assert_eq!(connection.next_line(), Some(Ok(b"efg".to_vec())));
        assert_eq!(connection.next_line(), None);
    }

    #[test]
    fn line_of_the_longest_length_is_one_and_longer_ones_are_not() {
        for (length, fits) in [(LINE_MAX - 1, true), (LINE_MAX, false)] {
            let (_near, mut connection) = connection();
            connection.hear(&vec![b'x'; length]);
            assert_eq!(connection.next_line().is_none(), fits);
            connection.hear(b"\n");
            assert_eq!(connection.next_line().unwrap().is_ok(), fits);
        }
    }

    #[test]
    fn client_that_does_not_read_keeps_what_it_is_owed_and_stalls() {
        let (mut near, mut connection) = connection();
        while !connection.owes() {
            connection.say(&"x".repeat(10_000)).unwrap();
        }
        assert!(!connection.is_free() && !connection.has_stalled(Instant::now()));
        assert!(connection.has_stalled(Instant::now() + PATIENCE));
        let mut bytes = vec![0; 1 << 20];
        let read = near.read(&mut bytes).unwrap();
        assert!(read > 0);
        while connection.owes() {
            connection.write().unwrap();
            near.set_nonblocking(true).unwrap();
            let _nothing_yet = near.read(&mut bytes);
        }
        assert!(connection.is_free());
        drop(near);
        assert!(connection.say(&"x").is_err());
    }
}
