//! Where the devices of a test machine are.

/// COM1: a 16550A, eight ports, ISA interrupt 4.
pub const COM1: u16 = 0x3f8;
/// COM1's interrupt.
pub const COM1_GSI: u32 = 4;
/// COM1 to COM4.
pub const COM: [u16; 4] = [COM1, 0x2f8, 0x3e8, 0x2e8];
/// The interrupts of COM1 to COM4.
pub const COM_GSIS: [u32; 4] = [COM1_GSI, 3, COM1_GSI, 3];
/// The index port of CMOS and real-time clock, with the NMI mask in bit 7; the data port is the next.
pub const RTC: u16 = 0x70;
/// A debug console: each byte written is text; reads give [`DEBUG_CONSOLE_ANSWER`].
pub const DEBUG_CONSOLE: u16 = 0xe9;
/// The debug console that firmware uses.
pub const FIRMWARE_CONSOLE: u16 = 0x402;
/// What a debug console reads.
pub const DEBUG_CONSOLE_ANSWER: u8 = 0xe9;
/// pvpanic: bit 0 written means that the guest panicked, bit 1 that its crash kernel runs.
pub const PVPANIC: u16 = 0x505;
/// fw_cfg: the selector, the data port next to it, the DMA's eight ports from four on.
pub const FW_CFG: u16 = 0x510;
/// How many ports fw_cfg has.
pub const FW_CFG_SIZE: u16 = 12;
/// pc-testdev: four ports that keep what was written, four that take a page to forget, the first four byte by byte.
pub const TESTDEV: u16 = 0xe0;
/// How many ports that is. One of them is the debug console's: a machine has either.
pub const TESTDEV_SIZE: u16 = 12;
/// pc-testdev: a port for each interrupt line, of which a byte is the level.
pub const TESTDEV_IRQ: u16 = 0x2000;
/// How many interrupt lines it has.
pub const TESTDEV_IRQ_SIZE: u16 = 24;
/// pc-testdev: memory behind MMIO.
pub const TESTDEV_MMIO: u64 = 0xff00_0000;
/// The size of that memory in bytes.
pub const TESTDEV_MMIO_SIZE: u64 = 0x1_0000;
/// The debug-exit port: writing `v` ends the machine with status `2v+1`; `v` = 0 means passed.
pub const DEBUG_EXIT: u16 = 0xf4;
/// The POST port: a byte that says how far something came.
pub const POST: u16 = 0x80;
/// The probe device's registers on PIO: [`PROBE_PIO_SIZE`] ports.
pub const PROBE_PIO: u16 = 0xa00;
/// How many ports the probe device has.
pub const PROBE_PIO_SIZE: u16 = 0x40;
/// The probe device's [`STREAM`](crate::probe::STREAM) and [`STREAM_ASTRAY`](crate::probe::STREAM_ASTRAY) on PIO:
/// [`PROBE_STREAM_PIO_SIZE`] ports.
pub const PROBE_STREAM_PIO: u16 = 0xa40;
/// How many ports they have.
pub const PROBE_STREAM_PIO_SIZE: u16 = 8;
/// The probe device's registers on MMIO: one page.
pub const PROBE_MMIO: u64 = 0xd010_0000;
/// The size of the probe device's MMIO range in bytes.
pub const PROBE_MMIO_SIZE: u64 = 0x1000;
/// The probe device's cells on PIO, [`PROBE_CELLS_SIZE`] ports: 16 bytes that keep what is written and take single
/// bytes alone, then four times four bytes that keep what is written and take four bytes alone. The bus makes
/// other accesses fit, but that writes of less than four bytes to the latter are lost.
pub const PROBE_CELLS_PIO: u16 = 0xa50;
/// The like on MMIO, with cells of its own.
pub const PROBE_CELLS_MMIO: u64 = 0xd011_0000;
/// How many addresses the cells take.
pub const PROBE_CELLS_SIZE: u16 = 32;
/// Where the probe device's window is that the guest can move ([`WINDOW_BASE`](crate::probe::WINDOW_BASE)), before it does so.
pub const PROBE_WINDOW: u64 = 0xd012_0000;
/// The size of that window in bytes.
pub const PROBE_WINDOW_SIZE: u64 = 0x1000;
/// The probe device's interrupt.
pub const PROBE_GSI: u32 = 10;
/// The probe device's second, level-triggered interrupt.
pub const PROBE_LEVEL_GSI: u32 = 11;
/// The interrupt by which the machine tells of an event (ACPI's Generic Event Device): of a new generation ID.
pub const EVENT_GSI: u32 = 9;
/// The VM generation ID's bytes: in RAM, in a page of their own that the memory map has as reserved.
pub const GENERATION_ID: u64 = 0xf_f000;
/// How many bytes the generation ID has.
pub const GENERATION_ID_SIZE: usize = 16;
/// The first virtio-mmio device.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// The distance between virtio-mmio devices, and the size of each one's range, in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// How many virtio-mmio devices fit below the probe device.
pub const VIRTIO_MMIO_MAX: usize = 256;
/// The interrupts of virtio-mmio devices: device n has the n-th, wrapping round.
pub const VIRTIO_MMIO_GSIS: [u32; 8] = [16, 17, 18, 19, 20, 21, 22, 23];

/// The address of virtio-mmio device `index`.
#[must_use]
pub const fn virtio_mmio_address(index: usize) -> u64 {
    VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_SIZE
}

/// The interrupt of virtio-mmio device `index`.
#[must_use]
pub const fn virtio_mmio_gsi(index: usize) -> u32 {
    VIRTIO_MMIO_GSIS[index % VIRTIO_MMIO_GSIS.len()]
}
