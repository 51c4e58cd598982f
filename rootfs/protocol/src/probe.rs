//! The probe device: a bank of registers made to be asserted on.
//!
//! The same bank answers on PIO ([`crate::addresses::PROBE_PIO`]) and on MMIO
//! ([`crate::addresses::PROBE_MMIO`]); offsets are the same. Registers are little-endian. An access that
//! falls on no register reads all ones and changes nothing, but is counted and logged as any other.

/// A byte that keeps what was written.
pub const SCRATCH8: u16 = 0x00;
/// Two bytes that keep what was written.
pub const SCRATCH16: u16 = 0x02;
/// Four bytes that keep what was written.
pub const SCRATCH32: u16 = 0x04;
/// Eight bytes that keep what was written; also reachable by halves.
pub const SCRATCH64: u16 = 0x08;
/// Reads [`MAGIC_VALUE`], four bytes.
pub const MAGIC: u16 = 0x10;
/// What [`MAGIC`] reads: "KILN".
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"KILN");
/// How many accesses there were to the bank since it was last reset, this one not counted; four bytes.
/// Writing anything resets it and the log.
pub const ACCESS_COUNT: u16 = 0x14;
/// Answers by width: 0x11, 0x2222, 0x4444_4444 or 0x8888_8888_8888_8888.
pub const WIDTH: u16 = 0x18;
/// Writing raises the device's interrupt once; reading (four bytes) tells how often it was raised.
pub const INTERRUPT: u16 = 0x20;
/// The guest-physical address for the next DMA; eight bytes, also by halves.
pub const DMA_ADDRESS: u16 = 0x28;
/// The length of the next DMA in bytes, at most [`DMA_MAX`]; four bytes.
pub const DMA_LENGTH: u16 = 0x30;
/// Writing one of the `DMA_*` commands does the DMA at once; reading tells how the last one ended
/// ([`DMA_OK`], [`DMA_FAULT`]); four bytes.
pub const DMA_COMMAND: u16 = 0x34;
/// The sum of all bytes (wrapping, 32 bits) that the last DMA moved.
pub const DMA_CHECKSUM: u16 = 0x38;
/// Counts the writes that come in order: four bytes that are each one more than the last, from 0 on. Reads how many
/// did. On MMIO alone; on PIO it has a port of its own ([`crate::addresses::PROBE_STREAM_PIO`]). Writes are coalesced, both
/// ways. Writing [`ACCESS_COUNT`] begins anew.
pub const STREAM: u16 = 0x800;
/// Reads how many writes to [`STREAM`] did not come in order; four bytes.
pub const STREAM_ASTRAY: u16 = 0x804;
/// The size in bytes of what of [`STREAM`] is coalesced.
pub const STREAM_SIZE: u32 = 4;
/// The level of the device's second interrupt ([`crate::addresses::PROBE_LEVEL_GSI`]), four bytes: it is raised again
/// after each end of interrupt while it is not zero. Reads how many of those the device has seen. On MMIO alone.
pub const LEVEL: u16 = 0x900;
/// Where the device's message is written; eight bytes, to be written only. On MMIO alone.
pub const MSI_ADDRESS: u16 = 0x908;
/// What the device's message is; four bytes, to be written only. The message is as both say from then on. On MMIO alone.
pub const MSI_DATA: u16 = 0x910;
/// Writing raises the device's message once; reading (four bytes) tells how often it was raised. On MMIO alone.
pub const MSI: u16 = 0x914;
/// Where the window ([`crate::addresses::PROBE_WINDOW`]) is to begin: a guest-physical address of eight bytes, also by halves. It
/// reads what was written. On MMIO alone, as are all registers of the window.
pub const WINDOW_BASE: u16 = 0xa00;
/// Writing one of the `WINDOW_*` commands does it: the next instruction sees the window at its new place. Reading tells how
/// the last one ended ([`WINDOW_OK`], [`WINDOW_REFUSED`]); four bytes.
pub const WINDOW_COMMAND: u16 = 0xa08;
/// Takes the oldest entry off the access log: `offset | width << 8 | write << 16`, or all ones when the log
/// is empty; four bytes. Accesses to this register are counted but not logged. The log keeps the last
/// [`LOG_MAX`] accesses; an offset past 0xff shows as 0xff.
pub const LOG: u16 = 0x3c;

/// DMA command: read guest memory and sum it.
pub const DMA_READ: u32 = 1;
/// DMA command: fill guest memory with bytes 0, 1, 2, … (wrapping).
pub const DMA_FILL: u32 = 2;
/// DMA status: done, or none asked yet.
pub const DMA_OK: u32 = 0;
/// DMA status: the range is not all RAM, too long, or the command is unknown; nothing was moved.
pub const DMA_FAULT: u32 = 1;
/// The most bytes that one DMA moves.
pub const DMA_MAX: u32 = 1 << 20;
/// How many entries the access log keeps.
pub const LOG_MAX: usize = 64;

/// Window command: be at [`WINDOW_BASE`].
pub const WINDOW_MOVE: u32 = 1;
/// Window command: be nowhere.
pub const WINDOW_HIDE: u32 = 2;
/// Window status: done, or none asked yet.
pub const WINDOW_OK: u32 = 0;
/// Window status: something else is there, or it is no address; the window is where it was.
pub const WINDOW_REFUSED: u32 = 1;

/// In the window: reads [`WINDOW_MAGIC_VALUE`], four bytes.
pub const WINDOW_MAGIC: u16 = 0x00;
/// What [`WINDOW_MAGIC`] reads: "MOVE".
pub const WINDOW_MAGIC_VALUE: u32 = u32::from_le_bytes(*b"MOVE");
/// In the window: writing the four bytes [`DOORBELL_RING`] rings the doorbell, with no exit. Nothing else does.
pub const DOORBELL: u16 = 0x10;
/// What rings the doorbell.
pub const DOORBELL_RING: u32 = 1;
/// In the window: reads how often the doorbell was rung, four bytes. [`STREAM`] and [`STREAM_ASTRAY`] are in the window as well,
/// and are coalesced there, too.
pub const DOORBELL_COUNT: u16 = 0x14;
