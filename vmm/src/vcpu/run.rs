//! One `KVM_RUN`, and what comes of it.

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::access::Accesses;
use super::exit;
use super::guest_debug::{DebugStop, TRAP_PORT};
use super::kick;
use super::pages::SharedPages;
use super::stops::End;
use super::thread::Outside;
use crate::bus::Seen;
use crate::config::BusKind;
use crate::outcome::Outcome;
use crate::trace::{ExitKind, Recorder};

/// `-KVM_ENOSYS`: what a guest gets for a hypercall that its hypervisor does not have.
const NO_SUCH_HYPERCALL: u64 = (-1000i64).cast_unsigned();
/// `kvm_run.notify.flags`: what KVM has of the guest's state is not valid any more.
const NOTIFY_CONTEXT_INVALID: u32 = 1;

/// What comes of an exit.
pub(super) enum Next {
    /// Back into the guest.
    GoOn,
    /// The host called the vCPU back.
    Called,
    /// A breakpoint or a single step.
    Debug(DebugStop),
    /// A byte is to be written to [`TRAP_PORT`], which may be a breakpoint.
    Trap(u8),
    /// The machine ends: how, and what KVM said.
    End(Outcome, String),
}

/// Has KVM complete the access that the vCPU of a machine which has ended may be in the middle of, without entering the guest.
/// Says whether that came to an end.
pub(super) fn complete(vcpu: &mut VcpuFd) -> bool {
    /// An access that crosses pages comes in this many parts at most, and then some.
    const PARTS: usize = 16;
    let ended = (0..PARTS).any(|_| {
        kick::call_back(vcpu);
        vcpu.run().is_err_and(|error| error.errno() == libc::EINTR)
    });
    kick::heard(vcpu);
    ended
}

/// Enters the guest, and handles what made it leave.
pub(super) fn once(
    vcpu: &mut VcpuFd,
    index: u32,
    outside: &Outside,
    mmio: &mut Seen,
    recorder: &mut Recorder,
) -> Next {
    let exit = vcpu.run();
    // The bus as it is by now: the guest may have been in there for hours.
    let mut accesses = outside.accesses(mmio, recorder);
    // What the guest wrote before it left comes first.
    outside.drain(&mut accesses);
    if let Some((outcome, why)) = accesses.end {
        return Next::End(outcome, why);
    }
    let exit = match exit {
        Ok(exit) => exit,
        Err(error) => {
            return match error.errno() {
                libc::EINTR => {
                    accesses.recorder.exit(ExitKind::Intr);
                    Next::Called
                }
                // A vCPU that waited for its start-up interrupt got it.
                libc::EAGAIN => Next::GoOn,
                errno => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    let error = format!("KVM_RUN of vCPU {index}: {error}");
                    Next::End(Outcome::MachineFailed { error: error.clone() }, error)
                }
            };
        }
    };
    let kind = exit::kind(&exit);
    accesses.recorder.exit(kind);
    let named = |outcome| Next::End(outcome, kind.name().to_owned());
    match exit {
        VcpuExit::IoIn(port, data) => {
            let data: *mut [u8] = data;
            let Some(size) = port_io_size(vcpu, &outside.pages) else {
                return unexpected(index, format!("{} with its data past the shared pages", kind.name()));
            };
            // SAFETY: `data` is what the exit handed out: bytes of the page that KVM shares with this vCPU, all
            // of them in the mapping (`port_io_size`), which lives as long as `vcpu`. The exit's own borrow is over, and nothing else touches them until the
            // next `KVM_RUN`.
            #[allow(unsafe_code)]
            let data = unsafe { &mut *data };
            for element in data.chunks_exact_mut(size) {
                accesses.read(index, BusKind::Pio, port.into(), element);
            }
        }
        VcpuExit::IoOut(TRAP_PORT, [value]) => return Next::Trap(*value),
        VcpuExit::IoOut(port, data) => {
            let data: *const [u8] = data;
            let Some(size) = port_io_size(vcpu, &outside.pages) else {
                return unexpected(index, format!("{} with its data past the shared pages", kind.name()));
            };
            // SAFETY: as above, and nothing writes them.
            #[allow(unsafe_code)]
            let data = unsafe { &*data };
            for element in data.chunks_exact(size) {
                accesses.write(Some(index), BusKind::Pio, port.into(), element);
            }
        }
        VcpuExit::MmioRead(address, data) => accesses.read(index, BusKind::Mmio, address, data),
        VcpuExit::MmioWrite(address, data) => accesses.write(Some(index), BusKind::Mmio, address, data),
        VcpuExit::Intr => return Next::Called,
        // Only a machine without interrupt controllers sees this one: nothing can ever wake the processor.
        VcpuExit::Hlt => return named(Outcome::Halted),
        VcpuExit::Shutdown => return named(Outcome::TripleFault { cpu: index }),
        VcpuExit::FailEntry(reason, cpu) => {
            let why = format!("{}, reason {reason:#x} on the host's processor {cpu}", kind.name());
            return Next::End(Outcome::FailEntry { cpu: index, reason }, why);
        }
        VcpuExit::InternalError => {
            let (suberror, why) = exit::internal_error(vcpu);
            return Next::End(Outcome::InternalError { cpu: index, suberror }, why);
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => return named(Outcome::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => return named(Outcome::Reset),
        VcpuExit::Debug(debug) => {
            let (exception, pc, dr6, dr7) = (debug.exception, debug.pc, debug.dr6, debug.dr7);
            return Next::Debug(DebugStop { cpu: index, exception, pc, dr6, dr7 });
        }
        // Registers that the host keeps: it keeps none, and the guest gets its #GP.
        VcpuExit::X86Rdmsr(msr) => *msr.error = 1,
        VcpuExit::X86Wrmsr(msr) => *msr.error = 1,
        VcpuExit::Hypercall(call) => *call.ret = NO_SUCH_HYPERCALL,
        // Told for information: nothing waits for an interrupt window, the task priority is nobody's here, an I/O
        // APIC of the host's own would be told of EOIs, the host has taken its NMI, and a locked bus is a guest's right.
        VcpuExit::IrqWindowOpen
        | VcpuExit::SetTpr
        | VcpuExit::TprAccess
        | VcpuExit::IoapicEoi(_)
        | VcpuExit::Nmi => {}
        VcpuExit::Unsupported(reason) => {
            let harmless = match kind {
                ExitKind::X86BusLock => true,
                ExitKind::Notify => notify_flags(vcpu) & NOTIFY_CONTEXT_INVALID == 0,
                _ => false,
            };
            if !harmless {
                return unexpected(index, exit::describe(&VcpuExit::Unsupported(reason)));
            }
        }
        other => return unexpected(index, exit::describe(&other)),
    }
    match accesses.end {
        Some((outcome, why)) => Next::End(outcome, why),
        None => Next::GoOn,
    }
}

impl Outside {
    /// What carries out accesses to the devices where they are now.
    #[inline]
    fn accesses<'a>(&'a self, mmio: &'a mut Seen, recorder: &'a mut Recorder) -> Accesses<'a> {
        let (pio, mmio) = (&self.buses.pio, mmio.fresh(&self.buses.mmio));
        Accesses { pio, mmio, unclaimed: &self.unclaimed, recorder, end: None }
    }

    /// Hands over the writes that KVM has collected.
    #[inline]
    fn drain(&self, accesses: &mut Accesses<'_>) {
        if let Some(ring) = &self.ring {
            ring.take(|bus, address, data| accesses.write(None, bus, address, data));
        }
    }

    /// Moves the windows whose devices asked for it, after what was written to them where they were. It fails
    /// with how that ends the machine, if it does.
    #[cold]
    pub(super) fn settle(&self, mmio: &mut Seen, recorder: &mut Recorder) -> Result<(), End> {
        let mut end = None;
        let settled = self.buses.map.settle(|| {
            let mut accesses = self.accesses(mmio, recorder);
            self.drain(&mut accesses);
            end = accesses.end;
        });
        if let Err(error) = settled {
            let error = crate::chain(&error);
            end = Some((Outcome::MachineFailed { error: error.clone() }, error));
        }
        end.map_or(Ok(()), Err)
    }

    /// Carries out a vCPU's write of a byte to a port. It fails with how that ends the machine, if it does.
    #[cold]
    pub(super) fn write_port(
        &self,
        mmio: &mut Seen,
        recorder: &mut Recorder,
        (cpu, port): (u32, u16),
        value: u8,
    ) -> Result<(), End> {
        let mut accesses = self.accesses(mmio, recorder);
        accesses.write(Some(cpu), BusKind::Pio, port.into(), &[value]);
        accesses.end.map_or(Ok(()), Err)
    }
}

/// The end of a machine that has no answer to an exit.
fn unexpected(cpu: u32, exit: String) -> Next {
    Next::End(Outcome::UnexpectedExit { cpu, exit: exit.clone() }, exit)
}

/// The width of each element of a port access: a `rep` instruction comes as one exit with many. None where they do
/// not all lie in the pages that are mapped.
fn port_io_size(vcpu: &mut VcpuFd, pages: &SharedPages) -> Option<usize> {
    // SAFETY: the exit was `KVM_EXIT_IO`, for which `io` is the union's valid member.
    #[allow(unsafe_code)]
    let io = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io };
    pages.holds_port_data(io.data_offset, io.size, io.count).then(|| usize::from(io.size).max(1))
}

fn notify_flags(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: the exit was `KVM_EXIT_NOTIFY`, for which `notify` is the union's valid member.
    #[allow(unsafe_code)]
    unsafe {
        vcpu.get_kvm_run().__bindgen_anon_1.notify.flags
    }
}
