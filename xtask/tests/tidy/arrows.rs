//! Which of our crates may depend on which.

use serde_json::Value;

/// Each crate with those that it may depend on. Dev-dependencies are free.
const ARROWS: &[(&str, &[&str])] = &[
    ("kiln-protocol", &[]),
    ("kiln-macros", &[]),
    ("kiln-agent", &["kiln-protocol"]),
    ("kiln-fixtures", &["kiln-protocol"]),
    ("kiln-vmm", &["kiln-protocol"]),
    ("kiln-rootfs", &["kiln-protocol"]),
    ("kiln", &["kiln-fixtures", "kiln-macros", "kiln-protocol", "kiln-rootfs", "kiln-vmm"]),
    ("kiln-suites", &["kiln"]),
    ("xtask", &["kiln"]),
];

/// What goes against the arrows in the answer of `cargo metadata`.
pub(crate) fn faults(metadata: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
            faults.push(format!(
                "{name} is no crate of the design: write its arrows down here and in ARCHITECTURE.md"
            ));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let ours = !dependency["path"].is_null();
            let on = text(&dependency["name"]);
            if ours && dependency["kind"] != "dev" && !allowed.contains(&on) {
                faults.push(format!("{name} → {on}"));
            }
        }
    }
    faults
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
