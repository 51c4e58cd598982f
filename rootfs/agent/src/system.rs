//! What only libc has.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The running kernel's release.
pub(crate) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A set of signals.
pub(crate) fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: a signal set is plain memory, and is filled by the calls.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// A descriptor that is readable when one of `signals` came, which are no longer delivered otherwise.
pub(crate) fn signal_events(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set is initialised; the descriptor is new and nobody else's.
    unsafe {
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes what came to a descriptor of [`signal_events`], and says whether `wanted` holds for any of it.
pub(crate) fn take_signals(events: &OwnedFd, wanted: impl Fn(i32) -> bool) -> bool {
    /// The length of a `signalfd_siginfo`, which begins with the signal's number (signalfd(2)).
    const RECORD: usize = size_of::<libc::signalfd_siginfo>();
    let mut buffer = [0_u8; 8 * RECORD];
    let mut any = false;
    while let Ok(length) = rustix::io::read(events, &mut buffer)
        && length > 0
    {
        let numbers = buffer[..length].chunks_exact(RECORD).filter_map(|record| record.first_chunk());
        any |= numbers.map(|number| i32::from_ne_bytes(*number)).any(&wanted);
    }
    any
}

/// Has no program inherit what is open from `first` on.
pub(crate) fn close_in_programs(first: i32) {
    // SAFETY: no memory is touched, and nothing is closed here. An old kernel does not know how, and no harm is done.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// The leader of the session that the process `pid` is in; 0 is one that is not to be seen from here, as that of the
/// kernel's own threads, which rustix takes for impossible.
pub(crate) fn session(pid: i32) -> i32 {
    // SAFETY: no memory is touched.
    unsafe { libc::getsid(pid) }
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the socket is new and closed by its owner; the request is initialised plain memory with a
    // name that ends in NUL, and its flags are what the first call fills in.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            let error = io::Error::last_os_error();
            // A kernel without IPv4, or without any network, has no address to give to it.
            let absent = [libc::EAFNOSUPPORT, libc::ENOSYS].map(Some).contains(&error.raw_os_error());
            return if absent { Ok(()) } else { Err(error) };
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= 1; // IFF_UP
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (linux/random.h; random(4)).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Tells the kernel's generator, by a descriptor of it, of at most 512 `bytes`, each bit of which is random.
pub(crate) fn add_entropy(random: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    /// `rand_pool_info`, with room for the bytes.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 512],
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut pool = Pool { bits: 0, size: 0, bytes: [0; 512] };
    pool.bytes.get_mut(..bytes.len()).ok_or_else(invalid)?.copy_from_slice(bytes);
    pool.size = libc::c_int::try_from(bytes.len()).map_err(|_| invalid())?;
    pool.bits = pool.size * 8;
    // SAFETY: the pool is initialised, and has the bytes that it says it has.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel's generator take on at once what it was told, by a descriptor of it.
pub(crate) fn reseed(random: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no memory is touched.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the clock by so many seconds, and then microseconds, which are less than a second (`ADJ_SETOFFSET`,
/// clock_adjtime(2)). `ADJ_NANO` would do it finer, and leave the clock in another mode for all who look at it.
pub(crate) fn move_clock(seconds: i64, microseconds: i64) -> io::Result<()> {
    // SAFETY: all zeros are a request that asks for nothing; the kernel reads and fills it.
    unsafe {
        let mut request: libc::timex = mem::zeroed();
        request.modes = libc::ADJ_SETOFFSET;
        request.time.tv_sec = seconds;
        request.time.tv_usec = microseconds;
        if libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Takes the right to `count` ports from `first`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn take_ports(first: u16, count: u16) -> io::Result<()> {
    // SAFETY: no memory is touched.
    if unsafe { libc::ioperm(first.into(), count.into(), 1) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
