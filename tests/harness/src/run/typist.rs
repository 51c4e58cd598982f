//! What comes in, typed on the guest's console when the guest is ready for it.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Where typing stands, for all who have a part in it.
#[derive(Debug)]
pub(super) struct Typist {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What to wait for; none once it was seen.
    prompt: Option<Vec<u8>>,
    /// The last of the console, as much as the prompt is long.
    seen: Vec<u8>,
    /// Whether there is anything to type; none while nobody knows.
    anything: Option<bool>,
    ended: bool,
}

impl Typist {
    /// A typist who waits for `prompt`.
    pub(super) fn new(prompt: Option<&str>) -> Self {
        let prompt = prompt.filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
        let state = State { prompt, seen: Vec::new(), anything: None, ended: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Types all of `input` on a thread of its own: a read of this process's own standard input can't be called back.
    pub(super) fn begin(
        self: &Arc<Self>,
        mut input: Box<dyn Read + Send>,
        mut guest: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let typist = self.clone();
        let work = move || -> io::Result<()> {
            let mut buffer = [0; 4096];
            loop {
                let count = match input.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other.unwrap_or(0),
                };
                typist.change(|state| {
                    state.anything.get_or_insert(count > 0);
                });
                if count == 0 || !typist.wait_for_the_prompt() {
                    return Ok(());
                }
                guest.write_all(&buffer[..count])?;
            }
        };
        std::thread::Builder::new().name("typist".to_owned()).spawn(work).map(drop)
    }

    /// Takes what the console shows.
    pub(super) fn look(&self, bytes: &[u8]) {
        self.change(|state| {
            let Some(prompt) = &state.prompt else { return };
            state.seen.extend_from_slice(bytes);
            if state.seen.windows(prompt.len()).any(|seen| seen == prompt) {
                state.prompt = None;
            } else {
                let excess = state.seen.len().saturating_sub(prompt.len() - 1);
                state.seen.drain(..excess);
            }
        });
    }

    /// The machine has ended: nobody waits any more.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Waits until it is known whether there is anything to type; also when nobody can tell before the machine ends.
    pub(super) fn has_anything(&self) -> Option<bool> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let undecided = |state: &mut State| state.anything.is_none() && !state.ended;
        self.changed.wait_while(state, undecided).unwrap_or_else(PoisonError::into_inner).anything
    }

    /// Whether the prompt has not been seen.
    pub(super) fn waits(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).prompt.is_some()
    }

    fn wait_for_the_prompt(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State| state.prompt.is_some() && !state.ended;
        !self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner).ended
    }

    fn change(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Guest(mpsc::Sender<Vec<u8>>);

    impl Write for Guest {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn typing_begins_at_the_prompt_however_it_comes() {
        let typist = Arc::new(Typist::new(Some("]# ")));
        let (guest, typed) = mpsc::channel();
        typist.begin(Box::new(&b"mount\n"[..]), Guest(guest)).unwrap();
        assert_eq!(typist.has_anything(), Some(true));
        typist.look(b"a long boot [root@kiln");
        typist.look(b" /]");
        assert!(typed.try_recv().is_err());
        typist.look(b"# ");
        assert_eq!(typed.recv().unwrap(), b"mount\n");
        assert!(typed.recv().is_err(), "the typist is done");
    }

    #[test]
    fn nothing_to_type_is_known_without_a_prompt() {
        let typist = Arc::new(Typist::new(Some("]# ")));
        typist.begin(Box::new(io::empty()), io::sink()).unwrap();
        assert_eq!(typist.has_anything(), Some(false));
    }

    #[test]
    fn end_of_the_machine_ends_the_waiting() {
        let typist = Arc::new(Typist::new(Some("never")));
        let (guest, typed) = mpsc::channel();
        typist.begin(Box::new(&b"x"[..]), Guest(guest)).unwrap();
        typist.end();
        assert!(typed.recv().is_err());
        assert_eq!(Arc::new(Typist::new(None)).state.lock().unwrap().prompt, None);
    }
}
