//! A bus whose devices may move: what a vCPU sees of it is a whole at any time, and costs it a load an exit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::table::Bus;

/// The bus as it is now. Who changes it publishes another.
#[derive(Default)]
pub(crate) struct Published {
    /// How often it has been published.
    generation: AtomicU64,
    now: Mutex<Arc<Bus>>,
}

impl Published {
    /// The bus as it is now.
    pub(crate) fn now(&self) -> Arc<Bus> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has `bus` take its place. A vCPU sees it from its next exit on.
    pub(crate) fn publish(&self, bus: Bus) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(bus);
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// What one vCPU sees of it.
pub(crate) struct Seen {
    generation: u64,
    bus: Arc<Bus>,
}

impl Seen {
    pub(crate) fn new(published: &Published) -> Self {
        // Before the bus: one that is published in between is then looked at again.
        let generation = published.generation.load(Ordering::Acquire);
        Self { generation, bus: published.now() }
    }

    /// The bus as it is now.
    #[inline]
    pub(crate) fn fresh(&mut self, published: &Published) -> &Bus {
        if published.generation.load(Ordering::Acquire) != self.generation {
            *self = Self::new(published);
        }
        &self.bus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_is_seen_as_it_was_published_last() {
        let published = Published::default();
        let mut seen = Seen::new(&published);
        assert!(seen.fresh(&published).read(0x10, &mut [0; 4]).nobodys);
        let mut bus = Bus::new();
        let device = Arc::new(Mutex::new(crate::device::post::Post::new()));
        bus.insert("POST", (0x10, 4), device).unwrap();
        published.publish(bus.clone());
        assert!(!seen.fresh(&published).read(0x10, &mut [0; 4]).nobodys);
        assert!(bus.remove(0x10));
        published.publish(bus);
        assert!(seen.fresh(&published).read(0x10, &mut [0; 4]).nobodys);
    }
}
