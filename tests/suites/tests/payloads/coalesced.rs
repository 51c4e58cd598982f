//! Writes to zones that KVM collects: how few exits they take, and in which order they come.

use kiln::cases::{CASES, Case, linkme};
use kiln::gate::Needs;
use kiln::vmm::outcome::Outcome;
use kiln::vmm::trace::{AccessCount, ExitKind};

use super::control::{Result, expect, machine, with};

/// The reset, a write for every full ring of 169, two reads, and the debug-exit port.
const EXITS: u64 = 10;

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static COALESCED: fn() -> Vec<Case> = || {
    let case = |name: &str, payload: &'static str| {
        let path = format!("payloads::coalesced::{name}");
        Case::host(&path, Needs::Payload, move || stream(payload).map_err(|error| error.to_string()))
    };
    vec![
        case("thousand_writes_to_memory_arrive_in_order_by_ten_exits", "stream-mmio"),
        case("thousand_writes_to_a_port_arrive_in_order_by_ten_exits", "stream-pio"),
    ]
};

fn stream(payload: &str) -> Result<()> {
    let ended = with(machine(payload)?, |_| Ok(()))?;
    // The guest itself has looked at their order.
    expect(&ended, &Outcome::DebugExit { value: 0 })?;
    // On a busy host it is called back now and then, to be asked whether it sleeps: that is none of the guest's.
    let exits = ended.trace.total_exits() - ended.trace.exits(ExitKind::Intr);
    assert!(exits <= EXITS, "{exits} exits: {:?}", ended.trace.vcpus[0].exits);
    let probe = ended.trace.devices().get("probe").copied();
    assert_eq!(probe, Some(AccessCount { reads: 2, writes: 1001 }));
    Ok(())
}
