//! Registers: by port and by memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use kiln_protocol::pio;

/// A range of ports that this process may use (`ioperm(2)`).
#[derive(Debug)]
pub struct Ports {
    first: u16,
    count: u16,
}

macro_rules! ports {
    ($($read:ident $write:ident $type:ty: $from:ident $to:ident;)*) => {$(
        #[doc = concat!("Reads a `", stringify!($type), "` from the port at `offset`.\n\n# Panics\nThe access leaves the range.")]
        #[must_use]
        pub fn $read(&self, offset: u16) -> $type {
            let port = self.port(offset, size_of::<$type>());
            // SAFETY: the process has the right to the port. Of the test devices only the probe writes memory,
            // where the case told it to.
            #[allow(unsafe_code)]
            unsafe { pio::$from(port) }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` to the port at `offset`.\n\n# Panics\nThe access leaves the range.")]
        pub fn $write(&self, offset: u16, value: $type) {
            let port = self.port(offset, size_of::<$type>());
            // SAFETY: as for reads.
            #[allow(unsafe_code)]
            unsafe { pio::$to(port, value) }
        }
    )*};
}

impl Ports {
    /// Takes the right to the `count` ports from `first`, for as long as this lives.
    ///
    /// # Errors
    /// The process is not privileged, or the kernel has no `X86_IOPL_IOPERM`.
    pub fn take(first: u16, count: u16) -> io::Result<Self> {
        permit(first, count, true)?;
        Ok(Self { first, count })
    }

    ports! {
        read8 write8 u8: inb outb;
        read16 write16 u16: inw outw;
        read32 write32 u32: inl outl;
    }

    fn port(&self, offset: u16, width: usize) -> u16 {
        let end = usize::from(offset) + width;
        assert!(end <= usize::from(self.count), "offset {offset:#x} leaves the {} ports", self.count);
        self.first + offset
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let _gone_with_the_process = permit(self.first, self.count, false);
    }
}

fn permit(first: u16, count: u16, on: bool) -> io::Result<()> {
    // SAFETY: the call changes what ports this thread may use, no memory.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::ioperm(first.into(), count.into(), on.into()) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A range of guest-physical addresses, mapped through `/dev/mem`.
#[derive(Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    size: usize,
}

macro_rules! mmio {
    ($($read:ident $write:ident $type:ty;)*) => {$(
        #[doc = concat!("Reads a `", stringify!($type), "` at `offset`, in one access.\n\n# Panics\nThe access leaves the range or is not aligned.")]
        #[must_use]
        pub fn $read(&self, offset: usize) -> $type {
            let at = self.at(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: `at` lies in the mapping, which lives as long as `self`, and is aligned.
            #[allow(unsafe_code)]
            unsafe { at.read_volatile() }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at `offset`, in one access.\n\n# Panics\nThe access leaves the range or is not aligned.")]
        pub fn $write(&self, offset: usize, value: $type) {
            let at = self.at(offset, size_of::<$type>()).cast::<$type>();
            // SAFETY: as for reads.
            #[allow(unsafe_code)]
            unsafe { at.write_volatile(value) }
        }
    )*};
}

impl Mmio {
    /// Maps `size` bytes of physical address space from `address`, both multiples of a page.
    ///
    /// # Errors
    /// The kernel has no `/dev/mem`, or a driver claims the range (`iomem=relaxed` lets go of it).
    pub fn map(address: u64, size: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/mem")?;
        let offset = libc::off_t::try_from(address).map_err(io::Error::other)?;
        // SAFETY: a new mapping is asked for, which touches no memory of this process.
        #[allow(unsafe_code)]
        let base = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, size })
    }

    mmio! {
        read8 write8 u8;
        read16 write16 u16;
        read32 write32 u32;
        read64 write64 u64;
    }

    fn at(&self, offset: usize, width: usize) -> NonNull<u8> {
        assert!(offset.is_multiple_of(width), "offset {offset:#x} is not aligned to {width} bytes");
        let end = offset.checked_add(width);
        assert!(end.is_some_and(|end| end <= self.size), "offset {offset:#x} leaves the {} bytes", self.size);
        // SAFETY: the offset lies in the mapping.
        #[allow(unsafe_code)]
        unsafe {
            self.base.add(offset)
        }
    }
}

impl Drop for Mmio {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing points into it any more.
        #[allow(unsafe_code)]
        let _cannot_fail = unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}
