//! gdb's `monitor` commands: what a machine can tell that gdb does not ask for.

use super::probe;
use crate::chain;
use crate::vcpu::{Controller, Trap};

const HELP: &str = "\
monitor breakpoints  which breakpoints and watchpoints this host has
monitor dump         where every vCPU stands: registers, code, stack
monitor nmi [CPU]    give vCPU CPU (0) a non-maskable interrupt
monitor trace        what each vCPU did: exits, and its last accesses to devices
";
/// How many accesses of a vCPU are shown.
const ACCESSES: usize = 16;

/// Carries out a command, and says its answer a line or a few at a time.
pub(super) fn answer(controller: &Controller, command: &[u8], mut say: impl FnMut(&str)) {
    let command = String::from_utf8_lossy(command);
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = match words.as_slice() {
        [] | ["help"] => {
            say(HELP);
            Ok(())
        }
        ["breakpoints"] => {
            say(&breakpoints(probe::support(controller.kvm_node())));
            Ok(())
        }
        ["dump"] => controller
            .dump()
            .map(|dumps| {
                for line in dumps
                    .iter()
                    .flat_map(|dump| dump.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
                {
                    say(&format!("{line}\n"));
                }
            })
            .map_err(|error| chain(&error)),
        ["nmi"] => controller.nmi(0).map_err(|error| chain(&error)),
        ["nmi", cpu] => match cpu.parse() {
            Ok(cpu) => controller.nmi(cpu).map_err(|error| chain(&error)),
            Err(_) => Err("say which vCPU by its number".to_owned()),
        },
        ["trace"] => trace(controller, &mut say),
        _ => Err("no such command; monitor help lists them".to_owned()),
    };
    if let Err(error) = done {
        say(&format!("{error}\n"));
    }
}

fn breakpoints(support: probe::Support) -> String {
    let word = |works: bool, what: &str| {
        let why = "KVM does not stop at them on this host, so they are refused";
        if works { format!("{what}: four\n") } else { format!("{what}: none: {why}\n") }
    };
    let memory = match support.trap {
        Trap::Int3 => "break, on memory that is mapped: as many as you like\n",
        Trap::Emulated => {
            "break, on supervisor-mode code that is mapped, but in real mode: as many as you like (KVM emulates int3's code here)\n"
        }
        Trap::Out => {
            "break, on supervisor-mode code that is mapped: as many as you like (two bytes each, as KVM does not stop at int3)\n"
        }
    };
    format!(
        "{memory}in ROMs: hbreak alone\n{}{}",
        word(support.execute, "hbreak"),
        word(support.watch, "watch, rwatch, awatch (aligned, 8 bytes each)")
    )
}

fn trace(controller: &Controller, say: &mut impl FnMut(&str)) -> Result<(), String> {
    let trace = controller.trace().map_err(|error| chain(&error))?;
    for vcpu in &trace.vcpus {
        say(&format!("vCPU {}:\n", vcpu.index));
        for (kind, count) in &vcpu.exits {
            say(&format!("  {} {count}\n", kind.name()));
        }
        for access in vcpu.accesses.iter().skip(vcpu.accesses.len().saturating_sub(ACCESSES)) {
            let device = access.device.as_deref().unwrap_or("nothing");
            let space = if access.pio { "port" } else { "MMIO" };
            let arrow = if access.write { "<-" } else { "->" };
            let (address, width, value) = (access.address, access.width, access.value);
            say(&format!(
                "  {} ns: {device}, {space} {address:#x}, {width} bytes {arrow} {value:#x}\n",
                access.time_ns
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_can_not_do_is_said() {
        let text = breakpoints(probe::Support { execute: true, watch: false, trap: Trap::Out });
        assert!(
            text.contains("hbreak: four\n") && text.contains("bytes each): none: KVM does not"),
            "{text}"
        );
    }
}
