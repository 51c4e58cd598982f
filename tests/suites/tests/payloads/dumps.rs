//! Where a vCPU stood: what a machine that ended badly, or was asked, tells of it.

use std::collections::BTreeSet;

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures;
use kiln::gate::Needs;
use kiln::vmm::dump::{VcpuDump, WalkEnd};
use kiln::vmm::machine::Ended;
use kiln::vmm::trace::ExitKind;

use super::control::{Result, flat, machine, with};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static DUMPS: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::dumps::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("dump_shows_the_instruction_and_the_way_to_it", instruction),
        case("triple_fault_shows_its_instruction_or_that_it_is_lost", triple_fault),
        case("fetch_from_nothing_shows_that_no_code_is_there", fetch_from_nothing),
        case("page_that_is_not_there_shows_in_the_walk", page_not_there),
        case("tables_that_are_nowhere_show_in_the_walk", tables_nowhere),
        case("machine_that_ends_well_is_not_dumped", ends_well),
        case("running_machine_is_dumped_on_demand", on_demand),
        case("kernel_with_symbols_names_the_instruction", symbols),
        case("exits_are_counted_by_their_names", exits),
    ]
};

fn ended(name: &str) -> Result<Ended> {
    with(machine(name)?, |_| Ok(()))
}

fn dump(name: &str) -> Result<VcpuDump> {
    Ok(ended(name)?.dumps.pop().ok_or("no dump")?)
}

/// Whether a triple fault left nothing of the vCPU's state, and the dump says so: KVM resets it on AMD's processors.
fn lost(dump: &VcpuDump) -> bool {
    let reset = (dump.special.cs.base, dump.registers.rip) == (0xffff_0000, 0xfff0);
    assert_eq!(dump.why.contains("where it stood is lost"), reset, "{dump}");
    reset
}

fn triple_fault() -> Result<()> {
    let dump = dump("triple-fault")?;
    assert!(dump.why.starts_with("KVM_EXIT_SHUTDOWN"), "{dump}");
    if lost(&dump) {
        return Ok(());
    }
    assert!(dump.to_string().contains("<0f> 0b"), "{dump}");
    Ok(())
}

fn instruction() -> Result<()> {
    let dump = dump("exit-status")?;
    let code = fixtures::by_name("exit-status").ok_or("no payload")?.code;
    let at = usize::try_from(dump.registers.rip - 0x10_0000)?;
    assert!(code.get(at..).is_some_and(|rest| dump.code.from.starts_with(rest)), "{dump}");
    assert!(code.get(..at).is_some_and(|rest| dump.code.before.ends_with(rest)), "{dump}");
    let tables: Vec<&str> = dump.walk.entries.iter().map(|entry| entry.table.as_str()).collect();
    assert_eq!((tables, dump.walk.physical()), (vec!["PML4", "PDPT", "PD"], Some(dump.registers.rip)));
    let text = dump.to_string();
    for part in
        ["RIP 0010:0000000000100", "CR3 0000000000009000", "page walk of 1000", "RAX 0000000000000015"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    Ok(())
}

fn fetch_from_nothing() -> Result<()> {
    let dump = dump("fetch-nothing")?;
    assert_eq!(dump.registers.rip, fixtures::NOTHING_MMIO);
    assert!(dump.code.from.is_empty() && dump.to_string().contains("code: there is none in RAM"), "{dump}");
    assert!(dump.why.starts_with("KVM_EXIT_INTERNAL_ERROR, suberror 1"), "{}", dump.why);
    Ok(())
}

fn page_not_there() -> Result<()> {
    let code = vec![0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xe0]; // mov $1 << 40, %rax; jmp *%rax
    let ended = with(flat(code)?, |_| Ok(()))?;
    let dump = ended.dumps.first().ok_or("no dump")?;
    if lost(dump) {
        return Ok(());
    }
    assert_eq!((dump.registers.rip, dump.special.cr2), (1 << 40, 1 << 40), "{dump}");
    assert_eq!((&dump.walk.end, dump.walk.entries.len()), (&WalkEnd::NotPresent, 1), "{dump}");
    Ok(())
}

fn tables_nowhere() -> Result<()> {
    let dump = dump("tables-nowhere")?;
    if lost(&dump) {
        return Ok(());
    }
    assert_eq!(dump.special.cr3, fixtures::NOTHING_MMIO, "{dump}");
    assert!(matches!(dump.walk.end, WalkEnd::NotRam { .. }) && dump.code.from.is_empty(), "{dump}");
    assert!(dump.to_string().contains("is not in RAM"), "{dump}");
    Ok(())
}

fn ends_well() -> Result<()> {
    assert!(ended("pass")?.dumps.is_empty());
    assert_eq!(ended("exit-status")?.dumps.len(), 1);
    Ok(())
}

fn on_demand() -> Result<()> {
    with(machine("loop")?, |machine| {
        let dumps = machine.dump()?;
        assert_eq!((dumps.len(), &*dumps[0].why), (1, "it was looked at while it ran"));
        machine.pause()?;
        let (first, again) = (machine.dump()?, machine.dump()?);
        assert_eq!(first, again);
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn symbols() -> Result<()> {
    let payload = fixtures::by_name("exit-status").ok_or("no payload")?;
    let super::Staged(config, kernel) = super::elf(payload)?;
    let kernel = kernel.ok_or("no kernel")?;
    std::fs::write(
        kernel.path(),
        with_symbol(payload.elf(), "payload", payload.address, payload.code.len()),
    )?;
    let ended = with(super::control::build(&config)?, |_| Ok(()))?;
    let dump = ended.dumps.first().ok_or("no dump")?;
    let offset = dump.registers.rip - payload.address;
    assert_eq!(dump.symbol, Some(format!("payload+{offset:#x}")), "{dump}");
    assert!(dump.to_string().contains(&format!("payload+{offset:#x}")), "{dump}");
    Ok(())
}

/// Adds sections to an ELF64 file that has none: code at `address`, and one symbol of a function that is all of it.
fn with_symbol(mut file: Vec<u8>, name: &str, address: u64, size: usize) -> Vec<u8> {
    const HEADER: usize = 64;
    const SYMBOL: usize = 24;
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let strings = [b"\0".as_slice(), name.as_bytes(), b"\0"].concat();
    let at = file.len().next_multiple_of(8);
    file.resize(at, 0);
    // No symbol; then name 1, a global function, in section 1.
    file.extend([0; SYMBOL]);
    file.extend(words(&[1 | 0x12 << 32 | 1 << 48, address, number(size)]));
    file.extend(&strings);
    let sections = file.len().next_multiple_of(8);
    file.resize(sections + HEADER, 0);
    // Type and name, flags, address, offset, size, link and information, alignment, size of an entry.
    file.extend(words(&[1 << 32, 6, address, 0x1000, number(size), 0, 1, 0]));
    file.extend(words(&[2 << 32, 0, 0, number(at), number(2 * SYMBOL), 3 | 1 << 32, 8, number(SYMBOL)]));
    file.extend(words(&[3 << 32, 0, 0, number(at + 2 * SYMBOL), number(strings.len()), 0, 1, 0]));
    // e_shoff; e_shentsize, e_shnum and e_shstrndx.
    file[0x28..0x30].copy_from_slice(&number(sections).to_le_bytes());
    file[0x3a..0x40].copy_from_slice(&[64, 0, 4, 0, 3, 0]);
    file
}

fn exits() -> Result<()> {
    let seen = |name: &str| -> Result<BTreeSet<ExitKind>> {
        let ended = ended(name)?;
        Ok(ended.trace.vcpus.iter().flat_map(|vcpu| vcpu.exits.keys().copied()).collect())
    };
    for (name, kind) in [
        ("exit-status", ExitKind::IoOut),
        ("triple-fault", ExitKind::Shutdown),
        ("fetch-nothing", ExitKind::InternalError),
        ("mmio-sweep", ExitKind::MmioRead),
        ("mmio-sweep", ExitKind::MmioWrite),
        ("pio-sweep", ExitKind::IoIn),
    ] {
        assert!(seen(name)?.contains(&kind), "{name}: {:?}", seen(name)?);
    }
    Ok(())
}
