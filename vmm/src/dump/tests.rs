//! Dumps of states made up for them.

use super::*;
use crate::memory::GuestMemory;
use crate::vcpu::state::Segment;

fn memory() -> GuestMemory {
    let memory = crate::memory::allocate(1 << 20).unwrap();
    memory.write_slice(&(0..=255).collect::<Vec<u8>>(), GuestAddress(0)).unwrap();
    memory
}

/// Flat and 32-bit.
fn special() -> SpecialRegisters {
    let cs = Segment { big: true, present: true, ..Segment::default() };
    SpecialRegisters { cs, ..SpecialRegisters::default() }
}

fn dump(rip: u64, rsp: u64) -> VcpuDump {
    let (memory, special) = (memory(), special());
    VcpuDump {
        index: 1,
        why: "a test".to_owned(),
        mp_state: MpState::Halted,
        symbol: None,
        registers: Registers { rip, rsp, ..Registers::default() },
        special,
        walk: PageWalk::new(&memory, &special, rip),
        code: code(&memory, &special, rip),
        stack: stack(&memory, &special, rsp),
    }
}

#[test]
fn code_is_shown_on_both_sides_of_the_instruction() {
    let dump = dump(0x42, 0);
    assert_eq!(dump.code.before, (0x22..0x42).collect::<Vec<u8>>());
    assert_eq!(dump.code.from, (0x42..0x62).collect::<Vec<u8>>());
    assert!(dump.to_string().contains(" 40 41 <42> 43 "), "{dump}");
}

#[test]
fn code_at_the_edges_of_memory_is_cut_short() {
    assert!(dump(0, 0).code.before.is_empty());
    let last = dump((1 << 20) - 1, 0);
    assert_eq!((last.code.before.len(), last.code.from.len()), (32, 1));
    let past = dump(1 << 20, 0);
    assert_eq!((past.code.before.len(), past.code.from.len()), (32, 0));
    assert!(past.to_string().contains("code: there is none in RAM"), "{past}");
}

#[test]
fn stack_has_words_as_wide_as_the_code() {
    let dump = dump(0, 0x10);
    assert_eq!(dump.stack.len(), 64);
    assert_eq!((dump.stack[1].address, dump.stack[1].value), (0x14, 0x1716_1514));
    let mut special = special();
    (special.cs.big, special.ss.base) = (false, 0x20);
    assert_eq!(stack(&memory(), &special, 0xdead_0004)[0].value, 0x2524);
}

#[test]
fn dump_reads_back_from_json() {
    let dump = dump(0x42, 0xf8);
    let text = serde_json::to_string(&dump).unwrap();
    assert!(text.contains(r#""mp_state":"halted""#) && text.contains(r#""rip":"0x42""#), "{text}");
    assert_eq!(serde_json::from_str::<VcpuDump>(&text).unwrap(), dump);
}

#[test]
fn linear_memory_is_written_until_it_ends() {
    let (memory, special) = (memory(), special());
    let view = MemoryView::new(memory.clone(), Vec::new());
    assert_eq!(write_linear(&view, &special, (1 << 20) - 2, b"abc"), 2);
    assert_eq!(write_linear(&view, &special, 0xffe, b"abcd"), 4);
    assert_eq!(read_linear(&memory, &special, 0xffd, 6), b"\0abcd\0");
}
