//! Accesses to nothing: counted, told of, and on a strict machine its end.

use std::sync::{Arc, Mutex};

use kiln::cases::{CASES, Case, linkme};
use kiln::fixtures::{NOTHING_MMIO, NOTHING_PORT};
use kiln::gate::Needs;
use kiln::vmm::config::{AllowedRange, BusKind, MachineConfig};
use kiln::vmm::machine::{Ended, UnclaimedAccess, UnclaimedReport};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::trace::AccessCount;

use super::control::{Result, build, expect, payload, with};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static STRICT: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::strict::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("access_to_no_port_ends_a_strict_machine", port),
        case("access_to_no_memory_ends_a_strict_machine", memory),
        case("access_across_a_devices_edge_ends_a_strict_machine", edge),
        case("allowed_accesses_pass_and_are_counted", allowed),
        case("accesses_to_nothing_are_told_of", told),
        case("flood_to_nothing_is_told_of_in_a_few_lines", flood),
    ]
};

fn config(name: &str, strict: bool, allowed: Vec<AllowedRange>) -> Result<MachineConfig> {
    let super::Staged(config, _) = super::flat(payload(name)?)?;
    Ok(MachineConfig { strict, allowed, ..config })
}

fn strictly(name: &str, allowed: Vec<AllowedRange>) -> Result<Ended> {
    with(build(&config(name, true, allowed)?)?, |_| Ok(()))
}

fn port() -> Result<()> {
    let ended = strictly("pio-nothing", Vec::new())?;
    let access = UnclaimedAccess {
        cpu: Some(0),
        bus: BusKind::Pio,
        write: true,
        address: NOTHING_PORT.into(),
        width: 1,
    };
    // Its dump says why, too.
    assert_eq!(ended.dumps[0].why, "vCPU 0 wrote 1 byte at port 0xb00, where no device is");
    expect(&ended, &Outcome::Unclaimed(access))
}

fn memory() -> Result<()> {
    let ended = strictly("mmio-nothing", Vec::new())?;
    let access =
        UnclaimedAccess { cpu: Some(0), bus: BusKind::Mmio, write: true, address: NOTHING_MMIO, width: 1 };
    expect(&ended, &Outcome::Unclaimed(access))
}

/// The last of what the payload does is a read half outside.
fn edge() -> Result<()> {
    let ended = strictly("cells-pio", Vec::new())?;
    let Outcome::Unclaimed(access) = ended.outcome else { return expect(&ended, &Outcome::Stopped) };
    assert_eq!((access.write, access.address, access.width), (false, 0xa50 + 30, 4));
    Ok(())
}

fn allowed() -> Result<()> {
    let range = AllowedRange { bus: BusKind::Pio, base: NOTHING_PORT.into(), size: 4 };
    let ended = strictly("pio-nothing", vec![range])?;
    let last = ended.trace.vcpus[0].accesses.iter().rev().find(|access| access.device.is_none());
    assert_eq!(last.map(|access| (access.address, access.width)), Some((NOTHING_PORT.into(), 4)));
    assert_eq!(ended.trace.vcpus[0].nothing, AccessCount { reads: 3, writes: 3 });
    expect(&ended, &Outcome::DebugExit { value: 0 })
}

/// What is told of a machine that is let run.
fn reports(name: &str, stop_at: usize) -> Result<(Ended, Vec<UnclaimedReport>)> {
    let reports = Arc::<Mutex<Vec<UnclaimedReport>>>::default();
    let mut machine = build(&config(name, false, Vec::new())?)?;
    let (told, controller) = (reports.clone(), machine.controller());
    machine.tell_unclaimed(move |report| {
        let mut reports = told.lock().unwrap();
        reports.push(report.clone());
        if reports.len() == stop_at {
            controller.stop();
        }
    });
    let ended = with(machine, |_| Ok(()))?;
    let reports = reports.lock().unwrap().clone();
    Ok((ended, reports))
}

fn told() -> Result<()> {
    let (ended, reports) = reports("pio-nothing", usize::MAX)?;
    let lines: Vec<String> = reports.iter().flat_map(UnclaimedReport::lines).collect();
    assert_eq!(
        lines.first().map(String::as_str),
        Some("vCPU 0 wrote 1 byte at port 0xb00, where no device is")
    );
    let told: u64 = reports.iter().map(|report| report.more + report.accesses.len() as u64).sum();
    assert_eq!(told, 6);
    expect(&ended, &Outcome::DebugExit { value: 0 })
}

fn flood() -> Result<()> {
    let (ended, reports) = reports("nothing-flood", 2)?;
    let lines = reports.iter().flat_map(UnclaimedReport::lines).count();
    // A report a second, and one at the end.
    assert!(reports.len() <= 3 && lines <= 3 * 9, "{lines} lines");
    let nothing = ended.trace.vcpus[0].nothing;
    let told: u64 = reports.iter().map(|report| report.more + report.accesses.len() as u64).sum();
    assert_eq!(told, nothing.reads + nothing.writes);
    expect(&ended, &Outcome::Stopped)
}
