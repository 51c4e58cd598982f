//! One client, from its first packet to its last.

use std::io::{self, Read};
use std::sync::Arc;

use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{BaseStopReason, DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};

use super::target::{DebuggedMachine, Mailbox};
use super::wire::{Out, PACKET, Packets, Stream, Words};
use crate::outcome::Outcome;
use crate::vcpu::{ControlError, Controller, Owner};

type Gdb = GdbStubStateMachine<'static, DebuggedMachine, Out<Stream>>;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the client left")]
    Left,
    #[error("the machine has ended")]
    Ended,
    #[error("the client has killed the machine")]
    Killed,
    #[error("the session could not go on: {0}")]
    Protocol(#[from] GdbStubError<ControlError, io::Error>),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A client, and the machine that it has stopped once it has said a word.
pub(super) struct Session {
    pub(super) stream: Stream,
    packets: Packets,
    debugged: Option<(Gdb, DebuggedMachine)>,
}

impl Session {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, packets: Packets::default(), debugged: None }
    }

    /// Takes what the client has sent.
    pub(super) fn read(
        &mut self,
        controller: &Controller,
        owner: &Owner,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Over> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Err(Over::Left);
        }
        for byte in bytes.into_iter().take(count) {
            let Some(packet) = self.packets.push(byte)? else { continue };
            let (mut gdb, mut machine) = match self.debugged.take() {
                Some(debugged) => debugged,
                None => {
                    let (words, mailbox) = (Words::default(), mailbox.clone());
                    let out = Out::new(self.stream.try_clone()?, words.clone());
                    let mut machine =
                        DebuggedMachine::attach(controller.clone(), owner.clone(), mailbox, words)?;
                    (begin(out, &mut machine)?, machine)
                }
            };
            for byte in packet {
                gdb = take(gdb, &mut machine, byte)?;
            }
            self.debugged = Some((look(gdb, &mut machine)?, machine));
        }
        Ok(())
    }

    /// Looks whether the machine has stopped or ended, and says so to a client that waits for it.
    pub(super) fn look(&mut self) -> Result<(), Over> {
        if let Some((gdb, mut machine)) = self.debugged.take() {
            self.debugged = Some((look(gdb, &mut machine)?, machine));
        }
        Ok(())
    }
}

fn begin(out: Out<Stream>, machine: &mut DebuggedMachine) -> Result<Gdb, Over> {
    let stub = GdbStub::builder(out).packet_buffer_size(PACKET).build();
    let stub = stub.map_err(|error| Over::Io(io::Error::other(error)))?;
    Ok(stub.run_state_machine(machine)?)
}

/// Takes one byte of a client's.
fn take(gdb: Gdb, machine: &mut DebuggedMachine, byte: u8) -> Result<Gdb, Over> {
    let gdb = match gdb {
        Gdb::Idle(idle) => idle.incoming_data(machine, byte)?,
        Gdb::Running(running) => running.incoming_data(machine, byte)?,
        other => other,
    };
    match gdb {
        Gdb::CtrlCInterrupt(interrupted) => {
            let reason = match machine.running().then(|| machine.halt()) {
                // What there is to say of its end comes with the next look.
                None | Some(Err(ControlError::Ended)) => None,
                Some(reason) => Some(reason?),
            };
            Ok(interrupted.interrupt_handled(machine, reason)?)
        }
        Gdb::Disconnected(over) => Err(match over.get_reason() {
            DisconnectReason::Kill => {
                machine.controller.stop();
                Over::Killed
            }
            _ => Over::Left,
        }),
        other => Ok(other),
    }
}

fn look(gdb: Gdb, machine: &mut DebuggedMachine) -> Result<Gdb, Over> {
    let Gdb::Running(mut running) = gdb else { return Ok(gdb) };
    match machine.stopped() {
        Ok(None) => {}
        Ok(Some(reason)) => return Ok(running.report_stop(machine, reason)?),
        Err(ControlError::Ended) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(outcome) = machine.controller.outcome() else { return Ok(Gdb::Running(running)) };
    let (reason, words) = end(&outcome);
    running.borrow_conn().say(&format!("kiln: {words}\n"))?;
    running.report_stop(machine, reason)?;
    Err(Over::Ended)
}

/// A machine's end as gdb knows ends, and in words.
fn end(outcome: &Outcome) -> (MultiThreadStopReason<u64>, String) {
    use BaseStopReason::{Exited, Terminated};
    let text = |text: &str| text.to_owned();
    match outcome {
        Outcome::PowerOff => (Exited(0), text("the guest powered off")),
        Outcome::DebugExit { value: 0 } => (Exited(0), text("the guest passed")),
        Outcome::DebugExit { value } => {
            let [status, ..] = value.wrapping_mul(2).wrapping_add(1).to_le_bytes();
            (Exited(status), format!("the guest exited with {value}"))
        }
        Outcome::Reset => (Exited(1), text("the guest reset")),
        Outcome::Halted => (Exited(1), text("every vCPU halted with interrupts off")),
        Outcome::Panicked => (Terminated(Signal::SIGABRT), text("the guest panicked")),
        Outcome::TripleFault { cpu } => (Terminated(Signal::SIGSEGV), format!("triple fault of vCPU {cpu}")),
        Outcome::Stopped => (Terminated(Signal::SIGTERM), text("the machine was ended from outside")),
        other => (Terminated(Signal::SIGABRT), format!("the machine failed: {other:?}")),
    }
}
