//! The devices that a machine can have, each with its properties: what `--device help` shows, and what `--device` sets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Backend, DiskConfig, FwCfgFile, MachineConfig, PvPanicConfig};

/// A kind of device.
#[derive(Clone, Copy, Serialize)]
pub struct DeviceKind {
    /// What `--device` calls it.
    pub name: &'static str,
    /// Where the guest finds it.
    pub at: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Whether every machine has it.
    pub always: bool,
    /// What can be set of it.
    pub properties: &'static [Property],
    /// Sets it in a configuration.
    #[serde(skip)]
    apply: Option<Apply>,
}

type Apply = fn(&mut MachineConfig, &Given) -> Result<(), String>;

/// What can be set of a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// What it may be; the first is meant where it is left out, unless it must be given.
    pub values: &'static str,
    /// What it means.
    pub about: &'static str,
}

const fn property(name: &'static str, values: &'static str, about: &'static str) -> Property {
    Property { name, values, about }
}

const TO: Property = property("to", "nothing | stdio | file | pty | socket", "where it leads on the host");
const TO_PATH: Property =
    property("path", "PATH", "the file, the socket, or another path to the pty; a pty needs none");
const PRESENT: Property = property("present", "on | off", "whether it is there");
const BACKEND: &[Property] = &[TO, TO_PATH];
const BACKEND_OR_NONE: &[Property] = &[TO, TO_PATH, PRESENT];

const fn fixed(name: &'static str, at: &'static str, about: &'static str) -> DeviceKind {
    DeviceKind { name, at, about, always: true, properties: &[], apply: None }
}

const fn kind(
    name: &'static str,
    at: &'static str,
    about: &'static str,
    properties: &'static [Property],
    apply: Apply,
) -> DeviceKind {
    DeviceKind { name, at, about, always: false, properties, apply: Some(apply) }
}

/// All devices, in the order of `--device help`.
pub const DEVICES: &[DeviceKind] = &[
    DeviceKind {
        name: "com1",
        at: "ports 0x3f8-0x3ff, interrupt 4",
        about: "the first serial port, a 16550A",
        always: true,
        properties: BACKEND,
        apply: Some(|config, given| given.backend().map(|backend| config.com1 = backend)),
    },
    kind(
        "com2",
        "ports 0x2f8-0x2ff, interrupt 3",
        "the second serial port",
        BACKEND_OR_NONE,
        |config, given| given.optional_backend().map(|backend| config.com2 = backend),
    ),
    kind(
        "com3",
        "ports 0x3e8-0x3ef, interrupt 4",
        "the third serial port",
        BACKEND_OR_NONE,
        |config, given| given.optional_backend().map(|backend| config.com3 = backend),
    ),
    kind(
        "com4",
        "ports 0x2e8-0x2ef, interrupt 3",
        "the fourth serial port",
        BACKEND_OR_NONE,
        |config, given| given.optional_backend().map(|backend| config.com4 = backend),
    ),
    kind(
        "debug-console",
        "port 0xe9",
        "takes text a byte at a time; reads 0xe9",
        BACKEND_OR_NONE,
        |config, given| given.optional_backend().map(|backend| config.debug_console = backend),
    ),
    kind(
        "firmware-console",
        "port 0x402",
        "the debug console that firmware uses",
        BACKEND_OR_NONE,
        |config, given| given.optional_backend().map(|backend| config.firmware_console = backend),
    ),
    kind(
        "pvpanic",
        "port 0x505, ACPI QEMU0001",
        "takes a kernel's word that it panicked",
        &[property("panic", "note | end | off", "what a panic does; off: it is not there")],
        |config, given| {
            config.pvpanic = match given.get("panic").unwrap_or("note") {
                "note" => PvPanicConfig::Note,
                "end" => PvPanicConfig::End,
                "off" => PvPanicConfig::Off,
                other => return Err(given.no_value("panic", other)),
            };
            Ok(())
        },
    ),
    kind(
        "rtc",
        "ports 0x70-0x71, ACPI PNP0B00",
        "CMOS with a clock, memory sizes and the NMI mask",
        &[PRESENT],
        |config, given| given.present().map(|present| config.rtc = present),
    ),
    kind(
        "fw-cfg",
        "ports 0x510-0x51b, ACPI QEMU0002",
        "tells firmware and tests of the machine, and gives files by name",
        &[
            PRESENT,
            property("file", "NAME", "a file that the guest finds, as opt/org.example/name"),
            property("path", "PATH", "the host's file with its content"),
        ],
        |config, given| {
            config.fw_cfg = given.present()?;
            match (given.get("file"), given.get("path")) {
                (None, None) => {}
                (Some(name), Some(path)) => {
                    config.fw_cfg_files.push(FwCfgFile { name: name.to_owned(), path: path.into() });
                }
                _ => return Err("fw-cfg: file and path go together".to_owned()),
            }
            Ok(())
        },
    ),
    kind(
        "testdev",
        "ports 0xe0-0xeb and 0x2000-0x2017, MMIO 0xff000000",
        "pc-testdev's registers, for kvm-unit-tests; it takes the place of the debug console at 0xe9",
        &[PRESENT],
        |config, given| {
            config.testdev = given.present()?;
            if config.testdev {
                config.debug_console = Backend::Absent;
            }
            Ok(())
        },
    ),
    kind(
        "probe",
        "ports 0xa00-0xa47, MMIO 0xd0100000, a window first at 0xd0110000, interrupt 10",
        "registers to assert on",
        &[PRESENT],
        |config, given| given.present().map(|present| config.probe = present),
    ),
    kind(
        "virtio-blk",
        "MMIO from 0xd0000000, ACPI LNRO0005",
        "a disk; each adds one",
        &[
            property("path", "PATH", "a raw image or a block device; it must be given"),
            property("read-only", "off | on", "whether the guest is refused to write"),
        ],
        |config, given| {
            let path = given.get("path").ok_or("virtio-blk: say which image with path=PATH")?;
            let read_only = given.switch("read-only", false)?;
            config.disks.push(DiskConfig { path: PathBuf::from(path), read_only });
            Ok(())
        },
    ),
    fixed("debug-exit", "ports 0xf4-0xf7", "ends the machine: a write of v gives the status 2v+1"),
    fixed("post", "port 0x80", "keeps the last code written"),
    fixed("i8042", "ports 0x60 and 0x64", "resets the machine, and looks absent otherwise"),
    fixed("acpi-power", "ports 0x600-0x602", "powers the machine off, and resets it"),
];

/// The properties given for a device.
struct Given {
    device: &'static str,
    values: BTreeMap<String, String>,
}

impl Given {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn no_value(&self, property: &str, value: &str) -> String {
        let device = self.device;
        format!("{device}: {property}={value} is none of its values; --device help shows them")
    }

    fn switch(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(self.no_value(name, other)),
        }
    }

    fn present(&self) -> Result<bool, String> {
        self.switch("present", true)
    }

    fn backend(&self) -> Result<Backend, String> {
        let path = self.get("path").map(PathBuf::from);
        let needs = |what: &str| format!("{}: to={what} needs path=PATH", self.device);
        Ok(match (self.get("to").unwrap_or("nothing"), path) {
            ("file", Some(path)) => Backend::File { path },
            ("socket", Some(path)) => Backend::Socket { path },
            ("pty", link) => Backend::Pty { link },
            (what @ ("file" | "socket"), None) => return Err(needs(what)),
            (what @ ("nothing" | "stdio"), Some(_)) => {
                return Err(format!("{}: to={what} has no path", self.device));
            }
            ("nothing", None) => Backend::Nothing,
            ("stdio", None) => Backend::Stdio,
            (other, _) => return Err(self.no_value("to", other)),
        })
    }

    fn optional_backend(&self) -> Result<Backend, String> {
        let backend = self.backend()?;
        Ok(if self.present()? { backend } else { Backend::Absent })
    }
}

/// Sets a device in `config`, as `NAME[,PROPERTY=VALUE]…` says.
///
/// # Errors
/// There is no such device, property or value.
pub fn set(config: &mut MachineConfig, text: &str) -> Result<(), String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let kind = DEVICES.iter().find(|kind| kind.name == name);
    let kind = kind.ok_or_else(|| format!("no device named {name:?}; --device help shows them"))?;
    let Some(apply) = kind.apply else {
        return Err(format!("{name} is there on every machine, and has nothing to set"));
    };
    let mut values = BTreeMap::new();
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{name}: write {part}=VALUE"))?;
        if !kind.properties.iter().any(|property| property.name == key) {
            return Err(format!("{name} has no property {key:?}; --device help shows them"));
        }
        if values.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{name}: {key} is given twice"));
        }
    }
    apply(config, &Given { device: kind.name, values })
}

/// The registry as people read it.
#[must_use]
pub fn help() -> String {
    let mut text = String::new();
    for kind in DEVICES {
        text.push_str(&format!("{:17} {}\n{:17} {}\n", kind.name, kind.about, "", kind.at));
        for Property { name, values, about } in kind.properties {
            text.push_str(&format!("  {:15} {values}\n{:19} {about}\n", format!("{name}="), ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(devices: &[&str]) -> Result<MachineConfig, String> {
        let mut config = MachineConfig::default();
        for device in devices {
            set(&mut config, device)?;
        }
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn devices_are_set_by_their_properties() {
        let config = config(&[
            "com1,to=stdio",
            "com2,to=file,path=a=b",
            "com3,to=pty",
            "com4,to=socket,path=s",
            "debug-console,present=off",
            "firmware-console,to=stdio",
            "pvpanic,panic=end",
            "rtc",
            "fw-cfg,file=opt/x,path=y",
            "testdev",
            "probe,present=off",
            "virtio-blk,path=disk,read-only=on",
        ]);
        let expected = MachineConfig {
            com1: Backend::Stdio,
            com2: Backend::File { path: "a=b".into() },
            com3: Backend::Pty { link: None },
            com4: Backend::Socket { path: "s".into() },
            debug_console: Backend::Absent,
            firmware_console: Backend::Stdio,
            pvpanic: PvPanicConfig::End,
            rtc: true,
            fw_cfg_files: vec![FwCfgFile { name: "opt/x".to_owned(), path: "y".into() }],
            testdev: true,
            probe: false,
            disks: vec![DiskConfig { path: "disk".into(), read_only: true }],
            ..MachineConfig::default()
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn what_is_no_device_property_or_value_is_refused_by_name() {
        for (device, words) in [
            ("com5", "no device named \"com5\""),
            ("", "no device named \"\""),
            ("rtc,colour=red", "no property \"colour\""),
            ("rtc,present=maybe", "present=maybe"),
            ("rtc,present", "write present=VALUE"),
            ("rtc,present=on,present=on", "twice"),
            ("com2,to=printer", "to=printer"),
            ("com2,to=file", "needs path=PATH"),
            ("com2,to=stdio,path=x", "has no path"),
            ("post", "nothing to set"),
            ("virtio-blk", "path=PATH"),
            ("fw-cfg,file=x", "go together"),
        ] {
            let error = config(&[device]).unwrap_err();
            assert!(error.contains(words), "{device}: {error}");
        }
    }

    #[test]
    fn each_device_without_properties_that_must_be_given_can_be_asked_for() {
        for kind in DEVICES.iter().filter(|kind| kind.apply.is_some() && kind.name != "virtio-blk") {
            config(&[kind.name]).unwrap();
        }
    }

    #[test]
    fn help_names_each_device_and_property() {
        let text = help();
        for kind in DEVICES {
            assert!(text.contains(kind.name) && text.contains(kind.at), "{}", kind.name);
            assert!(kind.properties.iter().all(|property| text.contains(&format!("{}=", property.name))));
        }
        assert!(serde_json::to_string(DEVICES).unwrap().contains("\"at\":\"port 0xe9\""));
    }
}
