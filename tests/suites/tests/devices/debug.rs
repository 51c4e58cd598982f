//! Debug consoles, pvpanic, fw_cfg and pc-testdev.

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::fixtures::Image;
use kiln::vmm::config::{Backend, Boot, FwCfgFile, MachineConfig, PvPanicConfig};
use kiln::vmm::outcome::Outcome;

use super::machine::{build, case, config, expect, file, passes, payload, run, same};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static DEBUG: fn() -> Vec<Case> = || {
    vec![
        case("debug", "consoles_take_text_and_say_that_somebody_listens", consoles),
        case("debug", "console_that_leads_nowhere_is_there", consoles_to_nothing),
        case("debug", "pvpanic_is_noted_and_the_guest_goes_on", pvpanic_noted),
        case("debug", "pvpanic_ends_the_machine_that_is_to_end_by_it", pvpanic_ends),
        case("debug", "fw_cfg_tells_of_the_machine_and_gives_files", fw_cfg),
        case("debug", "image_made_for_pc_testdev_passes", testdev),
    ]
};

fn text(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn consoles() -> Came {
    let (debug, firmware) = (file(b"")?, file(b"")?);
    let to = |file: &tempfile::NamedTempFile| Backend::File { path: file.path().to_owned() };
    let config = MachineConfig {
        debug_console: to(&debug),
        firmware_console: to(&firmware),
        ..config("debug-consoles")?
    };
    expect(&config, 0, "")?;
    same(text(debug.path())?.as_str(), "to the debug console\n")?;
    same(text(firmware.path())?.as_str(), "to firmware's, and half a line")
}

fn consoles_to_nothing() -> Came {
    expect(&config("debug-consoles")?, 0, "")
}

fn pvpanic_noted() -> Came {
    let (machine, said) = build(&config("pvpanic")?)?;
    let notice = machine.panic_notice();
    same(notice.panicked(), false)?;
    passes(machine)?;
    same((notice.panicked(), notice.crash_loaded()), (true, false))?;
    same(said.text().as_str(), "after the panic\n")
}

fn pvpanic_ends() -> Came {
    let config = MachineConfig { pvpanic: PvPanicConfig::End, ..config("pvpanic")? };
    let (ended, _) = run(&config)?;
    same(ended.outcome, Outcome::Panicked)
}

fn fw_cfg() -> Came {
    let content = file(b"what the host gave\n")?;
    let given = FwCfgFile { name: "opt/kiln/given".to_owned(), path: content.path().to_owned() };
    let config = MachineConfig { fw_cfg_files: vec![given], ..config("fw-cfg")? };
    expect(&config, 0, "what the host gave\n")
}

fn testdev() -> Came {
    let payload = payload("testdev")?;
    let kernel = file(&payload.multiboot(Image::Elf32))?;
    let boot =
        Boot::Multiboot { kernel: kernel.path().to_owned(), modules: Vec::new(), cmdline: String::new() };
    let config = MachineConfig {
        memory: 16 << 20,
        boot,
        testdev: true,
        debug_console: Backend::Absent,
        ..MachineConfig::default()
    };
    expect(&config, 0, payload.says)
}
