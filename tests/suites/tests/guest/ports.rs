//! Ports: the devices that are nowhere else.

use std::io;

use kiln::guest::{Mmio, Ports};
use kiln::guest_test;
use kiln::protocol::addresses::{
    COM1, FW_CFG, FW_CFG_SIZE, POST, PROBE_MMIO, PROBE_MMIO_SIZE, PROBE_PIO, PROBE_PIO_SIZE,
    PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE, PVPANIC, RTC,
};
use kiln::protocol::probe;

fn probe_ports() -> Ports {
    Ports::take(PROBE_PIO, PROBE_PIO_SIZE).unwrap_or_else(|error| panic!("no right to the probe: {error}"))
}

#[guest_test]
fn post_port_remembers_the_last_byte() -> io::Result<()> {
    let post = Ports::take(POST, 1)?;
    for byte in [0x00, 0x42, 0xff] {
        post.write8(0, byte);
        assert_eq!(post.read8(0), byte);
    }
    Ok(())
}

#[guest_test]
fn pvpanic_says_which_events_it_knows() -> io::Result<()> {
    // Bit 0: panicked; bit 1: the crash kernel is loaded (QEMU, docs/specs/pvpanic.rst).
    assert_eq!(Ports::take(PVPANIC, 1)?.read8(0), 3);
    Ok(())
}

#[guest_test]
fn clock_that_is_not_there_reads_as_all_ones() -> io::Result<()> {
    let clock = Ports::take(RTC, 2)?;
    clock.write8(0, 0x0a);
    assert_eq!(clock.read8(1), 0xff);
    Ok(())
}

#[guest_test]
fn transmitter_of_the_uart_runs_empty() -> io::Result<()> {
    /// The line status register, and its bit for an empty transmitter (PC16550D data sheet, table II).
    const LINE_STATUS: u16 = 5;
    const EMPTY: u8 = 0x40;
    let com1 = Ports::take(COM1, 8)?;
    while com1.read8(LINE_STATUS) & EMPTY == 0 {}
    Ok(())
}

#[guest_test(memory = "320M")]
#[case::memory(3, 320 << 20)]
#[case::interface(1, 3)]
#[case::processors_at_most(15, 1)]
fn fw_cfg_item_holds(item: u16, wanted: u64) -> io::Result<()> {
    let ports = Ports::take(FW_CFG, FW_CFG_SIZE)?;
    ports.write16(0, item);
    let bytes = [(); 8].map(|()| ports.read8(1));
    assert_eq!(u64::from_le_bytes(bytes), wanted);
    Ok(())
}

#[guest_test]
fn fw_cfg_reads_as_zeros_past_an_items_end() -> io::Result<()> {
    let ports = Ports::take(FW_CFG, FW_CFG_SIZE)?;
    ports.write16(0, 0);
    let bytes = [(); 8].map(|()| ports.read8(1));
    assert_eq!(&bytes, b"QEMU\0\0\0\0");
    Ok(())
}

#[guest_test]
#[case::scratch8(probe::SCRATCH8, 0xff)]
#[case::scratch16(probe::SCRATCH16, 0xffff)]
#[case::scratch32(probe::SCRATCH32, u32::MAX)]
fn register_keeps_every_bit(offset: u16, mask: u32, #[from(probe_ports)] ports: Ports) {
    let narrow = |value: u32| u16::try_from(value & 0xffff).unwrap_or(0);
    for bit in (0..32).filter(|bit| mask >> bit & 1 == 1) {
        let value = 1_u32 << bit;
        let came = match mask {
            0xff => {
                ports.write8(offset, narrow(value).to_le_bytes()[0]);
                ports.read8(offset).into()
            }
            0xffff => {
                ports.write16(offset, narrow(value));
                ports.read16(offset).into()
            }
            _ => {
                ports.write32(offset, value);
                ports.read32(offset)
            }
        };
        assert_eq!(came, value);
    }
}

#[guest_test]
fn long_register_is_reached_by_halves(#[from(probe_ports)] ports: Ports) -> io::Result<()> {
    let bank = Mmio::map(PROBE_MMIO, usize::try_from(PROBE_MMIO_SIZE).map_err(io::Error::other)?)?;
    ports.write32(probe::SCRATCH64, 0x89ab_cdef);
    ports.write32(probe::SCRATCH64 + 4, 0x0123_4567);
    assert_eq!(bank.read64(probe::SCRATCH64.into()), 0x0123_4567_89ab_cdef);
    Ok(())
}

#[guest_test]
fn access_to_no_register_is_counted_and_changes_nothing(#[from(probe_ports)] ports: Ports) {
    ports.write32(probe::SCRATCH32, 0x1234_5678);
    ports.write32(probe::ACCESS_COUNT, 0);
    // Half of a register that has no halves.
    assert_eq!(ports.read16(probe::SCRATCH32 + 2), 0xffff);
    ports.write16(probe::SCRATCH32 + 2, 0);
    assert_eq!(ports.read32(probe::ACCESS_COUNT), 2);
    assert_eq!(ports.read32(probe::SCRATCH32), 0x1234_5678);
}

#[guest_test]
fn log_that_was_emptied_reads_as_all_ones(#[from(probe_ports)] ports: Ports) {
    ports.write32(probe::ACCESS_COUNT, 0);
    assert_eq!(ports.read32(probe::LOG), u32::MAX);
    for value in 0..100 {
        ports.write8(probe::SCRATCH8, value);
    }
    // It keeps the last so many, no more.
    let entries = (0..100).map(|_| ports.read32(probe::LOG)).take_while(|&entry| entry != u32::MAX).count();
    assert_eq!(entries, probe::LOG_MAX);
}

#[guest_test]
fn writes_to_a_coalesced_port_come_in_their_order() -> io::Result<()> {
    let stream = Ports::take(PROBE_STREAM_PIO, PROBE_STREAM_PIO_SIZE)?;
    Ports::take(PROBE_PIO, PROBE_PIO_SIZE)?.write32(probe::ACCESS_COUNT, 0);
    for value in 0..1000 {
        stream.write32(0, value);
    }
    assert_eq!((stream.read32(0), stream.read32(4)), (1000, 0));
    Ok(())
}

#[guest_test]
fn writes_to_coalesced_memory_come_in_their_order() -> io::Result<()> {
    let bank = Mmio::map(PROBE_MMIO, usize::try_from(PROBE_MMIO_SIZE).map_err(io::Error::other)?)?;
    bank.write32(probe::ACCESS_COUNT.into(), 0);
    for value in (0..500).chain([7]).chain(500..1000) {
        bank.write32(probe::STREAM.into(), value);
    }
    // The one that stands out of the row is told from the others.
    assert_eq!((bank.read32(probe::STREAM.into()), bank.read32(probe::STREAM_ASTRAY.into())), (1000, 1));
    Ok(())
}

#[guest_test]
fn port_that_this_process_has_no_right_to_ends_it() -> io::Result<()> {
    use std::os::unix::process::ExitStatusExt;
    /// The signal of a fault (signal(7)).
    const SEGV: i32 = 11;
    let Some(_child) = std::env::var_os("KILN_TOUCH_A_PORT") else {
        let own = std::process::Command::new(std::env::current_exe()?)
            .env("KILN_TOUCH_A_PORT", "1")
            .stderr(std::process::Stdio::null())
            .status()?;
        assert_eq!(own.signal(), Some(SEGV), "{own}");
        return Ok(());
    };
    let first = Ports::take(POST, 1)?;
    // The right goes with the second value, and the first still believes to have it.
    drop(Ports::take(POST, 1)?);
    first.write8(0, 1);
    Ok(())
}
