//! The UART as a driver and as the host see it.

use std::io;
use std::sync::Mutex;

use super::*;
use crate::device::testing::{Broken, Edges, Writes};

const LINE_CONTROL: u64 = 3;
const SCRATCH: u64 = 7;
/// Line control's bit 7: offsets 0 and 1 are the divisor.
const DLAB: u8 = 0x80;
/// Modem control's bit 4.
const LOOP_BACK: u8 = 0x10;

struct Bench {
    uart: Uart,
    edges: Arc<Edges>,
    writes: Writes,
}

fn bench() -> Bench {
    let (edges, writes) = (Arc::new(Edges::default()), Writes::default());
    let uart = Uart::new(edges.clone(), Box::new(writes.clone()));
    Bench { uart, edges, writes }
}

impl Bench {
    fn out(&mut self, offset: impl Into<u64>, value: u8) {
        self.uart.write(offset.into(), &[value]);
    }

    fn say(&mut self, text: &[u8]) {
        for byte in text {
            self.out(DATA, *byte);
        }
    }

    fn read(&mut self, offset: impl Into<u64>) -> u8 {
        let mut data = [0];
        self.uart.read(offset.into(), &mut data);
        data[0]
    }

    /// Reads as a polling driver does: while the line status says that there is a byte.
    fn receive(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| (self.read(LINE_STATUS) & DATA_READY != 0).then(|| self.read(DATA))).collect()
    }
}

#[test]
fn uart_line_is_passed_on_in_one_write_at_its_end() {
    let mut bench = bench();
    bench.say(b"hello\nwor");
    assert_eq!(bench.writes.all(), [b"hello\n"]);
}

#[test]
fn uart_long_line_is_passed_on_in_pieces() {
    let mut bench = bench();
    bench.say(&[b'x'; 600]);
    assert_eq!(bench.writes.all(), [vec![b'x'; 256], vec![b'x'; 256]]);
}

#[test]
fn uart_part_of_a_line_is_passed_on_when_flushed() {
    let mut bench = bench();
    bench.say(b"login: ");
    bench.uart.flush();
    assert_eq!(bench.writes.bytes(), b"login: ");
}

#[test]
fn uart_part_of_a_line_is_passed_on_when_dropped() {
    let mut bench = bench();
    bench.say(b"login: ");
    drop(bench.uart);
    assert_eq!(bench.writes.bytes(), b"login: ");
}

#[test]
fn uart_part_of_a_line_is_passed_on_when_the_guest_idles() {
    let mut bench = bench();
    bench.say(b"login: ");
    for _ in 0..3 {
        bench.read(LINE_STATUS);
    }
    assert_eq!(bench.writes.bytes(), b"login: ");
}

#[test]
fn uart_part_of_a_line_is_passed_on_when_interrupts_are_set() {
    let mut bench = bench();
    bench.say(b"login: ");
    bench.out(INTERRUPT_ENABLE, 1);
    assert_eq!(bench.writes.bytes(), b"login: ");
}

#[test]
fn uart_part_of_a_line_is_passed_on_when_the_guest_reads() {
    let mut bench = bench();
    bench.say(b"login: ");
    bench.read(DATA);
    assert_eq!(bench.writes.bytes(), b"login: ");
}

#[test]
fn uart_polling_driver_costs_one_write_a_line() {
    let mut bench = bench();
    for byte in b"one line of text\n" {
        bench.read(LINE_STATUS);
        bench.out(DATA, *byte);
    }
    assert_eq!(bench.writes.all().len(), 1);
}

#[test]
fn uart_output_that_fails_is_counted_and_the_guest_goes_on() {
    struct Deaf;
    impl Write for Deaf {
        fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut uart = Uart::new(Arc::new(Edges::default()), Box::new(Deaf));
    uart.write(0, b"a");
    uart.write(0, b"\n");
    assert_eq!(uart.lost(), 2);
}

#[test]
fn uart_output_that_takes_a_byte_a_write_gets_them_all() {
    struct Narrow(Writes);
    impl Write for Narrow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.write(&data[..1])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let writes = Writes::default();
    let mut uart = Uart::new(Arc::new(Edges::default()), Box::new(Narrow(writes.clone())));
    for byte in b"abc\n" {
        uart.write(0, &[*byte]);
    }
    assert_eq!((writes.bytes(), uart.lost()), (b"abc\n".to_vec(), 0));
}

#[test]
fn uart_scratch_keeps_what_was_written() {
    let mut bench = bench();
    bench.out(SCRATCH, 0xa5);
    assert_eq!(bench.read(SCRATCH), 0xa5);
}

#[test]
fn uart_divisor_under_dlab_transmits_nothing() {
    let mut bench = bench();
    bench.out(LINE_CONTROL, DLAB);
    bench.say(b"\n");
    assert_eq!((bench.read(DATA), bench.writes.bytes()), (b'\n', vec![]));
}

#[test]
fn uart_wide_access_is_split_into_bytes() {
    let mut bench = bench();
    bench.uart.write(LINE_CONTROL, &[DLAB, 0]);
    bench.uart.write(0, &[0x34, 0x12]);
    let mut data = [0; 2];
    bench.uart.read(0, &mut data);
    assert_eq!(data, [0x34, 0x12]);
}

#[test]
fn uart_access_past_its_registers_reads_all_ones() {
    let mut bench = bench();
    let mut data = [0; 4];
    bench.uart.read(6, &mut data);
    assert_eq!(data[2..], [0xff, 0xff]);
}

#[test]
fn uart_input_with_the_interrupt_on_raises_it() {
    let mut bench = bench();
    bench.out(INTERRUPT_ENABLE, 1);
    bench.uart.enqueue(b"x");
    assert_eq!(bench.edges.count(), 1);
}

#[test]
fn uart_input_with_the_interrupt_off_raises_none() {
    let mut bench = bench();
    bench.uart.enqueue(b"x");
    assert_eq!(bench.edges.count(), 0);
}

#[test]
fn uart_input_beyond_the_fifo_arrives_in_order() {
    let mut bench = bench();
    let input: Vec<u8> = (0..=255).cycle().take(1000).collect();
    assert_eq!((bench.uart.enqueue(&input), bench.receive()), (1000, input));
}

#[test]
fn uart_input_beyond_its_room_is_refused() {
    let mut bench = bench();
    bench.uart.enqueue(&[0; 64]);
    assert_eq!(bench.uart.enqueue(&vec![0; INPUT_MAX + 1]), INPUT_MAX);
}

#[test]
fn uart_input_during_loop_back_arrives_after_it() {
    let mut bench = bench();
    bench.out(MODEM_CONTROL, LOOP_BACK);
    bench.uart.enqueue(b"later");
    assert_eq!(bench.receive(), b"");
    bench.out(MODEM_CONTROL, 0);
    assert_eq!(bench.receive(), b"later");
}

#[test]
fn uart_transmitted_in_loop_back_comes_back_and_does_not_leave() {
    let mut bench = bench();
    bench.out(MODEM_CONTROL, LOOP_BACK);
    bench.say(b"echo\n");
    assert_eq!((bench.receive(), bench.writes.bytes()), (b"echo\n".to_vec(), vec![]));
}

#[test]
fn uart_broken_interrupt_line_does_not_stop_the_output() {
    let writes = Writes::default();
    let mut uart = Uart::new(Arc::new(Broken), Box::new(writes.clone()));
    uart.write(1, &[0x0f]);
    uart.write(0, b"\n");
    assert_eq!(writes.bytes(), b"\n");
}

#[test]
fn uart_input_beyond_its_room_waits_and_arrives_whole() {
    let uart = Arc::new(Mutex::new(bench().uart));
    let mut input = SerialInput::new(uart.clone());
    let sent: Vec<u8> = (0..=250).cycle().take(3 * INPUT_MAX).collect();
    let all = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&all));
    let mut seen = Vec::new();
    let mut byte = [0];
    while seen.len() < sent.len() {
        let mut uart = uart.lock().unwrap();
        uart.read(LINE_STATUS.into(), &mut byte);
        if byte[0] & DATA_READY == 0 {
            drop(uart);
            std::thread::yield_now();
            continue;
        }
        uart.read(DATA.into(), &mut byte);
        seen.extend(byte);
    }
    writer.join().unwrap().unwrap();
    assert!(seen == sent);
}

#[test]
fn uart_input_ends_with_its_machine_also_for_who_waits() {
    let uart = Arc::new(Mutex::new(bench().uart));
    let mut input = SerialInput::new(uart.clone());
    let writer = std::thread::spawn(move || input.write_all(&vec![0; 2 * INPUT_MAX]));
    uart.lock().unwrap().close_input();
    assert_eq!(writer.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn uart_break_is_told_by_the_status_once_and_before_its_key() {
    let mut bench = bench();
    assert_eq!(bench.uart.enqueue(b"ab"), 2);
    assert!(bench.uart.enqueue_break(b'h'));
    assert_eq!(bench.uart.enqueue(b"c"), 1);
    for (status, data) in [(0, b'a'), (0, b'b'), (BREAK, 0), (0, b'h'), (0, b'c')] {
        assert_eq!(bench.read(LINE_STATUS) & (BREAK | DATA_READY), status | DATA_READY);
        // Reading the status clears it.
        assert_eq!(bench.read(LINE_STATUS) & BREAK, 0);
        assert_eq!(bench.read(DATA), data);
    }
    assert_eq!(bench.read(LINE_STATUS) & (BREAK | DATA_READY), 0);
}

#[test]
fn uart_break_interrupts_who_waits_for_input() {
    let mut bench = bench();
    bench.out(INTERRUPT_ENABLE, 1);
    let before = bench.edges.count();
    assert!(bench.uart.enqueue_break(b's'));
    assert!(bench.edges.count() > before);
    // An overlooked break does not stick to the next byte.
    assert_eq!((bench.read(DATA), bench.read(LINE_STATUS) & BREAK, bench.read(DATA)), (0, 0, b's'));
}

#[test]
fn uart_break_without_room_is_refused_as_a_whole() {
    let mut bench = bench();
    while bench.uart.enqueue(b"x") == 1 {}
    assert!(!bench.uart.enqueue_break(b'h'));
    assert!(bench.receive().iter().all(|byte| *byte == b'x'));
}
