//! `kiln-vmm`: the machine as a command.
fn main() {}
