//! A state that has something of everything, and the version that goes with its form.

use super::*;

/// A state as a small machine has it.
pub(super) fn state() -> State {
    let config = MachineConfig { reserved_disk: true, ..MachineConfig::default() };
    let memory = serde_json::json!({
        "length": 65536, "checksum": "0123456789abcdef", "stamp": null,
        "runs": [{ "address": 0, "offset": 0, "length": 65536 }],
    });
    State {
        kiln: "0.0.0".to_owned(),
        host: [("kernel".to_owned(), "6.1".to_owned())].into(),
        config,
        places: Checksum::of(b"places"),
        memory: serde_json::from_value(memory).unwrap(),
        vcpus: Vec::new(),
        interrupts: Some(Interrupts {
            pics: Default::default(),
            ioapic: IoApic { redirections: [u64::MAX; 24], ..IoApic::default() },
            pit: Pit::default(),
        }),
        time: Time { clock: u64::MAX, tsc_khz: 1, tsc: u64::MAX, ahead: vec![-1] },
        disks: Vec::new(),
        devices: [("POST".to_owned(), Value::Null)].into(),
    }
}

/// The keys of `state` as paths; of lists, the first element's.
fn shape(state: &Value, at: &str, keys: &mut Vec<String>) {
    match state {
        Value::Object(fields) => {
            for (key, value) in fields {
                shape(value, &format!("{at}/{key}"), keys);
            }
        }
        // What is in a list that is empty here is a matter of its device's own tests.
        Value::Array(values) if values.is_empty() => keys.push(format!("{at}[]")),
        Value::Array(values) => {
            values.iter().take(1).for_each(|value| shape(value, &format!("{at}[]"), keys))
        }
        other => {
            let kind = match other {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                _ => "string",
            };
            keys.push(format!("{at} {kind}"));
        }
    }
}

/// Each kind of device, new.
fn devices() -> Vec<(&'static str, Box<dyn Persist>)> {
    use crate::device::{debug_console, fw_cfg, post, power, probe, pvpanic, rtc, testdev, uart};
    use crate::irq::Unconnected;
    use std::sync::Arc;
    let memory = crate::memory::allocate(1 << 20).unwrap();
    let facts = fw_cfg::Facts { cpus: 1, memory: 1 << 20 };
    let sink = || Box::new(std::io::sink());
    let switch = crate::outcome::PowerSwitch::new;
    vec![
        ("uart", Box::new(uart::Uart::new(Arc::new(Unconnected), sink()))),
        ("rtc", Box::new(rtc::Rtc::new((1 << 20, 0), rtc::NmiMask::default()))),
        ("fw_cfg", Box::new(fw_cfg::FwCfg::new(facts, Vec::new(), memory.clone()))),
        ("post", Box::new(post::Post::new())),
        ("power", Box::new(power::AcpiPower::new(switch()))),
        ("pvpanic", Box::new(pvpanic::PvPanic::new(pvpanic::PanicNotice::default(), None))),
        ("debug console", Box::new(debug_console::DebugConsole::new(sink()))),
        ("testdev ports", Box::new(testdev::TestPorts::new(memory))),
        ("testdev memory", Box::new(testdev::TestMemory::new())),
        ("probe cells", Box::new(probe::Cells::new(crate::bus::Width::Byte))),
    ]
}

#[test]
fn state_of_each_device_is_taken_by_another_and_no_other_is() {
    for ((name, mut one), (_, mut other)) in devices().into_iter().zip(devices()) {
        let state = one.save().unwrap();
        other.restore(state.clone()).unwrap();
        assert_eq!(other.save().unwrap(), state, "{name}");
        assert!(other.restore(serde_json::json!({ "no": "state" })).is_err(), "{name}");
    }
}

/// The form of what is saved goes with [`SCHEMA`]: when this fails for a change of yours, count that up and put the new sum here.
#[test]
fn form_of_a_snapshot_has_not_changed_without_its_version() {
    let mut keys = Vec::new();
    let mut state = serde_json::to_value(state()).unwrap();
    state["config"] = Value::Null;
    shape(&state, "", &mut keys);
    for (name, mut device) in devices() {
        shape(&device.save().unwrap(), name, &mut keys);
    }
    keys.sort();
    let sum = Checksum::of(keys.join("\n").as_bytes()).to_string();
    assert_eq!((SCHEMA, sum.as_str()), (3, "66579d4c6acfeb26"), "{keys:#?}");
}
