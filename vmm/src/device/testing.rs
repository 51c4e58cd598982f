//! What the devices' unit tests stand on instead of a machine.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::irq::Interrupt;
use crate::outcome::{Outcome, PowerSwitch};

/// A power switch, and a way to ask how the machine behind it ended.
pub(super) fn power_switch() -> (PowerSwitch, impl Fn() -> Option<Outcome>) {
    let power = PowerSwitch::new();
    let ended = power.clone();
    (power, move || ended.outcome())
}

/// An interrupt line that counts its edges.
#[derive(Default)]
pub(super) struct Edges(AtomicU32);

impl Edges {
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Interrupt for Edges {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// An interrupt line that is broken.
pub(super) struct Broken;

impl Interrupt for Broken {
    fn trigger(&self) -> io::Result<()> {
        Err(io::Error::other("no line"))
    }
}

/// A writer that keeps each write apart, as a pipe's reader would see system calls.
#[derive(Clone, Default)]
pub(super) struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

impl Writes {
    pub(super) fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.all().concat()
    }
}

impl Write for Writes {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(data.to_vec());
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
