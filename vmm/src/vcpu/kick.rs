//! Calling a vCPU back out of the guest.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

/// A handle on a vCPU's thread that makes its `KVM_RUN` return.
///
/// `immediate_exit` is set before the signal is sent: a thread that has not entered the guest yet finds the
/// flag, one that has is thrown out by the signal. No moment is left in which the call is lost.
#[derive(Default)]
pub(super) struct Kick(Mutex<Option<Target>>);

struct Target {
    /// `kvm_run.immediate_exit` of the vCPU.
    immediate_exit: *const AtomicU8,
    thread: libc::pthread_t,
}

// SAFETY: the pointer is dereferenced only under the lock, while the thread that owns the mapping waits for
// that lock before it lets go of the mapping (`Registered`).
#[allow(unsafe_code)]
unsafe impl Send for Target {}

/// While this lives, the vCPU can be called back. It must be dropped before the vCPU is.
pub(super) struct Registered<'a>(&'a Kick);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Kick {
    /// Makes this thread, which runs `vcpu`, the target.
    pub(super) fn register(&self, vcpu: &mut VcpuFd) -> Registered<'_> {
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>().cast_const();
        // Whoever started this process or thread may have blocked the signal.
        let _was_not_blocked = unblock_signal(SIGRTMIN());
        // SAFETY: the call has no preconditions.
        #[allow(unsafe_code)]
        let thread = unsafe { libc::pthread_self() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Target { immediate_exit, thread });
        Registered(self)
    }

    /// Makes the vCPU leave the guest, or not enter it.
    pub(super) fn kick(&self) {
        let target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = target.as_ref() else { return };
        // SAFETY: while the target is registered its mapping lives and its thread has not ended; the byte is
        // written by nobody but atomically, and read by KVM.
        #[allow(unsafe_code)]
        unsafe {
            (*target.immediate_exit).store(1, Ordering::SeqCst);
            libc::pthread_kill(target.thread, SIGRTMIN());
        }
    }
}

/// Has this thread's own vCPU leave the guest before it enters: what KVM still has to complete, it completes.
pub(super) fn call_back(vcpu: &mut VcpuFd) {
    immediate_exit(vcpu).store(1, Ordering::SeqCst);
}

/// Takes back a call that has been heard, before what it was for is looked at: one that comes later counts again.
pub(super) fn heard(vcpu: &mut VcpuFd) {
    // A swap, and not a store: no later read may come before it.
    immediate_exit(vcpu).swap(0, Ordering::SeqCst);
}

fn immediate_exit(vcpu: &mut VcpuFd) -> &AtomicU8 {
    let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
    // SAFETY: the byte is in the vCPU's own mapping, which lives; here and in `kick` it is touched only atomically.
    #[allow(unsafe_code)]
    unsafe {
        AtomicU8::from_ptr(flag)
    }
}

/// Gives the signal a handler that does nothing: its arrival is what counts. Once a process.
pub(super) fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(SIGRTMIN(), nothing).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}
