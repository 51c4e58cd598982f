//! A vCPU's state, read and written from outside.

use kiln::cases::{CASES, Case, linkme};
use kiln::gate::Needs;
use kiln::vmm::vcpu::state::{MpState, VcpuState};

use super::control::{Result, machine, moved, with};

/// No difference.
const NONE: [String; 0] = [];

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static STATE: fn() -> Vec<Case> = || {
    let case = |name: &str, body: fn() -> Result<()>| {
        let path = format!("payloads::state::{name}");
        Case::host(&path, Needs::Payload, move || body().map_err(|error| error.to_string()))
    };
    vec![
        case("state_written_back_reads_the_same", round_trip),
        case("guest_goes_on_from_the_state_that_was_written", goes_on_from),
        case("machine_takes_on_the_state_of_another", of_another),
        case("state_without_interrupt_controllers_reads_and_writes", without_irqchip),
    ]
};

fn round_trip() -> Result<()> {
    with(machine("count")?, |machine| {
        machine.pause()?;
        for _ in 0..10 {
            let before = machine.vcpu_states()?;
            machine.set_vcpu_states(before.clone())?;
            let after = machine.vcpu_states()?;
            assert_eq!(after[0].differences(&before[0]), NONE);
            assert!(before[0].msrs.len() > 20 && before[0].lapic.is_some());
        }
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn goes_on_from() -> Result<()> {
    with(machine("count")?, |machine| {
        // Past its first instruction, which clears the counter.
        moved(machine, 0)?;
        machine.pause()?;
        let mut states = machine.vcpu_states()?;
        states[0].registers.rax = 1 << 60;
        states[0].registers.r15 = 0x0123_4567_89ab_cdef;
        states[0].special.cr2 = 0xdead_beef;
        states[0].debug.db[0] = 0x1234;
        // XMM3 in the legacy region of the XSAVE area (Intel SDM, volume 1, §13.4.1).
        states[0].xsave[160 + 3 * 16] = 0x5a;
        // And the header's word that the area holds them (§13.4.2).
        states[0].xsave[512] |= 1 << 1;
        machine.set_vcpu_states(states)?;
        machine.resume()?;
        moved(machine, 1 << 60)?;
        let now = machine.vcpu_states()?.remove(0);
        assert!(now.registers.rax > 1 << 60, "{:#x}", now.registers.rax);
        assert_eq!(
            (now.registers.r15, now.special.cr2, now.debug.db[0]),
            (0x0123_4567_89ab_cdef, 0xdead_beef, 0x1234)
        );
        assert_eq!(now.xsave[160 + 3 * 16], 0x5a);
        machine.stop();
        Ok(())
    })
    .map(drop)
}

/// Changes something in each part that the second machine would otherwise have by itself.
fn make_unlike_a_new_one(state: &mut VcpuState) -> Result<()> {
    const DIVIDE_CONFIGURATION: usize = 0x3e0;
    const LSTAR: u32 = 0xc000_0082;
    state.mp_state = MpState::Halted;
    state.special.cr2 = 0xdead_beef;
    state.debug.db[1] = 0x1234;
    // XMM3, and that the area holds it, as above.
    state.xsave[160 + 3 * 16] = 0x5a;
    state.xsave[512] |= 1 << 1;
    // A processor without XSAVE has none.
    if let Some(xcr0) = state.xcrs.get_mut(&0) {
        *xcr0 ^= 1 << 1;
    }
    state.lapic.as_mut().ok_or("no local APIC")?.0[DIVIDE_CONFIGURATION] ^= 0b1011;
    *state.msrs.get_mut(&LSTAR).ok_or("no LSTAR")? = 0x1234_5678;
    state.events.nmi.masked ^= true;
    Ok(())
}

/// What one machine has counted, another of the same kind goes on from.
fn of_another() -> Result<()> {
    let mut states = Vec::new();
    with(machine("count")?, |machine| {
        machine.pause()?;
        states = machine.vcpu_states()?;
        states[0].registers.rax += 1 << 40;
        make_unlike_a_new_one(&mut states[0])?;
        machine.stop();
        Ok(())
    })?;
    let other = machine("count")?;
    other.controller().pause()?;
    with(other, |machine| {
        machine.set_vcpu_states(states.clone())?;
        let taken = machine.vcpu_states()?;
        assert_eq!(taken[0].differences(&states[0]), NONE);
        assert!(machine.set_vcpu_states(Vec::new()).is_err());
        machine.stop();
        Ok(())
    })
    .map(drop)
}

fn without_irqchip() -> Result<()> {
    let payload = kiln::fixtures::by_name("count").ok_or("no payload")?;
    let super::Staged(config, _) = super::without_irqchip(payload)?;
    with(super::control::build(&config)?, |machine| {
        machine.pause()?;
        let before = machine.vcpu_states()?;
        assert_eq!(before[0].lapic, None);
        machine.set_vcpu_states(before.clone())?;
        assert_eq!(machine.vcpu_states()?[0].differences(&before[0]), NONE);
        machine.stop();
        Ok(())
    })
    .map(drop)
}
