//! Processors: how many there are, what they say of themselves, and that they can be taken away and brought back.

use std::arch::x86_64::__cpuid;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;

use kiln::guest::Sysfs;
use kiln::guest_test;

/// CPUID leaf 1, ECX bit 31: a hypervisor is there (Intel SDM leaves it to software; Linux, Documentation/virt/kvm/x86/cpuid.rst).
const HYPERVISOR: u32 = 1 << 31;
/// The first of the hypervisor's leaves.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

fn cpu(name: &str) -> io::Result<String> {
    Sysfs::at("devices/system/cpu").read(name)
}

/// What `/proc/cpuinfo` has under `key`, a processor each.
fn cpuinfo(key: &str) -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let values = text.lines().filter_map(|line| line.split_once(':'));
    Ok(values.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned()).collect())
}

#[guest_test]
fn one_processor_is_online() -> io::Result<()> {
    assert_eq!(cpu("online")?, "0");
    Ok(())
}

#[guest_test(cpus = 2)]
fn both_processors_come_online() -> io::Result<()> {
    assert_eq!(cpu("online")?, "0-1");
    Ok(())
}

#[guest_test(cpus = 4, timeout = 300)]
fn four_processors_come_online_and_run() -> io::Result<()> {
    assert_eq!(cpu("online")?, "0-3");
    assert_eq!(thread::available_parallelism()?.get(), 4);
    Ok(())
}

#[guest_test(cpus = 3)]
fn no_more_processors_are_possible_than_there_are() -> io::Result<()> {
    assert_eq!((cpu("possible")?, cpu("present")?), ("0-2".to_owned(), "0-2".to_owned()));
    Ok(())
}

#[guest_test(cpus = 4)]
fn each_processor_has_an_apic_of_its_own() -> io::Result<()> {
    let ids: BTreeSet<String> = cpuinfo("apicid")?.into_iter().collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    Ok(())
}

#[guest_test]
fn hypervisor_says_that_it_is_kvm() {
    assert!(__cpuid(1).ecx & HYPERVISOR != 0);
    let leaf = __cpuid(HYPERVISOR_LEAF);
    let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
    assert_eq!(signature, b"KVMKVMKVM\0\0\0");
}

#[guest_test(cpus = 2)]
fn processors_are_of_one_make() -> io::Result<()> {
    for key in ["vendor_id", "model name", "flags"] {
        let of_each = cpuinfo(key)?;
        assert_eq!(of_each.len(), 2);
        assert_eq!(of_each.first(), of_each.last(), "{key}");
    }
    Ok(())
}

#[guest_test(cpus = 2)]
fn processor_goes_away_and_comes_back() -> io::Result<()> {
    let second = Sysfs::at("devices/system/cpu/cpu1");
    for _ in 0..3 {
        second.write("online", "0")?;
        assert_eq!(cpu("online")?, "0");
        second.write("online", "1")?;
        assert_eq!(cpu("online")?, "0-1");
    }
    Ok(())
}

#[guest_test(cpus = 2)]
fn floating_point_is_kept_across_switches() -> io::Result<()> {
    // More threads than processors, so that the kernel has to save and restore what they reckon with.
    let sum = |seed: u32| -> f64 { (1..200_000_u32).map(|n| (f64::from(n) + f64::from(seed)).sqrt()).sum() };
    let threads: Vec<_> = (0..6).map(|_| thread::spawn(move || sum(7))).collect();
    let wanted = sum(7);
    for thread in threads {
        let came = thread.join().map_err(|_| io::Error::other("a thread panicked"))?;
        assert_eq!(came.to_bits(), wanted.to_bits());
    }
    Ok(())
}
