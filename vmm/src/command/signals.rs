//! SIGINT and SIGTERM as an orderly end, on the machine's event loop.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use event_manager::EventSet;
use kiln_vmm::event_loop::{EventLoop, EventOps, Events, MutEventSubscriber};
use kiln_vmm::machine::Controller;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The first signal that came, if one did.
pub(super) struct Caught(Arc<OnceLock<i32>>);

impl Caught {
    /// Dies by the signal that came, as whoever sent it expects; comes back if none did.
    pub(super) fn die_by_it(&self) {
        if let Some(signal) = self.0.get() {
            let _dies = low_level::emulate_default_handler(*signal);
        }
    }
}

/// Ends the machine at the first signal. A second one ends the process in its handler, whatever the loop does.
pub(super) fn end_in_order(events: &EventLoop, machine: Controller) -> io::Result<Caught> {
    let first = Arc::<OnceLock<i32>>::default();
    let again = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        // In this order: the one looks whether the other has been there before.
        flag::register_conditional_default(signal, again.clone())?;
        flag::register(signal, again.clone())?;
        let (pipe, end) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        low_level::pipe::register(signal, end)?;
        events.add(Box::new(Signal { signal, pipe, first: first.clone(), machine: machine.clone() }))?;
    }
    Ok(Caught(first))
}

/// One signal, as a descriptor that can be read when it came.
struct Signal {
    signal: i32,
    pipe: UnixStream,
    first: Arc<OnceLock<i32>>,
    machine: Controller,
}

impl MutEventSubscriber for Signal {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _out_of_memory = ops.add(Events::new(&self.pipe, EventSet::IN));
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let _a_byte_each = self.pipe.read(&mut [0; 16]);
        let _another_came_first = self.first.set(self.signal);
        self.machine.stop();
    }
}
