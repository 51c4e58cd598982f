//! Interrupts that a payload takes, and floods of them.

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures;
use kiln::gate::Needs;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static INTERRUPTS: fn() -> Vec<Case> = || {
    let case = |payload: fixtures::Payload| {
        let path = format!("payloads::interrupts::{}", payload.name.replace('-', "_"));
        Case::host(&path, Needs::Payload, move || super::run(&payload, super::flat))
    };
    fixtures::with_interrupts().into_iter().map(case).collect()
};
