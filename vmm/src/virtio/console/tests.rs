//! Bytes through ports, both ways, and hostile drivers.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::virtio::testing::{BUFFERS, Driver, NEXT, RAM};

/// The control messages' buffers, 64 bytes for each descriptor.
const CONTROL: u64 = BUFFERS;
const MESSAGE: u64 = BUFFERS + 0x8000;
const DATA: u64 = BUFFERS + 0x1_0000;

const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// The console's output, as a channel.
struct Output(Sender<Vec<u8>>);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data.to_vec()).map_err(io::Error::other)?;
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    driver: Driver,
    ports: Vec<UnixStream>,
    input: UnixStream,
    output: Receiver<Vec<u8>>,
}

fn rig(ports: usize) -> Rig {
    let (input, inner) = UnixStream::pair().unwrap();
    let (sender, output) = channel();
    let console = ConsoleEnd { input: Some(inner.into()), output: Box::new(Output(sender)) };
    let (outer, inner): (Vec<_>, Vec<_>) = (1..=ports)
        .map(|id| UnixStream::pair().map(|(outer, inner)| (outer, (format!("port{id}"), inner))).unwrap())
        .unzip();
    let device = ConsoleDevice::new(Some(console), inner).unwrap();
    Rig { driver: Driver::new(Box::new(device)), ports: outer, input, output }
}

/// A rig with its ports announced, and all but the console open.
fn open_rig(ports: usize) -> Rig {
    let mut rig = rig(ports);
    rig.start();
    for id in 1..=u32::try_from(ports).unwrap() {
        rig.say(id, 6, 1);
    }
    rig
}

impl Rig {
    fn start(&mut self) {
        let ports = u32::try_from(self.ports.len()).unwrap();
        self.driver.start(FEATURE_MULTIPORT | FEATURE_EVENT_IDX, 2 * (ports + 2));
        for at in 0..64 {
            self.driver.add(CONTROL_RX, &[(CONTROL + 64 * at, 64, true)]);
        }
        self.say(u32::MAX, 0, 1);
        for id in 0..=ports {
            assert_eq!(self.hear(), (id, 1, 1, String::new()));
        }
        self.say(0, 3, 1);
        assert_eq!(self.hear(), (0, 4, 1, String::new()));
        assert_eq!(self.hear(), (0, 6, 1, String::new()));
        for id in 1..=ports {
            self.say(id, 3, 1);
            assert_eq!(self.hear(), (id, 7, 1, format!("port{id}")));
            assert_eq!(self.hear(), (id, 6, 1, String::new()));
        }
    }

    /// Sends a control message.
    fn say(&mut self, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend_from_slice(&event.to_le_bytes());
        message.extend_from_slice(&value.to_le_bytes());
        self.driver.put(MESSAGE, &message);
        self.driver.add(CONTROL_TX, &[(MESSAGE, 8, false)]);
        self.driver.used(CONTROL_TX);
    }

    /// Waits for the next control message: port, event, value, name.
    fn hear(&mut self) -> (u32, u16, u16, String) {
        let (head, len) = self.driver.used(CONTROL_RX);
        let data = self.driver.take(CONTROL + 64 * u64::from(head), usize::try_from(len).unwrap());
        (
            u32::from_le_bytes(data[0..4].try_into().unwrap()),
            u16::from_le_bytes(data[4..6].try_into().unwrap()),
            u16::from_le_bytes(data[6..8].try_into().unwrap()),
            String::from_utf8(data[8..].to_vec()).unwrap(),
        )
    }

    /// Gives room for `len` bytes on a port and waits for bytes.
    fn receive(&mut self, port: usize, len: u32) -> Vec<u8> {
        self.driver.add(rx(port), &[(DATA, len, true)]);
        let (_, used) = self.driver.used(rx(port));
        self.driver.take(DATA, usize::try_from(used).unwrap())
    }

    fn send(&mut self, port: usize, data: &[u8]) {
        self.driver.put(DATA, data);
        self.driver.add(rx(port) + 1, &[(DATA, u32::try_from(data.len()).unwrap(), false)]);
    }
}

fn rx(port: usize) -> usize {
    if port == 0 { 0 } else { 2 * port + 2 }
}

#[test]
fn the_config_counts_the_ports() {
    let mut rig = rig(3);
    assert_eq!(rig.driver.get(0x104), 4);
    rig.driver.set(0x30, 9);
    assert_eq!(rig.driver.get(0x34), 128);
    rig.driver.set(0x30, 10);
    assert_eq!(rig.driver.get(0x34), 0);
}

#[test]
fn without_multiport_there_is_a_console() {
    let mut rig = rig(0);
    rig.driver.start(0, 2);
    rig.send(0, b"hello");
    assert_eq!(rig.output.recv().unwrap(), b"hello");
    rig.driver.used(1);
    rig.input.write_all(b"world").unwrap();
    assert_eq!(rig.receive(0, 64), b"world");
}

#[test]
fn bytes_go_both_ways() {
    let mut rig = open_rig(2);
    rig.send(2, b"to the host");
    rig.driver.used(rx(2) + 1);
    let mut data = [0; 11];
    rig.ports[1].read_exact(&mut data).unwrap();
    assert_eq!(&data, b"to the host");
    rig.ports[1].write_all(b"to the guest").unwrap();
    assert_eq!(rig.receive(2, 5), b"to th");
    assert_eq!(rig.receive(2, 64), b"e guest");
}

#[test]
fn bytes_wait_until_the_guest_opens_its_port() {
    let mut rig = rig(1);
    rig.ports[0].write_all(b"early").unwrap();
    rig.start();
    rig.driver.add(rx(1), &[(DATA, 64, true)]);
    rig.say(1, 6, 1);
    assert_eq!(rig.driver.used(rx(1)).1, 5);
}

#[test]
fn a_host_that_does_not_read_holds_up_its_port_only() {
    let mut rig = open_rig(2);
    let data: Vec<u8> = (0..4_u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    rig.send(1, &data);
    rig.driver.add(rx(2) + 1, &[(DATA, 4, false)]);
    rig.driver.used(rx(2) + 1);
    let mut all = vec![0; data.len()];
    rig.ports[0].read_exact(&mut all).unwrap();
    assert!(all == data);
    rig.driver.used(rx(1) + 1);
}

#[test]
fn a_port_that_the_guest_closes_ends_after_its_last_byte() {
    let mut rig = open_rig(1);
    let data = vec![9; 2 << 20];
    rig.send(1, &data);
    rig.ports[0].write_all(b"never read").unwrap();
    rig.say(1, 6, 0);
    let mut all = Vec::new();
    rig.ports[0].read_to_end(&mut all).unwrap();
    assert!(all == data);
    assert_eq!(rig.hear(), (1, 6, 0, String::new()));
    // What comes after is dropped.
    rig.driver.used(rx(1) + 1);
    rig.send(1, b"more");
    rig.driver.used(rx(1) + 1);
}

#[test]
fn a_host_that_closes_is_heard_after_its_last_byte() {
    let mut rig = open_rig(1);
    let mut stream = rig.ports.remove(0);
    stream.write_all(b"last").unwrap();
    drop(stream);
    rig.driver.add(rx(1), &[(DATA, 64, true)]);
    rig.driver.add(rx(1), &[(DATA + 64, 64, true)]);
    assert_eq!(rig.hear(), (1, 6, 0, String::new()));
    assert_eq!(rig.driver.used(rx(1)).1, 4);
    rig.send(1, b"to nobody");
    rig.driver.used(rx(1) + 1);
}

#[test]
fn a_reset_ends_the_open_streams_and_keeps_the_console() {
    let mut rig = open_rig(2);
    rig.send(1, b"sent before");
    rig.say(2, 6, 0);
    rig.driver.set(0x70, 0);
    let mut all = Vec::new();
    rig.ports[0].read_to_end(&mut all).unwrap();
    assert_eq!(all, b"sent before");
    rig.driver.start(0, 2);
    rig.send(0, b"again");
    assert_eq!(rig.output.recv().unwrap(), b"again");
}

#[test]
fn a_stop_ends_every_stream_and_does_not_wait_for_ever() {
    let mut rig = open_rig(1);
    let data = vec![1; 4 << 20];
    rig.send(1, &data);
    // Nobody reads: the stop gives up after a while.
    rig.driver.transport.stop();
    let mut all = Vec::new();
    rig.ports[0].read_to_end(&mut all).unwrap();
    assert!(all.len() < data.len());
    assert!(rig.output.recv().is_err(), "the console's output is dropped");
}

#[test]
fn a_flood_of_control_messages_waits_for_room() {
    let mut rig = rig(1);
    rig.driver.start(FEATURE_MULTIPORT, 6);
    let mut message = 1_u32.to_le_bytes().to_vec();
    message.extend_from_slice(&[3, 0, 1, 0]);
    rig.driver.put(MESSAGE, &message);
    for _ in 0..128 {
        rig.driver.add(CONTROL_TX, &[(MESSAGE, 8, false)]);
    }
    // Two answers for each, delivered as room comes; the first room is too small for any.
    rig.driver.add(CONTROL_RX, &[(CONTROL, 4, true)]);
    assert_eq!(rig.driver.used(CONTROL_RX), (0, 0));
    for at in 0..256_u64 {
        let head = rig.driver.add(CONTROL_RX, &[(CONTROL, 64, true)]);
        let len = if at % 2 == 0 { 13 } else { 8 };
        assert_eq!(rig.driver.used(CONTROL_RX), (u32::from(head), len));
    }
    for _ in 0..128 {
        rig.driver.used(CONTROL_TX);
    }
}

#[test]
fn messages_that_mean_nothing_are_passed_over() {
    let mut rig = open_rig(1);
    rig.say(77, 3, 1);
    rig.say(u32::MAX, 6, 1);
    rig.say(1, 0xffff, 0xffff);
    rig.driver.add(CONTROL_TX, &[(MESSAGE, 3, false)]);
    rig.driver.add(CONTROL_TX, &[(MESSAGE, 0, false)]);
    rig.driver.add(rx(1), &[(DATA, 0, true)]);
    assert_eq!(rig.driver.used(rx(1)).1, 0);
    // An empty part has no address to speak of.
    rig.driver.add(rx(1), &[(u64::MAX, 0, true), (DATA, 64, true)]);
    rig.ports[0].write_all(b"y").unwrap();
    assert_eq!(rig.driver.used(rx(1)).1, 1);
    rig.driver.add(rx(1) + 1, &[(u64::MAX, 0, false)]);
    rig.driver.used(rx(1) + 1);
    rig.send(1, b"");
    rig.driver.used(rx(1) + 1);
    rig.send(1, b"x");
    rig.driver.used(rx(1) + 1);
}

#[test]
fn broken_chains_need_a_reset_and_end_the_streams() {
    for queue in [0, 1, CONTROL_RX, CONTROL_TX, 4, 5] {
        let mut rig = open_rig(1);
        rig.say(0, 6, 1);
        if queue == CONTROL_RX {
            rig.driver.descriptor(queue, 64, RAM, 64, 2, 0);
            rig.driver.offer(queue, 64);
            // The good ones are used up by the answers until the broken one's turn comes.
            let ready = [1, 0, 0, 0, 3, 0, 1, 0];
            rig.driver.put(MESSAGE, &ready);
            for _ in 0..64 {
                rig.driver.add(CONTROL_TX, &[(MESSAGE, 8, false)]);
            }
        } else {
            rig.driver.descriptor(queue, 5, DATA, 16, NEXT, 5);
            rig.driver.offer(queue, 5);
        }
        rig.driver.needs_reset();
        assert_eq!(rig.ports[0].read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn a_stream_of_megabytes_arrives_whole() {
    const LEN: usize = 8 << 20;
    let mut rig = open_rig(1);
    let mut stream = rig.ports.remove(0);
    let source: Vec<u8> = (0..LEN).map(|at| u8::try_from(at % 253).unwrap()).collect();
    let copy = source.clone();
    let host = std::thread::spawn(move || stream.write_all(&copy).map(|()| stream).unwrap());
    for _ in 0..64 {
        rig.driver.add(rx(1), &[(DATA, 4096, true)]);
    }
    // Every buffer has the same address: what counts here is that no byte is lost while many are in use.
    let mut total = 0;
    while total < LEN {
        total += usize::try_from(rig.driver.used(rx(1)).1).unwrap();
        rig.driver.add(rx(1), &[(DATA, 4096, true)]);
    }
    assert_eq!(total, LEN);
    let mut stream = host.join().unwrap();
    let reader = std::thread::spawn(move || {
        let mut data = vec![0; LEN];
        stream.read_exact(&mut data).map(|()| data).unwrap()
    });
    for chunk in source.chunks(32 << 10) {
        rig.send(1, chunk);
        rig.driver.used(rx(1) + 1);
    }
    assert!(reader.join().unwrap() == source);
}

/// A device on other streams, with as many ports.
fn another(ports: usize) -> (Box<ConsoleDevice>, Vec<UnixStream>) {
    let end = ConsoleEnd { input: None, output: Box::new(io::sink()) };
    let (outer, inner): (Vec<_>, Vec<_>) = (1..=ports)
        .map(|id| UnixStream::pair().map(|(outer, inner)| (outer, (format!("port{id}"), inner))).unwrap())
        .unzip();
    (Box::new(ConsoleDevice::new(Some(end), inner).unwrap()), outer)
}

#[test]
fn a_port_that_was_open_goes_on_with_another_stream_and_no_word() {
    let mut rig = open_rig(2);
    // The guest has room for bytes that have not come.
    rig.driver.add(rx(1), &[(DATA, 64, true)]);
    let state = rig.driver.rest();
    let (device, mut streams) = another(2);
    rig.driver.go_on(device, state).unwrap();
    streams[0].write_all(b"later").unwrap();
    let (_, length) = rig.driver.used(rx(1));
    assert_eq!(rig.driver.take(DATA, usize::try_from(length).unwrap()), b"later");
    rig.send(1, b"answer");
    let mut answer = [0; 6];
    streams[0].read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // The first word after all that is the one that the host's going causes.
    rig.driver.add(rx(2), &[(DATA, 64, true)]);
    drop(streams.remove(1));
    assert_eq!(rig.hear(), (2, 6, 0, String::new()));
}

#[test]
fn bytes_on_their_way_are_sent_once_by_one_device_or_the_next() {
    let sent: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_le_bytes).collect();
    let mut rig = open_rig(1);
    rig.driver.put(DATA, &sent);
    // More than a stream takes that nobody reads.
    rig.driver.add(rx(1) + 1, &[(DATA, u32::try_from(sent.len()).unwrap(), false)]);
    let mut first = [0];
    rig.ports[0].read_exact(&mut first).unwrap();
    let state = rig.driver.rest();
    let (device, streams) = another(1);
    let mut got = first.to_vec();
    // The old streams end with the old device.
    rig.driver.go_on(device, state).unwrap();
    rig.ports[0].read_to_end(&mut got).unwrap();
    assert!(got.len() < sent.len());
    let mut rest = vec![0; sent.len() - got.len()];
    (&streams[0]).read_exact(&mut rest).unwrap();
    got.extend(rest);
    assert!(got == sent);
    rig.driver.used(rx(1) + 1);
}

#[test]
fn a_state_with_other_ports_or_endless_messages_is_refused() {
    let mut rig = open_rig(2);
    let state = rig.driver.rest();
    let mut long = state.clone();
    long["device"]["active"]["waiting"] = vec![vec![0u8; 8]; 1000].into();
    let mut large = state.clone();
    large["device"]["active"]["waiting"] = vec![vec![0u8; 1000]].into();
    for state in [long, large, serde_json::Value::Null] {
        assert!(rig.driver.go_on(another(2).0, state).is_err());
    }
    assert!(rig.driver.go_on(another(1).0, state).is_err());
}
