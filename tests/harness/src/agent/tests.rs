//! The client against agents that say what they like.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use kiln_protocol::wire::{self, DATA_MAX, Decoder, Envelope, Hello, ToAgent, ToHost, WINDOW, encode};

use super::{AgentError, Client, Command, ProcessEvent, Status, TerminalSize};

/// The guest's end of a port, played by the test.
pub(crate) struct Fake {
    socket: UnixStream,
    decoder: Decoder,
}

impl Fake {
    pub(crate) fn send(&mut self, id: u32, message: ToHost) {
        // The client may have hung up on what came before.
        let _ = self.socket.write_all(&encode(id, message).unwrap());
    }

    /// The next message, if the client sends one.
    pub(crate) fn next(&mut self) -> Option<Envelope<ToAgent>> {
        let mut buffer = vec![0; DATA_MAX];
        loop {
            if let Some(envelope) = self.decoder.next_frame().unwrap() {
                return Some(envelope);
            }
            match self.socket.read(&mut buffer) {
                Ok(length) if length > 0 => self.decoder.feed(&buffer[..length]),
                _ => return None,
            }
        }
    }
}

fn hello(protocol: u32) -> ToHost {
    ToHost::Hello(Hello { protocol, agent: "0".to_owned(), kernel: "6".to_owned(), warnings: vec![] })
}

/// A client, and an agent that says hello and then does `play`.
pub(crate) fn with(play: impl FnOnce(&mut Fake) + Send + 'static) -> (Client, JoinHandle<()>) {
    let (near, far) = UnixStream::pair().unwrap();
    let agent = std::thread::spawn(move || {
        let mut fake = Fake { socket: far, decoder: Decoder::default() };
        fake.send(0, hello(wire::VERSION));
        play(&mut fake);
    });
    (Client::connect(near).unwrap(), agent)
}

fn connect_to(bytes: &[u8]) -> AgentError {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(bytes).unwrap();
    drop(far);
    Client::connect(near).unwrap_err()
}

fn cat() -> Command {
    Command { argv: vec!["cat".to_owned()], stdin: true, ..Command::default() }
}

#[test]
fn what_is_no_hello_is_no_agent() {
    assert!(matches!(connect_to(&[]), AgentError::Lost));
    assert!(matches!(connect_to(&[1, 0, 0]), AgentError::Lost));
    assert!(matches!(connect_to(&[0xff; 9]), AgentError::Protocol(_)));
    assert!(matches!(connect_to(&encode(1, ToHost::Ok).unwrap()), AgentError::Protocol(_)));
    let other = connect_to(&encode(0, hello(wire::VERSION + 1)).unwrap());
    assert!(other.to_string().contains("build the image again"), "{other}");
}

/// What the client makes of an agent that answers an exec with `messages`.
fn answer(messages: Vec<ToHost>) -> AgentError {
    let (client, agent) = with(move |fake| {
        let id = fake.next().unwrap().id;
        fake.send(id, ToHost::Started { pid: 2 });
        // A consumer is there only once the process is, and it must not matter.
        for message in messages {
            fake.send(id, message);
        }
        while fake.next().is_some() {}
    });
    let result = client.exec(cat());
    let error = match result {
        Err(error) => error,
        Ok(mut process) => loop {
            match process.next_event() {
                Ok(ProcessEvent::Exited(_)) => panic!("it took an exit for good"),
                Ok(_) => {}
                Err(error) => break error,
            }
        },
    };
    drop(client);
    agent.join().unwrap();
    error
}

#[test]
fn agent_that_breaks_its_word_is_cut_off() {
    let protocol = |messages| assert!(matches!(answer(messages), AgentError::Protocol(_)));
    protocol(vec![ToHost::Stdout(vec![])]);
    protocol(vec![ToHost::Credit(1)]);
    protocol(vec![ToHost::Connected]);
    protocol(vec![ToHost::Connected; 1000]);
    protocol(vec![ToHost::Ok]);
}

#[test]
fn agent_that_floods_is_cut_off_and_what_it_sent_is_bounded() {
    let (client, agent) = with(|fake| {
        let id = fake.next().unwrap().id;
        fake.send(id, ToHost::Started { pid: 2 });
        for _ in 0..=WINDOW / DATA_MAX {
            fake.send(id, ToHost::Stdout(vec![0; DATA_MAX]));
        }
        while fake.next().is_some() {}
    });
    let mut process = client.exec(cat()).unwrap();
    // Nothing is taken until the agent sent all: it learns of its end by the closed port.
    agent.join().unwrap();
    let mut seen = 0;
    let error = loop {
        match process.next_event() {
            Ok(ProcessEvent::Stdout(bytes)) => seen += bytes.len(),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AgentError::Protocol(_)));
    assert!(seen <= WINDOW);
}

#[test]
fn input_waits_for_credit_and_ends_with_the_agent() {
    let (client, agent) = with(|fake| {
        let id = fake.next().unwrap().id;
        fake.send(id, ToHost::Started { pid: 2 });
        let mut seen = 0;
        while seen < WINDOW {
            let Some(Envelope { message: ToAgent::Stdin(bytes), .. }) = fake.next() else {
                panic!("no input")
            };
            seen += bytes.len();
        }
        assert_eq!(seen, WINDOW);
        fake.send(id, ToHost::Credit(1));
        let next = fake.next().unwrap().message;
        assert_eq!(next, ToAgent::Stdin(vec![7]));
        fake.socket.shutdown(Shutdown::Both).unwrap();
    });
    let mut process = client.exec(cat()).unwrap();
    let mut stdin = process.take_stdin().unwrap();
    let error = stdin.write_all(&vec![7; WINDOW * 2]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    agent.join().unwrap();
    assert!(matches!(process.next_event(), Ok(ProcessEvent::Started(2))));
    assert!(matches!(process.next_event(), Err(AgentError::Lost)));
}

#[test]
fn what_came_before_the_end_is_still_given() {
    let (client, agent) = with(|fake| {
        let id = fake.next().unwrap().id;
        fake.send(id, ToHost::Started { pid: 2 });
        fake.send(id, ToHost::Stdout(b"last words".to_vec()));
        fake.send(id, ToHost::Exited(Status::Code(0)));
    });
    let mut process = client.exec(cat()).unwrap();
    agent.join().unwrap();
    assert!(matches!(process.next_event(), Ok(ProcessEvent::Started(2))));
    assert_eq!(process.next_event().unwrap(), ProcessEvent::Stdout(b"last words".to_vec()));
    assert_eq!(process.next_event().unwrap(), ProcessEvent::Exited(Status::Code(0)));
    assert!(process.next_event().is_err());
}

#[test]
fn terminal_is_asked_what_it_is_asked_and_tells_its_end() {
    let size = TerminalSize { rows: 50, columns: 132 };
    let (client, agent) = with(move |fake| {
        let Some(Envelope { id, message: ToAgent::Exec(exec) }) = fake.next() else { panic!("no program") };
        assert_eq!(exec.terminal, Some(TerminalSize { rows: 24, columns: 80 }));
        fake.send(id, ToHost::Started { pid: 2 });
        assert_eq!(fake.next(), Some(Envelope { id, message: ToAgent::Resize(size) }));
        assert_eq!(fake.next(), Some(Envelope { id, message: ToAgent::HangUp }));
        fake.send(id, ToHost::Exited(Status::Signal(1)));
    });
    let mut process =
        client.exec(Command { terminal: Some(TerminalSize { rows: 24, columns: 80 }), ..cat() }).unwrap();
    let terminal = process.terminal().unwrap();
    terminal.resize(size).unwrap();
    terminal.clone().hang_up().unwrap();
    assert_eq!(process.next_event().unwrap(), ProcessEvent::Started(2));
    assert_eq!(process.next_event().unwrap(), ProcessEvent::Exited(Status::Signal(1)));
    agent.join().unwrap();
}

#[test]
fn port_is_closed_with_the_last_clone() {
    let (client, agent) = with(|fake| assert!(fake.next().is_none()));
    let clone = client.clone();
    drop(client);
    assert!(!agent.is_finished());
    drop(clone);
    agent.join().unwrap();
}

#[test]
fn client_may_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    shared::<Client>();
}
