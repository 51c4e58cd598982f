//! The end of the guest.

use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

/// Ends the guest; returns only if the kernel does not let it.
pub(crate) fn off() -> ExitCode {
    rustix::fs::sync();
    end_all();
    rustix::fs::sync();
    crate::console::drain();
    // A kernel without ACPI would halt for ever: a restart ends the machine too.
    let command = if Path::new("/sys/firmware/acpi/tables").exists() {
        RebootCommand::PowerOff
    } else {
        RebootCommand::Restart
    };
    let _ = reboot(command);
    let _ = reboot(RebootCommand::Restart);
    crate::console::say("the guest can't be powered off");
    ExitCode::FAILURE
}

/// Ends every process but this one and PID 1.
fn end_all() {
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(id) = id.filter(|&id| id != 1 && id != own) else { continue };
        if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            // Kernel threads don't mind.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
