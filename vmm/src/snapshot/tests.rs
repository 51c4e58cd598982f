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
