//! The yardstick: a loop that enters the guest, looks why it came out, and enters it again.

use std::io;
use std::os::fd::AsRawFd;

use kiln::protocol::addresses::POST;
use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_MMIO};
use kvm_ioctls::VcpuFd;

/// `KVM_RUN` (Linux, Documentation/virt/kvm/api.rst).
const KVM_RUN: libc::c_ulong = 0xae80;

/// The shortest of rounds, in ticks, and how many there were.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) shortest: u64,
    pub(super) count: u64,
}

/// Tells of the rounds that a payload has made since the last time, and begins anew with the round that comes.
///
/// # Errors
/// KVM's own.
pub(super) fn take(vcpu: &VcpuFd) -> io::Result<Rounds> {
    let errno = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    let mut registers = vcpu.get_regs().map_err(errno)?;
    let rounds = Rounds { shortest: registers.r11, count: registers.r8 };
    (registers.r11, registers.r8) = (u64::MAX, 0);
    vcpu.set_regs(&registers).map_err(errno)?;
    Ok(rounds)
}

/// Runs `vcpu` to the ends of `rounds` rounds, answering nothing.
///
/// # Errors
/// Something else came out of the guest.
pub(super) fn run(vcpu: &mut VcpuFd, rounds: u64) -> io::Result<()> {
    let fd = vcpu.as_raw_fd();
    let mut left = rounds;
    while left > 0 {
        // SAFETY: the descriptor is open while `vcpu` lives, and the request takes no pointer.
        #[allow(unsafe_code)]
        if unsafe { libc::ioctl(fd, KVM_RUN, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            // The signal of the call that brought us here may come after it was heard.
            vcpu.set_kvm_immediate_exit(0);
            continue;
        }
        let run = vcpu.get_kvm_run();
        match run.exit_reason {
            KVM_EXIT_MMIO => {}
            KVM_EXIT_IO => {
                // SAFETY: for this exit it is the union's valid member.
                #[allow(unsafe_code)]
                let port = unsafe { run.__bindgen_anon_1.io.port };
                left -= u64::from(port == POST);
            }
            other => return Err(io::Error::other(format!("exit {other}"))),
        }
    }
    Ok(())
}
