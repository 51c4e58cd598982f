//! bzImages: Linux's own container of a compressed kernel (Documentation/arch/x86/boot.rst).

use std::io;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::decompress::{self, DecompressError};
use super::{BootError, Loaded, Protocol};
use crate::layout::HIGH_MEMORY;
use crate::memory::{GuestMemory, end_of_low};

/// The setup header, as the image has it.
pub(super) type Header = setup_header;

/// Where the header is in the image.
const HEADER_OFFSET: usize = 0x1f1;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const SECTOR: usize = 512;
/// How many sectors of setup an image has that says zero.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `loadflags`: the protected-mode code is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry 0x200 bytes into the protected-mode code.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// The first protocol with `payload_offset` and `payload_length`.
const PROTOCOL_PAYLOAD: u16 = 0x208;
/// The first protocol with `init_size`.
const PROTOCOL_INIT_SIZE: u16 = 0x20a;
/// The first protocol with `xloadflags`.
const PROTOCOL_XLOADFLAGS: u16 = 0x20c;
/// The oldest protocol that is supported: from here on a command line may be as long as ours.
const PROTOCOL_MIN: u16 = 0x206;

/// A bzImage, whole in memory.
pub(super) struct BzImage {
    bytes: Vec<u8>,
    header: Header,
    /// Where the protected-mode code begins.
    code: usize,
}

impl BzImage {
    /// Takes `bytes` for a bzImage if that is what they are.
    pub(super) fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self, BootError> {
        let no_kernel = || BootError::NoKernel(path.to_owned());
        let damaged = |what: String| BootError::Damaged { path: path.to_owned(), what };
        let mut header = Header::default();
        let end = HEADER_OFFSET + size_of::<Header>();
        let raw = bytes.get(HEADER_OFFSET..end).ok_or_else(no_kernel)?;
        header.as_mut_slice().copy_from_slice(raw);
        let (flag, magic, version) = (header.boot_flag, header.header, header.version);
        if flag != BOOT_FLAG || magic != MAGIC {
            return Err(no_kernel());
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(damaged("it is a zImage, which is loaded below 1 MiB".to_owned()));
        }
        if version < PROTOCOL_MIN {
            let (major, minor) = (version >> 8, version & 0xff);
            return Err(damaged(format!("its boot protocol {major}.{minor:02} is older than 2.06")));
        }
        let sectors = if header.setup_sects == 0 { DEFAULT_SETUP_SECTORS } else { header.setup_sects };
        let code = (usize::from(sectors) + 1) * SECTOR;
        // `syssize` counts the protected-mode code in units of 16 bytes, without what a signer appended.
        let (paragraphs, rest) = (header.syssize, bytes.len().saturating_sub(code));
        let wanted = usize::try_from(paragraphs).unwrap_or(usize::MAX).saturating_mul(16);
        if rest == 0 || rest < wanted.saturating_sub(15) {
            return Err(damaged(format!("it has {rest} of {wanted} bytes of code")));
        }
        Ok(Self { bytes, header, code })
    }

    /// The ELF that the image carries, decompressed; none where the protocol does not tell where it is.
    pub(super) fn vmlinux(&self) -> Option<Result<Vec<u8>, DecompressError>> {
        if self.header.version < PROTOCOL_PAYLOAD {
            return None;
        }
        let (offset, length) = (self.header.payload_offset, self.header.payload_length);
        let payload = || {
            let start = self.code.checked_add(usize::try_from(offset).ok()?)?;
            self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
        };
        let outside = || DecompressError::Damaged(io::ErrorKind::UnexpectedEof.into());
        Some(payload().ok_or_else(outside).and_then(decompress::vmlinux))
    }

    /// Loads the image itself, to be entered as it says.
    pub(super) fn load(&self, memory: &GuestMemory, path: &Path) -> Result<Loaded, BootError> {
        let code = self.bytes.get(self.code..).unwrap_or_default();
        let length = u64::try_from(code.len()).unwrap_or(u64::MAX);
        let (version, init_size, pref) =
            (self.header.version, self.header.init_size, self.header.pref_address);
        // The kernel unpacks itself: upwards of where it is, and upwards of where it prefers to be.
        let init =
            if version >= PROTOCOL_INIT_SIZE { u64::from(init_size) } else { length.saturating_mul(4) };
        let end = HIGH_MEMORY.max(pref).saturating_add(length.max(init));
        let ram = end_of_low(memory);
        if end > ram {
            let needs = end.div_ceil(1 << 20);
            return Err(BootError::KernelTooLarge { path: path.to_owned(), needs, has: ram >> 20 });
        }
        memory
            .write_slice(code, GuestAddress(HIGH_MEMORY))
            .map_err(|_| BootError::Tables("kernel's code"))?;
        let header = self.header;
        let xloadflags = if version >= PROTOCOL_XLOADFLAGS { header.xloadflags } else { 0 };
        let by = if xloadflags & XLF_KERNEL_64 != 0 {
            Protocol::Linux64 { entry: HIGH_MEMORY + ENTRY_64, header: Some(header) }
        } else {
            Protocol::Linux32 { entry: HIGH_MEMORY, header }
        };
        Ok(Loaded { by, end, initrd_max: header.initrd_addr_max.into() })
    }
}
