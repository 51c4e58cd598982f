//! Devices on I/O ports: the UART's scratch register, and the probe device.

use kiln_protocol::addresses::{COM1, PROBE_PIO, PROBE_PIO_SIZE};
use kiln_protocol::{pio, probe};

use super::{Case, Outcome, expect};

pub(super) const CASES: &[Case] = &[
    ("uart::scratch_register_keeps_what_was_written", scratch_register_keeps_what_was_written),
    ("probe_pio::magic_is_there", magic_is_there),
    ("probe_pio::scratch_registers_keep_what_was_written", scratch_registers_keep_what_was_written),
    ("probe_pio::width_arrives_as_it_was_sent", width_arrives_as_it_was_sent),
    ("probe_pio::every_access_is_counted_once", every_access_is_counted_once),
];

fn take(first: u16, count: u16) -> Outcome {
    crate::system::take_ports(first, count).map_err(|error| {
        format!("ports {first:#x}+{count:#x} can't be had (CONFIG_X86_IOPL_IOPERM): {error}")
    })
}

/// A 16550A's scratch register.
const UART_SCRATCH: u16 = COM1 + 7;

fn scratch_register_keeps_what_was_written() -> Outcome {
    take(UART_SCRATCH, 1)?;
    for value in [0x5a, 0xa5] {
        // SAFETY: the right was taken, and the register means nothing to the device.
        #[allow(unsafe_code)]
        let got = unsafe {
            pio::outb(UART_SCRATCH, value);
            pio::inb(UART_SCRATCH)
        };
        expect("the scratch register", got, value)?;
    }
    Ok(())
}

/// The probe device's ports, once the right to them was taken. Only registers without a side effect on memory
/// are touched through it.
struct Ports;

#[allow(unsafe_code)]
impl Ports {
    fn take() -> Result<Self, String> {
        take(PROBE_PIO, PROBE_PIO_SIZE).map(|()| Self)
    }

    fn read8(&self, register: u16) -> u8 {
        // SAFETY: the right was taken, and reading no register here moves memory.
        unsafe { pio::inb(PROBE_PIO + register) }
    }

    fn read16(&self, register: u16) -> u16 {
        // SAFETY: as above.
        unsafe { pio::inw(PROBE_PIO + register) }
    }

    fn read32(&self, register: u16) -> u32 {
        // SAFETY: as above.
        unsafe { pio::inl(PROBE_PIO + register) }
    }

    fn write8(&self, register: u16, value: u8) {
        // SAFETY: the right was taken; scratch registers and the counter are all that is written.
        unsafe { pio::outb(PROBE_PIO + register, value) }
    }

    fn write16(&self, register: u16, value: u16) {
        // SAFETY: as above.
        unsafe { pio::outw(PROBE_PIO + register, value) }
    }

    fn write32(&self, register: u16, value: u32) {
        // SAFETY: as above.
        unsafe { pio::outl(PROBE_PIO + register, value) }
    }
}

fn magic_is_there() -> Outcome {
    expect("the magic", Ports::take()?.read32(probe::MAGIC), probe::MAGIC_VALUE)
}

fn scratch_registers_keep_what_was_written() -> Outcome {
    let ports = Ports::take()?;
    // Twice, with no bit the same: what was there before proves nothing.
    for (one, two, four) in [(0x5a, 0xa55a, 0x0123_4567), (0xa5, 0x5aa5, 0xfedc_ba98)] {
        ports.write8(probe::SCRATCH8, one);
        ports.write16(probe::SCRATCH16, two);
        ports.write32(probe::SCRATCH32, four);
        expect("the 8-bit register", ports.read8(probe::SCRATCH8), one)?;
        expect("the 16-bit register", ports.read16(probe::SCRATCH16), two)?;
        expect("the 32-bit register", ports.read32(probe::SCRATCH32), four)?;
    }
    Ok(())
}

fn width_arrives_as_it_was_sent() -> Outcome {
    let ports = Ports::take()?;
    expect("an access of 1 byte", ports.read8(probe::WIDTH), 0x11)?;
    expect("an access of 2 bytes", ports.read16(probe::WIDTH), 0x2222)?;
    expect("an access of 4 bytes", ports.read32(probe::WIDTH), 0x4444_4444)
}

fn every_access_is_counted_once() -> Outcome {
    let ports = Ports::take()?;
    ports.write32(probe::ACCESS_COUNT, 0);
    expect("the counter after its reset", ports.read32(probe::ACCESS_COUNT), 0)?;
    ports.write32(probe::ACCESS_COUNT, 0);
    for _ in 0..5 {
        ports.read8(probe::SCRATCH8);
    }
    expect("the counter after five accesses", ports.read32(probe::ACCESS_COUNT), 5)
}
