//! The probe device by MMIO: every width arrives as it was sent.

use kiln_protocol::addresses::PROBE_MMIO;
use kiln_protocol::probe;

use super::physical::Page;
use super::{Case, Outcome, expect};

pub(super) const CASES: &[Case] = &[
    ("probe_mmio::magic_is_there", magic_is_there),
    ("probe_mmio::scratch_registers_keep_what_was_written", scratch_registers_keep_what_was_written),
    ("probe_mmio::halves_make_the_wide_register", halves_make_the_wide_register),
    ("probe_mmio::width_arrives_as_it_was_sent", width_arrives_as_it_was_sent),
    ("probe_mmio::every_access_is_counted_once", every_access_is_counted_once),
];

fn page() -> Result<Page, String> {
    Page::map(PROBE_MMIO)
}

fn magic_is_there() -> Outcome {
    expect("the magic", page()?.read::<u32>(probe::MAGIC)?, probe::MAGIC_VALUE)
}

fn scratch_registers_keep_what_was_written() -> Outcome {
    let page = page()?;
    // Twice, with no bit the same: what was there before proves nothing.
    for flip in [0, u64::MAX] {
        let wide = 0x0123_4567_89ab_cdef ^ flip;
        let [b0, b1, b2, b3, ..] = wide.to_le_bytes();
        let (half, quarter) = (u32::from_le_bytes([b0, b1, b2, b3]), u16::from_le_bytes([b0, b1]));
        page.write(probe::SCRATCH8, b0)?;
        page.write(probe::SCRATCH16, quarter)?;
        page.write(probe::SCRATCH32, half)?;
        page.write(probe::SCRATCH64, wide)?;
        expect("the 8-bit register", page.read(probe::SCRATCH8)?, b0)?;
        expect("the 16-bit register", page.read(probe::SCRATCH16)?, quarter)?;
        expect("the 32-bit register", page.read(probe::SCRATCH32)?, half)?;
        expect("the 64-bit register", page.read(probe::SCRATCH64)?, wide)?;
    }
    Ok(())
}

fn halves_make_the_wide_register() -> Outcome {
    let page = page()?;
    page.write(probe::SCRATCH64, 0x1111_2222_u32)?;
    page.write(probe::SCRATCH64 + 4, 0x3333_4444_u32)?;
    expect("the 64-bit register", page.read(probe::SCRATCH64)?, 0x3333_4444_1111_2222_u64)
}

fn width_arrives_as_it_was_sent() -> Outcome {
    let page = page()?;
    expect("an access of 1 byte", page.read(probe::WIDTH)?, 0x11_u8)?;
    expect("an access of 2 bytes", page.read(probe::WIDTH)?, 0x2222_u16)?;
    expect("an access of 4 bytes", page.read(probe::WIDTH)?, 0x4444_4444_u32)?;
    expect("an access of 8 bytes", page.read(probe::WIDTH)?, 0x8888_8888_8888_8888_u64)
}

fn every_access_is_counted_once() -> Outcome {
    let page = page()?;
    page.write(probe::ACCESS_COUNT, 0_u32)?;
    expect("the counter after its reset", page.read(probe::ACCESS_COUNT)?, 0_u32)?;
    page.write(probe::ACCESS_COUNT, 0_u32)?;
    for _ in 0..5 {
        page.read::<u32>(probe::MAGIC)?;
    }
    expect("the counter after five accesses", page.read(probe::ACCESS_COUNT)?, 5_u32)
}
