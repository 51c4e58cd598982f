//! The UART's state: the chip's, and the input that waits for it. Output that was held back is passed on before.

use std::mem;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vm_superio::Serial;
use vm_superio::serial::{NoEvents, SerialState};

use super::{INPUT_MAX, Line, Output, Uart};
use crate::snapshot::persist::{from_value, to_value};
use crate::snapshot::{Persist, PersistError};
use crate::vcpu::state::hex;

/// The registers by their names, and bytes that wait.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    /// The receiver's FIFO.
    #[serde(with = "hex::bytes")]
    fifo: Vec<u8>,
    /// What the FIFO had no room for.
    #[serde(with = "hex::bytes")]
    waiting: Vec<u8>,
    /// Which of those are breaks, by their places.
    breaks: Vec<u64>,
    /// The byte in the receiver buffer is a break that the guest has not seen.
    broken: bool,
}

impl Persist for Uart {
    fn save(&mut self) -> Result<Value, PersistError> {
        self.flush();
        let chip = self.chip.state();
        to_value(State {
            divisor: [chip.baud_divisor_low, chip.baud_divisor_high],
            interrupt_enable: chip.interrupt_enable,
            interrupt_identification: chip.interrupt_identification,
            line_control: chip.line_control,
            line_status: chip.line_status,
            modem_control: chip.modem_control,
            modem_status: chip.modem_status,
            scratch: chip.scratch,
            fifo: chip.in_buffer,
            waiting: self.waiting.iter().copied().collect(),
            breaks: self.breaks.iter().map(|at| at.saturating_sub(self.taken)).collect(),
            broken: self.broken,
        })
    }

    fn restore(&mut self, state: Value) -> Result<(), PersistError> {
        let own: State = from_value(state)?;
        let refused = |what: &str| PersistError::Refused(what.to_owned());
        let [baud_divisor_low, baud_divisor_high] = own.divisor;
        if own.waiting.len() > INPUT_MAX {
            return Err(refused("more input waits than can"));
        }
        let places = u64::try_from(own.waiting.len()).unwrap_or(0);
        if !own.breaks.is_sorted() || own.breaks.last().is_some_and(|last| *last >= places) {
            return Err(refused("a break is no byte of the input that waits"));
        }
        let chip = SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: own.interrupt_enable,
            interrupt_identification: own.interrupt_identification,
            line_control: own.line_control,
            line_status: own.line_status,
            modem_control: own.modem_control,
            modem_status: own.modem_status,
            scratch: own.scratch,
            in_buffer: own.fifo,
        };
        let line = || Line(self.line.clone());
        let blank = Serial::new(line(), Output::new(Box::new(std::io::sink())));
        let output = mem::replace(&mut self.chip, blank).into_writer();
        // It raises the interrupts that were pending.
        self.chip = Serial::from_state(&chip, line(), NoEvents, output)
            .map_err(|_| refused("the FIFO has more bytes than it can"))?;
        self.waiting = own.waiting.into();
        (self.taken, self.breaks, self.broken) = (0, own.breaks.into(), own.broken);
        Ok(())
    }
}
