//! Nudges: what keeps an interrupt that the emulator loses from stopping the lab for ever.
//!
//! QEMU's thread for a processor clears a bit of that processor's pending requests by itself when a nested guest is entered or left
//! (`CPU_INTERRUPT_VIRQ`, target/i386/tcg/sysemu/svm_helper.c), and its main thread sets another one of the same word for each
//! interrupt; one of the two writes can be lost. If that is the tick of the lab's kernel while a guest spins, nothing ever
//! takes the processor from that guest again (seen with 7.2, in one of some hundred guests, as a lab that stands still with
//! its processor busy). Any later interrupt makes it look at all that are pending: a byte to its agent is one.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::LabError;
use crate::agent::Client;

/// How long the lab may stand still for that.
const PERIOD: Duration = Duration::from_millis(250);

/// Nudges a lab until it is dropped.
pub(super) struct Nudges {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Nudges {
    pub(super) fn begin(client: Client) -> Result<Self, LabError> {
        let (end, ended) = mpsc::channel::<()>();
        let nudge = move || {
            while ended.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                if client.nudge().is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("nudges".to_owned()).spawn(nudge);
        Ok(Self { end: Some(end), thread: Some(thread.map_err(LabError::host("start a thread"))?) })
    }
}

impl Drop for Nudges {
    fn drop(&mut self) {
        self.end.take();
        // The lab has ended before: no nudge waits for it.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}
