//! The console's thread: moves bytes for all ports, and speaks with the driver over the control queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_queue::Queue;

use super::control::{Control, Request};
use super::port::{Host, Port, Progress};
use super::state::Active;
use crate::memory::GuestMemory;
use crate::virtio::device::InterruptSource;
use crate::virtio::ring::{Ring, RingError};
use crate::virtio::worker::Stop;

/// How long the end of a device waits for its streams to take what the guest had sent.
const GRACE: Duration = Duration::from_secs(1);

/// Everything that the thread works on.
pub(super) struct Server {
    ports: Vec<Port>,
    control: Option<Control>,
    memory: Arc<GuestMemory>,
}

/// What a server leaves.
pub(super) struct Left {
    /// In the device's order.
    pub(super) queues: Vec<Queue>,
    /// A port each.
    pub(super) hosts: Vec<Option<Host>>,
    pub(super) state: Active,
}

/// What a polled descriptor stands for.
enum Token {
    Stop,
    Kick,
    Input(usize),
    Output(usize),
}

impl Server {
    pub(super) fn new(ports: Vec<Port>, control: Option<(Ring, Ring)>, memory: Arc<GuestMemory>) -> Self {
        let control = control.map(|rings| Control::new(rings, Arc::clone(&memory)));
        Self { ports, control, memory }
    }

    /// Serves until it is told to end or the driver breaks a rule, then gives back what is left. Unless another is to go on
    /// from there, of the host's sides live on: the console, and the streams that the guest never opened.
    pub(super) fn run(mut self, stop: &Stop, interrupt: &InterruptSource) -> Left {
        let failed = self.serve(stop).is_err();
        if !failed && !stop.at_once() {
            return self.leave();
        }
        if !failed {
            self.drain();
        }
        for port in &mut self.ports {
            let opened = port.guest_open || port.closing;
            if opened && matches!(port.host, Some(Host::Stream(_))) {
                port.hang_up();
            }
        }
        if failed {
            interrupt.fail();
        }
        self.leave()
    }

    /// Takes on how another device left its ports, and what it had to say.
    pub(super) fn take_on(&mut self, state: Active) {
        for (port, state) in self.ports.iter_mut().zip(state.ports) {
            port.take_on(state);
        }
        if let Some(control) = &mut self.control {
            control.take_on(state.waiting);
        }
    }

    fn leave(self) -> Left {
        let (mut queues, mut hosts, mut ports, mut waiting) = Default::default();
        let mut control = self.control;
        for port in self.ports {
            let (state, rings, host) = port.into_parts();
            Vec::extend(&mut queues, rings.map(Ring::into_queue));
            Vec::push(&mut hosts, host);
            Vec::push(&mut ports, state);
            // The control's queues lie behind those of the first port (virtio 1.2, §5.3.2).
            if let Some((rx, tx, messages)) = control.take().map(Control::into_parts) {
                queues.extend([rx, tx].map(Ring::into_queue));
                waiting = messages;
            }
        }
        Left { queues, hosts, state: Active { ports, waiting } }
    }

    fn serve(&mut self, stop: &Stop) -> Result<(), RingError> {
        while !stop.requested() {
            let progress = self.round()?;
            self.wait(Some(stop), if progress == Progress::More { Some(Duration::ZERO) } else { None })?;
        }
        Ok(())
    }

    /// One turn for each queue.
    fn round(&mut self) -> Result<Progress, RingError> {
        let mut progress = Progress::Idle;
        if self.listen()? {
            progress = Progress::More;
        }
        for port in &mut self.ports {
            let sent = port.pump_tx(&self.memory)?;
            if sent == Progress::Idle {
                port.finish_closing();
            }
            let received = port.pump_rx(&self.memory)?;
            if sent == Progress::More || received == Progress::More {
                progress = Progress::More;
            }
            // Bytes first: the guest must find them before it hears that no more will come.
            port.notify()?;
        }
        if self.speak()? {
            progress = Progress::More;
        }
        Ok(progress)
    }

    /// Takes the driver's control messages; `true` if there may be more at once.
    fn listen(&mut self) -> Result<bool, RingError> {
        let Some(control) = &mut self.control else { return Ok(false) };
        for _ in 0..2 * self.ports.len() {
            let Some(request) = control.next(self.ports.len())? else { return Ok(false) };
            match request {
                Request::DeviceReady => {
                    for (id, _) in (0..).zip(&self.ports).filter(|(_, port)| port.present) {
                        control.add(id);
                    }
                }
                Request::PortReady(id) => {
                    let Some(port) = find(&mut self.ports, id) else { continue };
                    if id == 0 {
                        control.console(id);
                    }
                    if !port.name.is_empty() {
                        control.name(id, &port.name);
                    }
                    port.announced = port.host.is_some() && (id == 0 || !port.ended);
                    if port.announced {
                        control.open(id, true);
                    }
                }
                Request::PortOpen(id, open) => {
                    if let Some(port) = find(&mut self.ports, id) {
                        port.set_guest_open(open);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Says what there is to say; `true` if there may be more to do at once.
    fn speak(&mut self) -> Result<bool, RingError> {
        let Some(control) = &mut self.control else { return Ok(false) };
        for (id, port) in (0_u32..).zip(&mut self.ports) {
            // A console whose input ended still takes output.
            let over = port.host.is_none() || (id > 0 && port.ended);
            if port.announced && over {
                port.announced = false;
                control.open(id, false);
            }
        }
        let again = control.deliver()?;
        control.notify()?;
        Ok(again)
    }

    /// Waits for an event. Without `stop` only the streams that bytes wait for count.
    fn wait(&mut self, stop: Option<&Stop>, timeout: Option<Duration>) -> Result<(), RingError> {
        let mut fds = Vec::new();
        let mut tokens = Vec::new();
        let mut add = |token, fd, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            tokens.push(token);
        };
        if let Some(stop) = stop {
            add(Token::Stop, stop.fd(), PollFlags::IN);
            for ring in self.rings() {
                add(Token::Kick, ring.kick(), PollFlags::IN);
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            if let Some(fd) = port.output() {
                add(Token::Output(index), fd, PollFlags::OUT);
            }
            if let Some(fd) = port.input().filter(|_| stop.is_some()) {
                add(Token::Input(index), fd, PollFlags::IN);
            }
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(RingError::Interrupt(error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut kicked = false;
        for token in tokens.into_iter().zip(ready).filter_map(|(token, ready)| ready.then_some(token)) {
            match token {
                Token::Stop => {}
                Token::Kick => kicked = true,
                Token::Input(index) => self.ports[index].readable = true,
                Token::Output(index) => self.ports[index].blocked = false,
            }
        }
        if kicked {
            self.rings().for_each(Ring::clear_kick);
        }
        Ok(())
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        let control = self.control.iter().flat_map(Control::rings);
        control.chain(self.ports.iter().flat_map(|port| [&port.rx, &port.tx]))
    }

    /// Sends what the guest had handed over before the end, for a bounded time and without a word to the guest.
    fn drain(&mut self) {
        let deadline = Instant::now() + GRACE;
        loop {
            let mut blocked = false;
            let mut more = false;
            for port in &mut self.ports {
                // A driver that breaks a rule now loses what it had not sent properly.
                more |= matches!(port.pump_tx(&self.memory), Ok(Progress::More));
                blocked |= port.blocked;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !(more || blocked) || left.is_zero() {
                return;
            }
            if self.wait(None, Some(if more { Duration::ZERO } else { left })).is_err() {
                return;
            }
        }
    }
}

fn find(ports: &mut [Port], id: u32) -> Option<&mut Port> {
    ports.get_mut(usize::try_from(id).ok()?).filter(|port| port.present)
}
