//! Serial ports beyond COM1, each to another place; the clock.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::vmm::config::{Backend, MachineConfig, PvPanicConfig};

use super::machine::{build, case, config, passes, same};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static PORTS: fn() -> Vec<Case> = || {
    vec![
        case("ports", "serial_ports_lead_to_socket_file_and_pty", socket_file_pty),
        case("ports", "serial_port_on_a_pty_is_typed_at", pty_input),
        case("ports", "wild_accesses_bring_nothing_down", wild),
        case("ports", "clock_tells_time_and_memory_and_masks_nmis", clock),
    ]
};

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Reads as many bytes as `text` has, which they must be.
fn hears(from: &mut impl Read, text: &str) -> Came {
    let mut bytes = vec![0; text.len()];
    from.read_exact(&mut bytes).map_err(failed)?;
    same(String::from_utf8_lossy(&bytes).as_ref(), text)
}

fn socket_file_pty() -> Came {
    let folder = tempfile::tempdir().map_err(failed)?;
    let at = |name: &str| folder.path().join(name);
    let config = MachineConfig {
        com2: Backend::Socket { path: at("com2") },
        com3: Backend::File { path: at("com3") },
        com4: Backend::Pty { link: Some(at("com4")) },
        ..config("serial-ports")?
    };
    let (machine, said) = build(&config)?;
    let mut com4 = std::fs::File::open(at("com4")).map_err(failed)?;
    // A terminal's last bytes go with the machine: they are read while it runs.
    let com4 = std::thread::spawn(move || hears(&mut com4, "COM4\n"));
    let mut com2 = UnixStream::connect(at("com2")).map_err(failed)?;
    com2.write_all(b"typed at COM2\n").map_err(failed)?;
    passes(machine)?;
    hears(&mut com2, "COM2\ntyped at COM2\n")?;
    same(said.text().as_str(), "typed at COM2\n")?;
    same(std::fs::read_to_string(at("com3")).map_err(failed)?.as_str(), "COM3\n")?;
    com4.join().map_err(|_| "the reader of COM4 panicked")?
}

fn pty_input() -> Came {
    let config = MachineConfig {
        com2: Backend::Pty { link: None },
        com3: Backend::Nothing,
        com4: Backend::Nothing,
        ..config("serial-ports")?
    };
    let (machine, said) = build(&config)?;
    let path = machine.ptys().iter().find(|(name, _)| name == "COM2").map(|(_, path)| path.clone());
    let path = path.ok_or("COM2 has no pty")?;
    let mut com2 = std::fs::File::options().read(true).write(true).open(path).map_err(failed)?;
    com2.write_all(b"by hand\n").map_err(failed)?;
    let com2 = std::thread::spawn(move || hears(&mut com2, "COM2\nby hand\n"));
    passes(machine)?;
    com2.join().map_err(|_| "the reader of COM2 panicked")??;
    same(said.text().as_str(), "by hand\n")
}

/// The payload touches the ports of the serial ports and consoles, the clock, pvpanic, fw_cfg and pc-testdev, on machines
/// with and without them.
fn wild() -> Came {
    for there in [true, false] {
        let backend = || if there { Backend::Nothing } else { Backend::Absent };
        let config = MachineConfig {
            com1: Backend::Nothing,
            com2: backend(),
            com3: backend(),
            com4: backend(),
            debug_console: Backend::Absent,
            firmware_console: backend(),
            rtc: there,
            fw_cfg: there,
            testdev: there,
            pvpanic: if there { PvPanicConfig::Note } else { PvPanicConfig::Off },
            ..config("wild-ports")?
        };
        let (machine, _) = build(&config)?;
        passes(machine)?;
    }
    Ok(())
}

fn clock() -> Came {
    let (machine, _) = build(&MachineConfig { rtc: true, ..config("rtc")? })?;
    let mask = machine.nmi_mask();
    same(mask.masked(), false)?;
    passes(machine)?;
    same(mask.masked(), true)
}
