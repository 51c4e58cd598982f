//! The guest's physical address space, in one place.
//!
//! Addresses that a guest's code is written against (the test devices) come from `kiln-protocol`.

pub use kiln_protocol::addresses::*;

/// Where RAM below 4 GiB ends and the hole for devices begins.
pub const HOLE_START: u64 = 0xd000_0000;
/// Where RAM goes on above the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// KVM's three-page TSS region (`KVM_SET_TSS_ADDR`), which must lie below 4 GiB and outside RAM.
pub const TSS_ADDRESS: u64 = 0xfffb_d000;
/// KVM's identity-map page (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The I/O APIC's registers (82093AA data sheet, §3.0).
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APIC's registers (Intel SDM, volume 3, §11.4.1).
pub const LAPIC: u64 = 0xfee0_0000;
/// How many addresses each APIC takes: KVM's I/O APIC 256 of them, a local APIC a page; more than a page is nobody's.
pub const APIC_SIZE: u64 = 0x1000;
/// The ports that KVM's interrupt controllers and timer answer (8259A and 8254 data sheets; PC/AT for port 0x61).
pub const KVMS_PORTS: &[(&str, (u64, u64))] = &[
    ("the first PIC", (0x20, 2)),
    ("the PIT", (0x40, 4)),
    ("the PIT's gate", (0x61, 1)),
    ("the second PIC", (0xa0, 2)),
    ("the PICs' edge and level control", (0x4d0, 2)),
];

/// The initial GDT.
pub const GDT: u64 = 0x500;
/// The `hvm_start_info` of a PVH entry; its memory map and module list follow within the page.
pub const PVH_START_INFO: u64 = 0x6000;
/// The information that a multiboot kernel gets, with its memory map, modules and strings behind it.
pub const MULTIBOOT_INFO: u64 = 0x6000;
/// The end of the room for it: such a kernel has neither a zero page nor page tables.
pub const MULTIBOOT_INFO_END: u64 = 0xf000;
/// The boot parameters ("zero page") of the 64-bit boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial page tables: PML4, PDPT, and page directories that map the first 4 GiB one to one.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// The command line's limit with its NUL: x86's `COMMAND_LINE_SIZE`.
pub const CMDLINE_SIZE: usize = 2048;
/// The end of conventional memory given to the guest: the extended BIOS data area would begin here.
pub const EBDA: u64 = 0x9_fc00;
/// ACPI's tables; the RSDP comes first (ACPI 6.5 §5.2.5.1 has it searched for from here).
pub const ACPI: u64 = 0xe_0000;
/// The end of the room for ACPI's tables: the generation ID's page comes next.
pub const ACPI_TABLES_END: u64 = GENERATION_ID;
/// The end of what is reserved for ACPI.
pub const ACPI_END: u64 = 0x10_0000;
/// Where memory above the first MiB begins: bare images and protected-mode kernels are loaded from here.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// ACPI's sleep control register (ACPI 6.5 §4.8.3.7), on PIO; its status register is the next byte.
pub const ACPI_SLEEP: u16 = 0x600;
/// ACPI's reset register (ACPI 6.5 §4.8.3.6), on PIO; writing [`ACPI_RESET_VALUE`] resets.
pub const ACPI_RESET: u16 = 0x602;
/// The value that resets when it is written to [`ACPI_RESET`].
pub const ACPI_RESET_VALUE: u8 = 1;
/// The i8042's data port.
pub const I8042: u16 = 0x60;
/// The i8042's command port: 0xfe written to it pulses the reset line.
pub const I8042_COMMAND: u16 = 0x64;

/// How much persistent memory a machine with a reserved disk has, in bytes. A guest takes a sixty-fourth of it for its bookkeeping.
pub const RESERVED_MEMORY: u64 = 256 << 20;

/// Where it begins, on a machine with so many bytes of RAM: behind all of that and above 4 GiB, on a boundary that suits
/// Linux, which takes such memory in sections (Documentation/mm/memory-model.rst).
#[must_use]
pub fn reserved_memory(memory: u64) -> u64 {
    const ALIGNED: u64 = 1 << 30;
    let high = memory.saturating_sub(HOLE_START);
    HOLE_END.saturating_add(high).next_multiple_of(ALIGNED)
}
