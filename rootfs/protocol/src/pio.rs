//! Port I/O, one instruction each: what guest code touches the test devices with.
//!
//! A process needs the right to the port first (`ioperm` or `iopl` on Linux), or the instruction faults.

#![cfg(any(target_arch = "x86", target_arch = "x86_64"))]

use core::arch::asm;

/// Reads a byte from `port`.
///
/// # Safety
/// The caller has the right to the port, and what the read makes the device do (a device may write memory)
/// breaks nothing that Rust relies on.
#[allow(unsafe_code)]
#[must_use]
pub unsafe fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the instruction touches `al` alone; the caller answers for the device's side.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Reads two bytes from `port`.
///
/// # Safety
/// As for [`inb`], for both ports.
#[allow(unsafe_code)]
#[must_use]
pub unsafe fn inw(port: u16) -> u16 {
    let value;
    // SAFETY: the instruction touches `ax` alone; the caller answers for the device's side.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// Reads four bytes from `port`.
///
/// # Safety
/// As for [`inb`], for all four ports.
#[allow(unsafe_code)]
#[must_use]
pub unsafe fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: the instruction touches `eax` alone; the caller answers for the device's side.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte to `port`.
///
/// # Safety
/// The caller has the right to the port, and what the write makes the device do (reset the machine, write
/// memory) breaks nothing that Rust relies on.
#[allow(unsafe_code)]
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the instruction changes no register; the caller answers for the device's side.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes two bytes to `port`.
///
/// # Safety
/// As for [`outb`], for both ports.
#[allow(unsafe_code)]
pub unsafe fn outw(port: u16, value: u16) {
    // SAFETY: the instruction changes no register; the caller answers for the device's side.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// Writes four bytes to `port`.
///
/// # Safety
/// As for [`outb`], for all four ports.
#[allow(unsafe_code)]
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the instruction changes no register; the caller answers for the device's side.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}
