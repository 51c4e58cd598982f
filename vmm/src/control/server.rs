//! The control socket's server: a source of the event loop. It reads and writes lines; what a request does is done on
//! a thread of its own, one at a time for each client, so that one who waits for a vCPU holds up nobody else.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use serde_json::Value;
use vmm_sys_util::timerfd::TimerFd;

use super::connection::{Connection, Gone, TooLong, UNREAD_MAX};
use super::endpoint::Endpoint;
use super::fork;
use super::perform::{Subject, refusal};
use super::protocol::{
    Done, Event, Greeting, Kind, LINE_MAX, Numbered, Refusal, Reply, Request, SCHEMA, json, parse,
};
use crate::bell::Bell;
use crate::event_loop::{EventLoop, Mailbox, Post, mailbox};
use crate::vcpu::MachineState;

/// The most clients at a time.
pub(super) const CLIENTS_MAX: usize = 16;
/// The most requests under way at a time: each has a thread.
const UNDER_WAY_MAX: usize = 2 * CLIENTS_MAX;
/// How long a machine that has ended waits for its last words to be taken; a busy host may need some of it to say them.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long it waits of that for requests that are under way.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How long after there is something to look for it is looked for it, as for clients that don't read.
const LOOK: Duration = Duration::from_secs(1);

// What an event is about; clients have the numbers after these.
const LISTENER: u32 = 0;
const BELL: u32 = 1;
const RESULTS: u32 = 2;
const TIMER: u32 = 3;
const FIRST_CLIENT: u32 = 4;

/// What is put into the server's mailbox.
enum Letter {
    /// What a client's request came to.
    Result(u32, Result<Value, Refusal>),
    /// The machine has ended; the channel is dropped when its clients know.
    Finish(mpsc::Sender<()>),
    /// Requests that are still under way are answered now.
    HurryUp,
}

/// A machine's control socket, served until this is dropped.
pub(crate) struct Served {
    post: Post<Letter>,
    subject: Arc<Subject>,
}

impl Served {
    /// Serves `endpoint` on `events`.
    pub(crate) fn start(events: &EventLoop, endpoint: Endpoint, subject: Subject) -> io::Result<Self> {
        let (post, letters) = mailbox()?;
        let bell = Arc::new(Bell::new()?);
        let subject = Arc::new(subject);
        let server = Server {
            endpoint: Some(endpoint),
            subject: subject.clone(),
            bell: bell.clone(),
            letters,
            post: post.clone(),
            timer: Timer { alarm: TimerFd::new()?, armed: false },
            clients: BTreeMap::new(),
            under_way: 0,
            next: FIRST_CLIENT,
            rests: false,
            finish: None,
        };
        server.subject.controller().set_bell(bell);
        events.add(Box::new(server))?;
        Ok(Self { post, subject })
    }

    /// Tells all clients how the machine ended, which it must have, gives up its name, and waits a moment for them to
    /// take it.
    pub(crate) fn finish(&self) {
        // Before another machine of the name may want the debugger's socket.
        self.subject.close();
        let (told, all_know) = mpsc::channel();
        self.post.send(Letter::Finish(told));
        if all_know.recv_timeout(LAST_ANSWERS) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.post.send(Letter::HurryUp);
            let _time_is_up = all_know.recv_timeout(LAST_WORDS.saturating_sub(LAST_ANSWERS));
        }
    }
}

struct Server {
    /// None once the machine has ended.
    endpoint: Option<Endpoint>,
    subject: Arc<Subject>,
    /// Rung at each change of the machine's state.
    bell: Arc<Bell>,
    letters: Mailbox<Letter>,
    post: Post<Letter>,
    timer: Timer,
    clients: BTreeMap<u32, Client>,
    /// How many requests are under way off the loop.
    under_way: usize,
    next: u32,
    /// Whether those who listen know that the machine is paused.
    rests: bool,
    /// Dropped when all clients know of the machine's end.
    finish: Option<mpsc::Sender<()>>,
}

/// Goes off [`LOOK`] after it was first armed.
struct Timer {
    alarm: TimerFd,
    armed: bool,
}

impl Timer {
    fn arm(&mut self) {
        self.armed = self.armed || self.alarm.reset(LOOK, None).is_ok();
    }

    fn went_off(&mut self) {
        let _not_yet = self.alarm.wait();
        self.armed = false;
    }
}

struct Client {
    connection: Connection,
    /// What the loop waits for on its behalf.
    interest: EventSet,
}

impl MutEventSubscriber for Server {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let bell = Events::with_data(&*self.bell, BELL, EventSet::IN);
        let letters = Events::with_data(&self.letters, RESULTS, EventSet::IN);
        let timer = Events::with_data(&self.timer.alarm, TIMER, EventSet::IN);
        let listener = self
            .endpoint
            .as_ref()
            .map(|endpoint| Events::with_data(endpoint.listener(), LISTENER, EventSet::IN));
        for source in [bell, letters, timer].into_iter().chain(listener) {
            let _out_of_memory = ops.add(source);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            LISTENER => self.accept(ops),
            BELL => {
                self.bell.heard();
                self.tell(ops);
            }
            RESULTS => {
                for letter in self.letters.take() {
                    self.open(letter, ops);
                }
            }
            TIMER => self.look(ops),
            number => self.attend(number, events.event_set(), ops),
        }
        self.look_whether_all_know();
    }
}

impl Server {
    /// Takes one who has connected.
    fn accept(&mut self, ops: &mut EventOps<'_>) {
        let Some(endpoint) = &self.endpoint else { return };
        let stream = match endpoint.listener().accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Out of descriptors. Who waits is still there at the next look; until then the loop has better to do.
            Err(_) => {
                let _known = ops.modify(Events::with_data(endpoint.listener(), LISTENER, EventSet::empty()));
                self.timer.arm();
                return;
            }
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let not_in_children = fork::keep(&stream).ok();
        let mut connection = Connection::new(stream, not_in_children);
        let refused = match peer(&connection.stream) {
            Ok(uid) if may_connect(uid) => None,
            Ok(uid) => Some(format!("user {uid} may not control this machine: only its own user may")),
            Err(error) => Some(format!("it can't be told who connects: {error}")),
        };
        let refused = refused.or_else(|| {
            (self.clients.len() >= CLIENTS_MAX)
                .then(|| format!("{CLIENTS_MAX} clients are connected: no more may"))
        });
        if let Some(message) = refused {
            let error = Some(refusal(Kind::NotServed, message));
            let _best_effort = connection.say(&Reply { id: 0, result: None, error });
            return;
        }
        let greeting = Greeting {
            schema: SCHEMA,
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.subject.name.clone(),
            pid: std::process::id(),
        };
        if connection.say(&greeting).is_err() {
            return;
        }
        let number = self.next;
        self.next = self.next.checked_add(1).unwrap_or(FIRST_CLIENT);
        let interest = EventSet::IN;
        let events = Events::with_data(&connection.stream, number, interest);
        if !self.clients.contains_key(&number) && ops.add(events).is_ok() {
            self.clients.insert(number, Client { connection, interest });
        }
    }

    /// Looks for clients that don't read, and again for those who want to be clients.
    fn look(&mut self, ops: &mut EventOps<'_>) {
        self.timer.went_off();
        if let Some(endpoint) = &self.endpoint {
            let _known = ops.modify(Events::with_data(endpoint.listener(), LISTENER, EventSet::IN));
        }
        let now = Instant::now();
        for number in self.clients.keys().copied().collect::<Vec<_>>() {
            let connection = self.clients.get(&number).map(|client| &client.connection);
            if connection.is_some_and(|connection| connection.has_stalled(now)) {
                self.drop_client(number, ops);
            } else if connection.is_some_and(Connection::owes) {
                self.timer.arm();
            }
        }
    }

    /// Hears, or goes on saying, what there is between a client and the machine.
    fn attend(&mut self, number: u32, ready: EventSet, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let mut done = Ok(());
        if ready.contains(EventSet::OUT) {
            done = client.connection.write();
        }
        if done.is_ok() && ready.contains(EventSet::IN) && client.connection.is_free() {
            done = client.connection.read();
        }
        if done.is_err() {
            return self.drop_client(number, ops);
        }
        self.go_on(number, ops);
        // Who has hung up hears nothing more; what it asked for last is done all the same.
        if ready.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.drop_client(number, ops);
        }
    }

    /// Takes up a client's requests until one is under way, or its answer waits to be read.
    fn go_on(&mut self, number: u32, ops: &mut EventOps<'_>) {
        while let Some(client) = self.clients.get_mut(&number) {
            let connection = &mut client.connection;
            if !connection.is_free() {
                break;
            }
            let said = match connection.next_line() {
                None => break,
                Some(Ok(line)) if line.trim_ascii().is_empty() => continue,
                Some(Ok(line)) => match parse(&line) {
                    Ok(numbered) => self.take_up(number, numbered),
                    Err((id, error)) => connection.say(&Reply { id, result: None, error: Some(error) }),
                },
                Some(Err(TooLong)) => {
                    connection.last_word = true;
                    let message = format!("a line is longer than {LINE_MAX} bytes");
                    let error = Some(refusal(Kind::BadRequest, message));
                    connection.say(&Reply { id: 0, result: None, error })
                }
            };
            if said.is_err() {
                return self.drop_client(number, ops);
            }
        }
        self.look_after(number, ops);
    }

    /// Begins with a request.
    fn take_up(&mut self, number: u32, Numbered { id, request }: Numbered) -> Result<(), Gone> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let connection = &mut client.connection;
        let result = match (request, self.subject.end()) {
            (Request::Wait {}, None) => {
                connection.waits = Some(id);
                return Ok(());
            }
            (Request::Wait {}, Some(end)) => Ok(json(&end)),
            (Request::Events {}, _) => {
                connection.listens = true;
                Ok(json(&Done {}))
            }
            // Of clients that have hung up, too.
            _ if self.under_way >= UNDER_WAY_MAX => {
                Err(refusal(Kind::Failed, format!("{UNDER_WAY_MAX} requests are under way: no more may be")))
            }
            (request, _) => {
                let (subject, post) = (self.subject.clone(), self.post.clone());
                let begun = crate::thread::named("control").spawn(move || {
                    let perform = AssertUnwindSafe(|| subject.perform(request));
                    let panicked =
                        |_| Err(refusal(Kind::Failed, "it panicked; its words are the machine's".to_owned()));
                    post.send(Letter::Result(number, catch_unwind(perform).unwrap_or_else(panicked)));
                });
                match begun {
                    Ok(_) => {
                        connection.busy = Some(id);
                        self.under_way += 1;
                        return Ok(());
                    }
                    Err(error) => {
                        Err(refusal(Kind::Failed, format!("the host has no room for a thread: {error}")))
                    }
                }
            }
        };
        connection.say(&reply(id, result))
    }

    /// Answers the request that a client has under way, if it is still there, and goes on with its next.
    fn answer(&mut self, number: u32, result: Result<Value, Refusal>, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let Some(id) = client.connection.busy.take() else { return };
        if client.connection.say(&reply(id, result)).is_err() {
            return self.drop_client(number, ops);
        }
        if self.finish.is_some() {
            return self.say_farewell(number, ops);
        }
        self.go_on(number, ops);
    }

    fn open(&mut self, letter: Letter, ops: &mut EventOps<'_>) {
        match letter {
            Letter::Result(number, result) => {
                self.under_way = self.under_way.saturating_sub(1);
                self.answer(number, result, ops);
            }
            Letter::Finish(told) => {
                self.tell(ops);
                // From now on nobody finds it, and its name is free.
                if let Some(endpoint) = self.endpoint.take() {
                    let _gone = ops.remove(Events::empty(endpoint.listener()));
                }
                self.finish = Some(told);
                for number in self.clients.keys().copied().collect::<Vec<_>>() {
                    self.say_farewell(number, ops);
                }
            }
            Letter::HurryUp => {
                for number in self.clients.keys().copied().collect::<Vec<_>>() {
                    self.answer(number, Err(crate::vcpu::ControlError::Ended.into()), ops);
                }
            }
        }
    }

    /// Says the last that is said to a client of a machine that has ended, unless its request is under way.
    fn say_farewell(&mut self, number: u32, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let connection = &mut client.connection;
        if connection.busy.is_some() || connection.last_word {
            return;
        }
        let Some(end) = self.subject.end() else { return };
        let waited = connection.waits.take().map(|id| connection.say(&reply(id, Ok(json(&end)))));
        let listened = connection.listens.then(|| connection.say(&Event::Ended(end)));
        connection.last_word = true;
        if waited.into_iter().chain(listened).any(|said| said.is_err()) {
            return self.drop_client(number, ops);
        }
        self.look_after(number, ops);
    }

    /// Tells those who listen what the machine does now, if that is new.
    fn tell(&mut self, ops: &mut EventOps<'_>) {
        let controller = self.subject.controller();
        let rests = controller.state() == MachineState::Paused && controller.at_rest();
        if rests == self.rests || controller.state() == MachineState::Stopped {
            return;
        }
        self.rests = rests;
        let event = if rests { Event::Paused { holders: controller.holders() } } else { Event::Resumed };
        let listeners = self.clients.iter_mut().filter(|(_, client)| client.connection.listens);
        let numbers: Vec<u32> = listeners.map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(client) = self.clients.get_mut(&number) else { continue };
            let too_much = client.connection.unread() > UNREAD_MAX;
            if too_much || client.connection.say(&event).is_err() {
                self.drop_client(number, ops);
            } else {
                self.look_after(number, ops);
            }
        }
    }

    /// Has the loop wait for what a client needs next, or ends the connection if that is nothing.
    fn look_after(&mut self, number: u32, ops: &mut EventOps<'_>) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let connection = &client.connection;
        let idle = connection.busy.is_none() && connection.waits.is_none() && !connection.owes();
        if idle && (connection.last_word || connection.over && !connection.listens) {
            return self.drop_client(number, ops);
        }
        if connection.owes() {
            self.timer.arm();
        }
        let mut interest = EventSet::empty();
        interest.set(EventSet::OUT, connection.owes());
        interest.set(EventSet::IN, connection.is_free() && !connection.over);
        if interest != client.interest {
            client.interest = interest;
            let _known = ops.modify(Events::with_data(&connection.stream, number, interest));
        }
    }

    fn drop_client(&mut self, number: u32, ops: &mut EventOps<'_>) {
        if let Some(client) = self.clients.remove(&number) {
            let _known = ops.remove(Events::empty(&client.connection.stream));
        }
    }

    /// Lets the machine go when all of its clients know how it ended.
    fn look_whether_all_know(&mut self) {
        if self.clients.is_empty() {
            self.finish = None;
        }
    }
}

fn reply(id: u64, result: Result<Value, Refusal>) -> Reply {
    match result {
        Ok(result) => Reply { id, result: Some(result), error: None },
        Err(error) => Reply { id, result: None, error: Some(error) },
    }
}

/// The user at the other end.
fn peer(stream: &UnixStream) -> io::Result<u32> {
    Ok(socket_peercred(stream.as_fd())?.uid.as_raw())
}

/// Whether a user may control this process's machines: only the one whose they are.
pub(super) fn may_connect(uid: u32) -> bool {
    uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_user_may_connect() {
        let own = geteuid().as_raw();
        assert!(may_connect(own) && !may_connect(own.wrapping_add(1)));
        assert_eq!(own == 0, may_connect(0));
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(peer(&near).unwrap(), own);
    }
}
