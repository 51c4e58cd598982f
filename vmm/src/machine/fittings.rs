//! What a machine has beside its vCPUs, looked after while it runs and ended with it.

use std::sync::{Arc, Mutex, PoisonError};

use super::outlet::{Drain, LostOutput};
use super::unclaimed::UnclaimedTeller;
use crate::control::Served;
use crate::device::uart::Uart;
use crate::event_loop::EventLoop;
use crate::virtio::mmio::MmioTransport;

/// The parts of a machine that its owner has to look after.
pub(super) struct Fittings {
    pub(super) uart: Arc<Mutex<Uart>>,
    pub(super) virtio: Vec<Arc<Mutex<MmioTransport>>>,
    pub(super) drains: Vec<Drain>,
    pub(super) teller: UnclaimedTeller,
    // In this order: what is served ends before the loop that serves it.
    pub(super) served: Option<Served>,
    pub(super) events: Option<Arc<EventLoop>>,
}

impl Fittings {
    /// Passes on what may be held back; to be called now and then.
    pub(super) fn look(&mut self) {
        // A UART that is busy is not silent.
        if let Ok(mut uart) = self.uart.try_lock() {
            uart.flush();
        }
        for drain in &self.drains {
            drain.look();
        }
        self.teller.look();
    }

    /// Ends all of it, once no vCPU runs any more: what was said on the way is out before this returns, or is told to be lost.
    pub(super) fn end(&mut self) -> Vec<LostOutput> {
        for transport in &self.virtio {
            transport.lock().unwrap_or_else(PoisonError::into_inner).stop();
        }
        let mut uart = self.uart.lock().unwrap_or_else(PoisonError::into_inner);
        uart.close_input();
        uart.flush();
        drop(uart);
        let lost = self.drains.iter().filter_map(Drain::finish).collect();
        self.teller.finish();
        if let Some(served) = self.served.take() {
            served.finish();
        }
        lost
    }
}
