//! A debugger of few words: gdb's remote protocol as its client speaks it, for cases that look at the stub's side.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Far more than an answer takes on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// A session with a stub.
pub struct Rsp {
    stream: UnixStream,
    /// What the machine's side had printed by gdb.
    pub said: String,
}

impl Rsp {
    /// Connects, and does without acknowledgements.
    ///
    /// # Errors
    /// Nobody listens, or what listens is no stub.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut session = Self { stream, said: String::new() };
        session.send("QStartNoAckMode")?;
        let answer = session.receive()?;
        if answer != "OK" {
            return Err(io::Error::other(answer));
        }
        session.raw(b"+")?;
        Ok(session)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The stub is gone.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The stub is gone.
    pub fn send(&mut self, body: &str) -> io::Result<()> {
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        self.raw(format!("${body}#{sum:02x}").as_bytes())
    }

    /// Receives a packet that is no text to be printed, which goes to [`Rsp::said`].
    ///
    /// # Errors
    /// The stub is gone, or says nothing for a minute.
    pub fn receive(&mut self) -> io::Result<String> {
        loop {
            while self.byte()? != b'$' {}
            let mut body = Vec::new();
            loop {
                match self.byte()? {
                    b'#' => break,
                    // The last byte, so many times more (gdb's manual, "Overview" of the remote protocol).
                    b'*' => {
                        let more = self.byte()?.saturating_sub(29);
                        let last = body.last().copied().ok_or(io::ErrorKind::InvalidData)?;
                        body.extend(std::iter::repeat_n(last, more.into()));
                    }
                    byte => body.push(byte),
                }
            }
            let _sum = [self.byte()?, self.byte()?];
            let body = String::from_utf8_lossy(&body).into_owned();
            match body.strip_prefix('O').and_then(unhex) {
                Some(text) => self.said.push_str(&String::from_utf8_lossy(&text)),
                None => return Ok(body),
            }
        }
    }

    /// Sends a packet, and receives the answer.
    ///
    /// # Errors
    /// The stub is gone, or says nothing for a minute.
    pub fn ask(&mut self, body: &str) -> io::Result<String> {
        self.send(body)?;
        self.receive()
    }

    /// Gives a `monitor` command, and returns what it says.
    ///
    /// # Errors
    /// As [`Rsp::ask`].
    pub fn monitor(&mut self, command: &str) -> io::Result<String> {
        self.said.clear();
        let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("qRcmd,{digits}"))?;
        Ok(std::mem::take(&mut self.said))
    }

    /// Reads memory; empty where nothing is mapped.
    ///
    /// # Errors
    /// As [`Rsp::ask`].
    pub fn read(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        Ok(unhex(&self.ask(&format!("m{address:x},{length:x}"))?).unwrap_or_default())
    }

    /// The 64-bit register at `index` of the `g` packet's first 17: 7 is RSP, 16 is RIP.
    ///
    /// # Errors
    /// As [`Rsp::ask`]; the stub does not tell.
    pub fn register(&mut self, index: usize) -> io::Result<u64> {
        let all = self.ask("g")?;
        let digits = all.get(index * 16..(index + 1) * 16).ok_or_else(|| io::Error::other(all.clone()))?;
        let value = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
        Ok(value.swap_bytes())
    }

    /// Whether the stub has ended the connection, once all that it said is read.
    #[must_use]
    pub fn ends(mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// The bytes that hexadecimal digits are, if they are such.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    (rest.is_empty()).then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
