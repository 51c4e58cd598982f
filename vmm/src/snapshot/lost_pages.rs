//! A process that dies of a page that its snapshot's file does not have any more says so first.
//!
//! The folder of a snapshot is its owner's alone and its files are never written again, but their owner can still cut one off, and
//! a disk can fail. Who then comes upon such a page gets `SIGBUS`, and there is nothing that the thread could go on with.

use std::sync::Once;

use libc::{c_int, c_void, siginfo_t};

/// What is said on standard error.
const WORDS: &[u8] =
    b"kiln: SIGBUS: a page of a mapped file can't be read. If the memory of a snapshot was cut off while \
machines restored from it run, or its disk fails, that is why: make it anew\n";

/// From the first call on, `SIGBUS` is told before it ends the process.
pub(super) fn tell() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without it the process dies the same death, and the shell or the test runner names the signal.
        let _silent = vmm_sys_util::signal::register_signal_handler(libc::SIGBUS, told);
    });
}

extern "C" fn told(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: both calls may be made in a signal handler, and the bytes are static. When this returns, the access is made
    // again, and has the signal's default effect.
    #[allow(unsafe_code)]
    unsafe {
        let _nobody_reads = libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len());
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}
