//! Lets go of the code that only starting needed: options and their help, configurations, kernels' formats.
//!
//! The kernel maps 64 KiB and more around each page of a program that is touched, and unmaps none while there is memory:
//! once the guest runs, almost all of the program is resident, and a machine that runs needs half of it. One that is
//! soon over does not pay for it.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use event_manager::EventSet;
use kiln_vmm::event_loop::{EventLoop, EventOps, Events, MutEventSubscriber};
use rustix::mm::Advice;
use vmm_sys_util::timerfd::TimerFd;

/// How long a machine has run when its start is over: a kernel has booted by then.
const OVER: Duration = Duration::from_secs(1);

/// x86-64's pages, in bytes.
const PAGE: usize = 4096;
/// `/proc/PID/pagemap`, an entry for each page (Documentation/admin-guide/mm/pagemap.rst): it is in memory.
const PRESENT: u64 = 1 << 63;
/// It is in swap.
const SWAPPED: u64 = 1 << 62;
/// It is a file's, or shared.
const OF_FILE: u64 = 1 << 61;

/// Lets go of it on the machine's event loop, once the machine has run for a second.
///
/// # Errors
/// The host has no timer left, or the loop has ended.
pub(super) fn let_go_later(events: &EventLoop) -> io::Result<()> {
    let mut alarm = TimerFd::new()?;
    alarm.reset(OVER, None)?;
    events.add(Box::new(Start { alarm }))
}

/// A machine's start, until it is over.
struct Start {
    alarm: TimerFd,
}

impl MutEventSubscriber for Start {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _out_of_memory = ops.add(Events::new(&self.alarm, EventSet::IN));
    }

    fn process(&mut self, _: Events, ops: &mut EventOps<'_>) {
        let _was_added = ops.remove(Events::empty(&self.alarm));
        // Without /proc, all of it stays in memory: nothing else comes of it.
        let _it_stays = let_go();
    }
}

/// Unmaps the pages of the program and of its libraries. What is needed again comes back from the page cache as it is
/// touched.
///
/// # Errors
/// `/proc` can't be read; all pages stay.
fn let_go() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let pagemap = File::open("/proc/self/pagemap")?;
    for range in maps.lines().filter_map(read_only_file) {
        if !is_as_the_file(&pagemap, &range)? {
            continue;
        }
        let start = std::ptr::without_provenance_mut::<c_void>(range.start);
        // SAFETY: a private mapping of a file that nobody may write to and in which no page was written to before: each
        // page that is unmapped comes back with the bytes that it had, which are the file's.
        #[allow(unsafe_code)]
        let advised = unsafe { rustix::mm::madvise(start, range.len(), Advice::LinuxDontNeed) };
        // A mapping that somebody has locked is refused, and stays.
        let _it_stays = advised;
    }
    Ok(())
}

/// The range of the mapping that a line of `/proc/PID/maps` tells of (proc_pid_maps(5)), if it is a file's (others
/// have no inode), private and not writable.
fn read_only_file(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (range, access, inode) = (words.next()?, words.next()?, words.nth(2)?);
    if !matches!(access.as_bytes(), [_, b'-', _, b'p']) || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// Whether no page of the range is this process's own. Relocations and a debugger's breakpoints make such pages.
fn is_as_the_file(pagemap: &File, range: &Range<usize>) -> io::Result<bool> {
    const ENTRY: usize = size_of::<u64>();
    let mut entries = vec![0; range.len() / PAGE * ENTRY];
    pagemap.read_exact_at(&mut entries, (range.start / PAGE * ENTRY) as u64)?;
    let (entries, _) = entries.as_chunks::<ENTRY>();
    Ok(entries.iter().all(|entry| !is_own(u64::from_ne_bytes(*entry))))
}

/// Whether an entry of the page map is of a page that is no file's.
fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

    use super::*;

    /// Two pages of a file, mapped privately, then made read-only.
    struct Mapped(Range<usize>);

    #[allow(unsafe_code)]
    impl Mapped {
        /// `written` is what becomes of the first byte.
        fn new(written: Option<u8>) -> Self {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[b'f'; 2 * PAGE]).unwrap();
            let both = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, that only this test knows of; its first byte is within it.
            let start = unsafe {
                let start = mmap(std::ptr::null_mut(), 2 * PAGE, both, MapFlags::PRIVATE, &file, 0).unwrap();
                if let Some(written) = written {
                    start.cast::<u8>().write_volatile(written);
                }
                mprotect(start, 2 * PAGE, MprotectFlags::READ).unwrap();
                start.expose_provenance()
            };
            Self(start..start + 2 * PAGE)
        }

        fn byte(&self, at: usize) -> u8 {
            assert!(at < self.0.len());
            let start = std::ptr::with_exposed_provenance::<u8>(self.0.start);
            // SAFETY: within the mapping, which can be read.
            unsafe { start.add(at).read_volatile() }
        }

        fn is_resident(&self) -> bool {
            let mut entry = [0; 8];
            let pagemap = File::open("/proc/self/pagemap").unwrap();
            pagemap.read_exact_at(&mut entry, (self.0.start / PAGE * 8) as u64).unwrap();
            u64::from_ne_bytes(entry) & PRESENT != 0
        }
    }

    #[allow(unsafe_code)]
    impl Drop for Mapped {
        fn drop(&mut self) {
            let start = std::ptr::with_exposed_provenance_mut::<c_void>(self.0.start);
            // SAFETY: the mapping is this value's own.
            unsafe { munmap(start, self.0.len()) }.unwrap();
        }
    }

    #[test]
    fn let_go_of_a_file_leaves_its_bytes_and_not_its_pages() {
        let file = Mapped::new(None);
        assert_eq!(file.byte(0), b'f');
        assert!(file.is_resident());
        let_go().unwrap();
        assert!(!file.is_resident());
        assert_eq!((file.byte(0), file.byte(PAGE)), (b'f', b'f'));
    }

    #[test]
    fn let_go_of_a_file_with_a_page_of_ones_own_leaves_it() {
        let relocated = Mapped::new(Some(b'o'));
        let_go().unwrap();
        assert!(relocated.is_resident());
        assert_eq!((relocated.byte(0), relocated.byte(PAGE)), (b'o', b'f'));
    }

    #[test]
    fn read_only_file_takes_private_mappings_of_files_alone() {
        let code = "2000-5000 r-xp 00001000 fe:00 42      /usr/lib/a name (deleted)";
        assert_eq!(read_only_file(code), Some(0x2000..0x5000));
        for other in [
            "7000-8000 rw-p 00006000 fe:00 42      /usr/bin/kiln-vmm",
            "8000-9000 r--s 00000000 fe:00 43      /memory",
            "9000-a000 r-xp 00000000 00:00 0       [vdso]",
            "a000-b000 ---p 00000000 00:00 0",
            "b000-x r-xp 00000000 fe:00 44",
            "",
        ] {
            assert_eq!(read_only_file(other), None, "{other}");
        }
    }

    #[test]
    fn is_own_tells_pages_that_were_written_to_in_memory_and_in_swap() {
        let entries = [0, PRESENT | OF_FILE, PRESENT, SWAPPED];
        assert_eq!(entries.map(is_own), [false, false, true, true]);
    }
}
