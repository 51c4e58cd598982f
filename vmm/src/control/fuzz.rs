//! A client's words without a client: for the fuzz target.

use std::os::unix::net::UnixStream;

use super::connection::Connection;
use super::perform::Subject;
use super::protocol::{LINE_MAX, Numbered, Reply, parse};

/// Hears `bytes` in pieces, each as long as its first byte says, and carries out the requests in them.
pub(crate) fn converse(subject: &Subject, mut bytes: &[u8]) {
    let Ok((_near, far)) = UnixStream::pair() else { return };
    let mut connection = Connection::new(far, None);
    while let Some((length, rest)) = bytes.split_first() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        connection.hear(piece);
        connection.over = rest.is_empty();
        bytes = rest;
        while let Some(Ok(line)) = connection.next_line() {
            assert!(line.len() < LINE_MAX && !line.contains(&b'\n'));
            let Ok(Numbered { id, request }) = parse(&line) else { continue };
            // What is understood can be said, and means the same.
            let again = Numbered { id, request: request.clone() };
            assert_eq!(parse(again.line().as_bytes()), Ok(again));
            let reply = match subject.perform(request) {
                Ok(result) => Reply { id, result: Some(result), error: None },
                Err(error) => Reply { id, result: None, error: Some(error) },
            };
            assert!(serde_json::to_string(&reply).is_ok());
        }
    }
}
