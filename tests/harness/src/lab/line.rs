//! The line between a person outside and a command in a guest inside, carried through the lab: the agent's own frames on
//! the standard input of the program that carries out the plan there.

use std::io::{self, Read, Write};
use std::sync::mpsc;

use kiln_protocol::wire::{DATA_MAX, Decoder, Envelope, ToAgent, encode};

use crate::run::{Line, TerminalInput};

/// Sends what comes in to the program inside, until either ends.
pub(super) fn send(input: mpsc::Receiver<TerminalInput>, mut to: impl Write) {
    for input in input {
        let sent = match input {
            TerminalInput::Keys(bytes) => {
                bytes.chunks(DATA_MAX).try_for_each(|bytes| frame(&mut to, ToAgent::Stdin(bytes.to_vec())))
            }
            TerminalInput::Resize(size) => frame(&mut to, ToAgent::Resize(size)),
            TerminalInput::End => frame(&mut to, ToAgent::StdinClose),
            TerminalInput::HangUp => frame(&mut to, ToAgent::HangUp),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn frame(to: &mut impl Write, message: ToAgent) -> io::Result<()> {
    to.write_all(&encode(0, message).map_err(io::Error::other)?)
}

/// The line's end inside: what was sent to this program's standard input, `from`. A line that breaks is cut.
///
/// # Errors
/// There is no thread for it.
pub fn line_inside(from: impl Read + Send + 'static) -> io::Result<Line> {
    let (sender, input) = mpsc::channel();
    std::thread::Builder::new().name("line".to_owned()).spawn(move || {
        let _nobody_listens = receive(from, &sender);
        let _nobody_listens = sender.send(TerminalInput::HangUp);
    })?;
    Ok(Line { input, connected: Box::new(|| {}) })
}

fn receive(mut from: impl Read, to: &mpsc::Sender<TerminalInput>) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; DATA_MAX];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => decoder.feed(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        while let Some(Envelope { message, .. }) = decoder.next_frame().map_err(io::Error::other)? {
            let input = match message {
                ToAgent::Stdin(bytes) => TerminalInput::Keys(bytes),
                ToAgent::Resize(size) => TerminalInput::Resize(size),
                ToAgent::StdinClose => TerminalInput::End,
                ToAgent::HangUp => TerminalInput::HangUp,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            to.send(input).map_err(io::Error::other)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::TerminalSize;

    fn through(input: Vec<TerminalInput>) -> Vec<TerminalInput> {
        let (sender, receiver) = mpsc::channel();
        for one in input {
            sender.send(one).unwrap();
        }
        drop(sender);
        let mut bytes = Vec::new();
        send(receiver, &mut bytes);
        line_inside(io::Cursor::new(bytes)).unwrap().input.iter().collect()
    }

    #[test]
    fn keys_sizes_and_ends_arrive_in_order_and_a_broken_line_is_cut() {
        let size = TerminalSize { rows: 50, columns: 132 };
        let sent = vec![
            TerminalInput::Keys(b"ls\r".to_vec()),
            TerminalInput::Resize(size),
            TerminalInput::Keys(vec![3]),
            TerminalInput::End,
        ];
        let got = through(sent.clone());
        assert_eq!(got[..4], sent);
        assert_eq!(got[4..], [TerminalInput::HangUp]);
    }

    #[test]
    fn long_paste_arrives_whole() {
        let paste = vec![7; 3 * DATA_MAX + 1];
        let keys: Vec<u8> = through(vec![TerminalInput::Keys(paste.clone())])
            .into_iter()
            .flat_map(|input| if let TerminalInput::Keys(keys) = input { keys } else { Vec::new() })
            .collect();
        assert!(keys == paste);
    }

    #[test]
    fn what_is_no_line_is_cut() {
        for bytes in [&[0xff; 16][..], &encode(0, ToAgent::Sync).unwrap()] {
            let line = line_inside(io::Cursor::new(bytes.to_vec())).unwrap();
            assert_eq!(line.input.iter().collect::<Vec<_>>(), [TerminalInput::HangUp]);
        }
    }
}
