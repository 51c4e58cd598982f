//! RAM on each kind of page, and what is said where there is none.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::memory::{GuestMemory, allocate_on};

fn on(size: u64, backing: &str) -> Result<GuestMemory, MemoryError> {
    allocate_on(size, backing.parse().unwrap())
}

/// What `/proc/self/smaps` tells of the mapping at `memory`'s beginning, in KiB.
fn smaps(memory: &GuestMemory) -> BTreeMap<String, String> {
    let start = MmapRegion::as_ptr(memory.iter().next().unwrap()).addr();
    let mut fields = BTreeMap::new();
    let mut inside = false;
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some((from, to)) = range {
            let [from, to] = [from, to].map(|text| usize::from_str_radix(text, 16).unwrap());
            inside = (from..to).contains(&(start + HUGE_PAGE));
        } else if let (true, Some((key, value))) = (inside, line.split_once(':')) {
            fields.insert(key.to_owned(), value.trim().trim_end_matches(" kB").to_owned());
        }
    }
    fields
}

/// How many KiB of the first region are there. smaps tells it of neighbours with the same rights as well.
fn resident(memory: &GuestMemory) -> usize {
    let region = memory.iter().next().unwrap();
    let mut pages = vec![0u8; region.size() / 4096];
    // SAFETY: the range is a mapping, and there is a byte for each of its pages.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::mincore(region.as_ptr().cast(), region.size(), pages.as_mut_ptr()) };
    assert_eq!(failed, 0);
    4 * pages.iter().filter(|page| **page & 1 == 1).count()
}

#[test]
fn ram_is_there_when_touched_or_before_when_asked_for() {
    for kind in ["huge-pages=off", "huge-pages=off,shared"] {
        let lazy = on(16 << 20, kind).unwrap();
        assert_eq!(resident(&lazy), 0, "{kind}");
        let there = on(16 << 20, &format!("{kind},prefault")).unwrap();
        assert_eq!(resident(&there), 16 << 10, "{kind}");
    }
}

#[test]
fn touching_puts_every_page_there() {
    let memory = on(8 << 20, "huge-pages=off").unwrap();
    touch(memory.iter().next().unwrap()).unwrap();
    assert_eq!(resident(&memory), 8 << 10);
}

#[test]
fn no_huge_pages_are_asked_for_where_they_are_off() {
    let flags = |backing: &str| smaps(&on(16 << 20, backing).unwrap())["VmFlags"].clone();
    assert!(flags("huge-pages=off").split(' ').any(|flag| flag == "nh"));
    // A kernel without transparent huge pages has neither flag.
    assert!(!flags("huge-pages=transparent").split(' ').any(|flag| flag == "nh"));
}

#[test]
fn shared_ram_is_seen_by_who_maps_its_file() {
    let memory = on(4 << 20, "shared").unwrap();
    let region = memory.iter().next().unwrap();
    let file = region.file_offset().unwrap();
    let other = MmapRegion::<()>::from_file(FileOffset::from_arc(file.arc().clone(), 0), 4 << 20).unwrap();
    memory.write_obj(0x1234u32, GuestAddress(0x20_0000)).unwrap();
    use vm_memory::VolatileMemory;
    assert_eq!(other.as_volatile_slice().read_obj::<u32>(0x20_0000).unwrap(), 0x1234);
    assert!(rustix::fs::ftruncate(file.file(), 0).is_err(), "nobody may cut it off");
}

#[test]
fn private_ram_has_no_file() {
    assert!(on(4 << 20, "prefault").unwrap().iter().next().unwrap().file_offset().is_none());
}

/// On a host that has such pages set aside they are used; on any other the words say how to get there.
#[test]
fn explicit_huge_pages_are_used_or_refused_in_words() {
    for kind in ["huge-pages=explicit", "huge-pages=explicit,shared"] {
        match on(4 << 20, kind) {
            Ok(memory) => {
                memory.write_obj(7u8, GuestAddress(0x20_0000)).unwrap();
                assert_eq!(smaps(&memory)["KernelPageSize"], "2048");
            }
            Err(error @ MemoryError::HugePages { needed, free, .. }) => {
                assert_eq!(needed, 2);
                assert!(free < needed || error.to_string().contains("free"), "{error}");
                assert!(error.to_string().contains("`sysctl vm.nr_hugepages="), "{error}");
            }
            Err(error) => assert!(matches!(error, MemoryError::NoHugePages), "{error}"),
        }
    }
    // More than any host sets aside.
    let error = on(1 << 41, "huge-pages=explicit").unwrap_err();
    assert!(matches!(error, MemoryError::HugePages { .. } | MemoryError::NoHugePages), "{error}");
}

#[test]
fn host_without_enough_huge_pages_is_told_how_many_to_reserve() {
    let pool = tempfile::tempdir().unwrap();
    for (name, value) in [("free_hugepages", 5), ("resv_hugepages", 2), ("nr_hugepages", 10)] {
        std::fs::write(pool.path().join(name), format!("{value}\n")).unwrap();
    }
    assert_eq!(
        no_huge_pages(64 << 20, pool.path()).to_string(),
        "64 MiB of guest memory need 32 huge pages of 2 MiB, and this host has 3 free: \
         reserve them with `sysctl vm.nr_hugepages=39`"
    );
    assert!(matches!(no_huge_pages(64 << 20, Path::new("/nowhere")), MemoryError::NoHugePages));
}
