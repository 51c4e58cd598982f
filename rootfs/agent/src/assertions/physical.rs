//! A page of guest-physical addresses, through `/dev/mem`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The size of what is mapped.
const SIZE: usize = 4096;

/// A device's page; what is read and written there reaches the device.
pub(super) struct Page(NonNull<u8>);

/// What a device can be accessed with: plain numbers, each value of which is valid.
pub(super) trait Number: Copy {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}

impl Page {
    /// Maps the page at `address`.
    pub(super) fn map(address: u64) -> Result<Self, String> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_SYNC)
            .open("/dev/mem")
            .map_err(|error| format!("/dev/mem can't be opened (CONFIG_DEVMEM): {error}"))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where; nothing else lies in the new mapping.
        #[allow(unsafe_code)]
        let mapped =
            unsafe { mmap(std::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, &file, address) };
        let pointer = mapped.map_err(|error| {
            format!("{address:#x} can't be mapped (iomem=relaxed, CONFIG_STRICT_DEVMEM): {error}")
        })?;
        NonNull::new(pointer.cast()).map(Self).ok_or_else(|| "the mapping is at address 0".to_owned())
    }

    /// Where a number of type `T` is in the page, if it is one of it.
    fn at<T: Number>(&self, offset: u16) -> Result<*mut T, String> {
        let offset = usize::from(offset);
        if offset + size_of::<T>() > SIZE || !offset.is_multiple_of(align_of::<T>()) {
            return Err(format!("{offset:#x} is no register's place"));
        }
        Ok(self.0.as_ptr().wrapping_add(offset).cast())
    }

    /// Reads a register.
    pub(super) fn read<T: Number>(&self, offset: u16) -> Result<T, String> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: it is aligned and within the mapping, and any bytes make a number.
        #[allow(unsafe_code)]
        Ok(unsafe { pointer.read_volatile() })
    }

    /// Writes a register.
    pub(super) fn write<T: Number>(&self, offset: u16, value: T) -> Result<(), String> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: it is aligned and within the mapping, which no Rust object lives in.
        #[allow(unsafe_code)]
        unsafe {
            pointer.write_volatile(value);
        }
        Ok(())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that was made, and no reference into it is ever given out.
        #[allow(unsafe_code)]
        unsafe {
            let _ = munmap(self.0.as_ptr().cast(), SIZE);
        }
    }
}
