//! One `KVM_RUN`, and what comes of it.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::thread::Buses;
use crate::outcome::Outcome;
use crate::trace::{ExitKind, Note, Recorder};

/// What comes of an exit.
pub(super) enum Next {
    /// Back into the guest.
    GoOn,
    /// The host called the vCPU back.
    Called,
    /// The machine ends.
    End(Outcome),
}

/// Enters the guest, and handles what made it leave.
pub(super) fn once(vcpu: &mut VcpuFd, index: u32, buses: &Buses, recorder: &mut Recorder) -> Next {
    let unexpected = |exit: String| Next::End(Outcome::UnexpectedExit { cpu: index, exit });
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => {
            return match error.errno() {
                libc::EINTR => {
                    recorder.exit(ExitKind::Intr);
                    Next::Called
                }
                // A vCPU that waited for its start-up interrupt got it.
                libc::EAGAIN => Next::GoOn,
                errno => Next::End(Outcome::MachineFailed {
                    error: format!("KVM_RUN of vCPU {index}: {}", std::io::Error::from_raw_os_error(errno)),
                }),
            };
        }
    };
    match exit {
        VcpuExit::IoIn(port, data) => {
            let data: *mut [u8] = data;
            recorder.exit(ExitKind::IoIn);
            let size = port_io_size(vcpu);
            // SAFETY: `data` is what the exit handed out: bytes of the page that KVM shares with this vCPU, which
            // live as long as `vcpu`. The exit's own borrow is over, and nothing else touches them until the
            // next `KVM_RUN`.
            #[allow(unsafe_code)]
            let data = unsafe { &mut *data };
            for element in data.chunks_exact_mut(size) {
                let device = buses.pio.read(port.into(), element).cloned();
                recorder.access(note(device, (true, false), port.into(), element));
            }
        }
        VcpuExit::IoOut(port, data) => {
            let data: *const [u8] = data;
            recorder.exit(ExitKind::IoOut);
            let size = port_io_size(vcpu);
            // SAFETY: as above, and nothing writes them.
            #[allow(unsafe_code)]
            let data = unsafe { &*data };
            for element in data.chunks_exact(size) {
                let device = buses.pio.write(port.into(), element).cloned();
                recorder.access(note(device, (true, true), port.into(), element));
            }
        }
        VcpuExit::MmioRead(address, data) => {
            recorder.exit(ExitKind::MmioRead);
            let device = buses.mmio.read(address, data).cloned();
            recorder.access(note(device, (false, false), address, data));
        }
        VcpuExit::MmioWrite(address, data) => {
            recorder.exit(ExitKind::MmioWrite);
            let device = buses.mmio.write(address, data).cloned();
            recorder.access(note(device, (false, true), address, data));
        }
        // Without a local APIC nobody asks what the task priority is.
        VcpuExit::SetTpr => recorder.exit(ExitKind::Other),
        // Only a machine without interrupt controllers sees this one: nothing can ever wake the processor.
        VcpuExit::Hlt => {
            recorder.exit(ExitKind::Hlt);
            return Next::End(Outcome::Halted);
        }
        VcpuExit::Shutdown => {
            recorder.exit(ExitKind::Shutdown);
            return Next::End(Outcome::TripleFault { cpu: index });
        }
        VcpuExit::FailEntry(reason, cpu) => {
            recorder.exit(ExitKind::FailEntry);
            return Next::End(Outcome::FailEntry { cpu, reason });
        }
        VcpuExit::InternalError => {
            recorder.exit(ExitKind::InternalError);
            // SAFETY: for this exit reason `internal` is the union's valid member, and any bytes are a number.
            #[allow(unsafe_code)]
            let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
            return Next::End(Outcome::InternalError { cpu: index, suberror });
        }
        VcpuExit::SystemEvent(event, _) => {
            recorder.exit(ExitKind::SystemEvent);
            return match event {
                KVM_SYSTEM_EVENT_SHUTDOWN => Next::End(Outcome::PowerOff),
                KVM_SYSTEM_EVENT_RESET => Next::End(Outcome::Reset),
                other => unexpected(format!("KVM_EXIT_SYSTEM_EVENT of type {other}")),
            };
        }
        VcpuExit::Intr => {
            recorder.exit(ExitKind::Intr);
            return Next::Called;
        }
        other => {
            recorder.exit(ExitKind::Other);
            return unexpected(format!("{other:?}"));
        }
    }
    Next::GoOn
}

/// The width of each element of a port access: a `rep` instruction comes as one exit with many.
fn port_io_size(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: the exit was `KVM_EXIT_IO`, for which `io` is the union's valid member.
    #[allow(unsafe_code)]
    let size = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

fn note(device: Option<Arc<str>>, (pio, write): (bool, bool), address: u64, data: &[u8]) -> Note {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(data) {
        *to = *from;
    }
    let width = u8::try_from(data.len()).unwrap_or(u8::MAX);
    Note { device, pio, write, address, width, value: u64::from_le_bytes(value) }
}
