//! Multiboot kernels: entered as they must be, and told what there is.

use kiln::cases::{CASES, Case, Outcome as Came, linkme};
use kiln::fixtures::{self, Ends, Image, Mode, Payload};
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, MachineConfig, ModuleConfig};
use kiln::vmm::outcome::Outcome;

use super::machine::{expect, file, run};

const KINDS: &[(&str, Image)] = &[("elf32", Image::Elf32), ("elf64", Image::Elf64), ("flat", Image::Flat)];

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static MULTIBOOT: fn() -> Vec<Case> = || {
    let mut cases = Vec::new();
    for (kind, image) in KINDS {
        let case = |name: &str, body: fn(Image) -> Came| {
            let path = format!("devices::multiboot::{kind}::{name}");
            Case::host(&path, Needs::Payload, move || body(*image))
        };
        cases.push(case("kernel_sees_its_command_line_modules_and_memory", sees_all));
        cases.push(case("payloads_end_as_they_promise", end_as_promised));
    }
    cases
};

fn machine(boot: Boot) -> MachineConfig {
    MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() }
}

fn sees_all(kind: Image) -> Came {
    let payload = fixtures::multiboot_only().into_iter().next().ok_or("no payload")?;
    let kernel = file(&payload.multiboot(kind))?;
    let (one, two) = (file(b"one's bytes\n")?, file(b"two's\n")?);
    let module = |file: &tempfile::NamedTempFile, string: &str| ModuleConfig {
        path: file.path().to_owned(),
        string: Some(string.to_owned()),
    };
    let name = kernel.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let boot = Boot::Multiboot {
        kernel: kernel.path().to_owned(),
        modules: vec![module(&one, "one a=b"), module(&two, "two")],
        cmdline: "what it is told".to_owned(),
    };
    let says = format!("kiln\n{name} what it is told\none a=b\none's bytes\ntwo\ntwo's\n");
    expect(&machine(boot), 0, &says)
}

fn end_as_promised(kind: Image) -> Came {
    for payload in fixtures::all().iter().filter(|payload| payload.mode == Mode::Protected32) {
        if payload.ends != Ends::Never {
            as_promised(payload, kind).map_err(|error| format!("{}: {error}", payload.name))?;
        }
    }
    Ok(())
}

fn as_promised(payload: &Payload, kind: Image) -> Came {
    let kernel = file(&payload.multiboot(kind))?;
    let boot = Boot::Kernel { kernel: kernel.path().to_owned(), initrd: None, cmdline: String::new() };
    if let Ends::Exit(value) = payload.ends {
        return expect(&machine(boot), value, payload.says);
    }
    let (ended, _) = run(&machine(boot))?;
    let as_promised = match payload.ends {
        Ends::Halted => ended.outcome == Outcome::Halted,
        Ends::TripleFault => ended.outcome == Outcome::TripleFault { cpu: 0 },
        Ends::InternalError => matches!(ended.outcome, Outcome::InternalError { .. }),
        Ends::Exit(_) | Ends::Never => false,
    };
    if as_promised {
        Ok(())
    } else {
        Err(format!("{:?} was promised, {:?} came", payload.ends, ended.outcome))
    }
}
