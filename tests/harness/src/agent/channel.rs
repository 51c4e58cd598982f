//! What one request has under way: messages that came, and credit to send.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kiln_protocol::wire::{CREDIT_STEP, ToHost, WINDOW};

use super::AgentError;

/// How many messages that are not data an agent may have sent and nobody taken; no request has more.
const WORDS_MAX: usize = 8;

/// Why a connection is over.
#[derive(Clone, Debug)]
pub(super) enum End {
    Lost,
    Protocol(String),
}

impl From<End> for AgentError {
    fn from(end: End) -> Self {
        match end {
            End::Lost => Self::Lost,
            End::Protocol(what) => Self::Protocol(what),
        }
    }
}

/// Shared by the thread that reads the port, which never waits here, and those that do.
#[derive(Debug, Default)]
pub(super) struct Channel {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    inbox: VecDeque<ToHost>,
    /// How many of the messages in the inbox are not data.
    words: usize,
    /// Bytes that came and for which no credit was returned yet.
    held: usize,
    /// Bytes that were taken, of those.
    taken: usize,
    /// Bytes that may be sent.
    credit: usize,
    /// The agent says no more of this request.
    finished: bool,
    end: Option<End>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inbox: VecDeque::new(),
            words: 0,
            held: 0,
            taken: 0,
            credit: WINDOW,
            finished: false,
            end: None,
        }
    }
}

/// The bytes of a message of data.
fn data(message: &ToHost) -> Option<usize> {
    match message {
        ToHost::Stdout(b) | ToHost::Stderr(b) | ToHost::Events(b) | ToHost::Data(b) => Some(b.len()),
        _ => None,
    }
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the agent said, if it may say it.
    pub(super) fn deliver(&self, message: ToHost) -> Result<(), &'static str> {
        let mut state = self.lock();
        if let ToHost::Credit(amount) = message {
            state.credit = state.credit.saturating_add(usize::try_from(amount).unwrap_or(usize::MAX));
            if state.credit > WINDOW {
                return Err("more credit than it was sent bytes");
            }
        } else {
            match data(&message) {
                Some(0) => return Err("data without a byte"),
                Some(length) => {
                    state.held += length;
                    if state.held > WINDOW {
                        return Err("more data than it had credit for");
                    }
                }
                None => {
                    state.words += 1;
                    if state.words > WORDS_MAX {
                        return Err("more answers than questions");
                    }
                }
            }
            state.finished |= matches!(
                message,
                ToHost::Exited(_) | ToHost::Adopted(_) | ToHost::Ok | ToHost::Refused { .. }
            );
            state.inbox.push_back(message);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The connection is over.
    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Nothing more is wanted of this request.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.lock().finished
    }

    /// Waits for the next message; with it comes credit that is now to be returned, if any.
    pub(super) fn receive(&self) -> Result<(ToHost, usize), AgentError> {
        let mut state = self.lock();
        loop {
            if let Some(message) = state.inbox.pop_front() {
                match data(&message) {
                    Some(length) => state.taken += length,
                    None => state.words -= 1,
                }
                let mut credit = 0;
                // A request that is finished needs no more.
                if state.taken >= CREDIT_STEP && !state.finished {
                    credit = std::mem::take(&mut state.taken);
                    state.held -= credit;
                }
                return Ok((message, credit));
            }
            if let Some(end) = &state.end {
                return Err(end.clone().into());
            }
            if state.finished {
                return Err(AgentError::Protocol("a request is over and was asked for more".to_owned()));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until at least one byte may be sent, and takes credit for at most `most`; none when the request
    /// is finished.
    pub(super) fn take_credit(&self, most: usize) -> Result<Option<usize>, AgentError> {
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return Err(end.clone().into());
            }
            if state.finished {
                return Ok(None);
            }
            if state.credit > 0 {
                let amount = most.min(state.credit);
                state.credit -= amount;
                return Ok(Some(amount));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
