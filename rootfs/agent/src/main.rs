//! kiln-agent: PID 1 of a guest, or one of its services; does what the host asks over a virtio port.

mod adoption;
mod assertions;
mod boot;
mod console;
mod descriptors;
mod echo;
mod port;
mod power;
mod server;
mod spawn;
mod system;
mod text;
mod window;

use std::io;
use std::process::ExitCode;

use crate::server::{Ending, Ground};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The kernel hands words of its command line to PID 1: as PID 1 they are not for us.
    let init = std::process::id() == 1;
    match arguments.as_slice() {
        _ if init => run(true),
        [] => run(false),
        ["assert"] => assertions::run(),
        ["echo"] => ended(echo::stdin()),
        ["echo", terminal, count] => {
            let count = count.parse().map_err(|_| io::ErrorKind::InvalidInput.into());
            ended(count.and_then(|count| echo::terminal(terminal, count)))
        }
        ["window"] => ended(window::follow()),
        ["serve", "--socket-fd", number] => serve(number),
        ["--version"] => {
            println!("kiln-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "kiln-agent: unknown arguments; usage: kiln-agent [assert | echo [TERMINAL BYTES] | window | --version]"
            );
            ExitCode::from(2)
        }
    }
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kiln-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The guest's agent: ends with the guest.
fn run(init: bool) -> ExitCode {
    let mut warnings = boot::Warnings::default();
    if init {
        boot::prepare(&mut warnings);
    }
    if let Err(error) = descriptors::reserve() {
        warnings.add(format!("descriptor 3 is not kept free for events: {error}"));
    }
    let kernel = system::kernel_release();
    console::say(&format!("hello, version {}, kernel {kernel}", env!("CARGO_PKG_VERSION")));
    for warning in warnings.list() {
        console::say(&format!("warning: {warning}"));
    }
    match port::find() {
        Ok(port) => match server::serve(port, warnings.into_list(), Ground::Guest) {
            Ok(Ending::Asked | Ending::HostGone) => {}
            Err(error) => console::say(&format!("the connection to the host ended: {error}")),
        },
        Err(missing) => {
            console::say(&format!("no port: {missing}"));
            // Somebody else is in charge of the guest, and may do without a host.
            if !init {
                return ExitCode::FAILURE;
            }
        }
    }
    power::off()
}

/// The port's part alone, on an inherited stream socket: how the agent is tested without a guest.
fn serve(number: &str) -> ExitCode {
    let ended = descriptors::inherited(number)
        .and_then(|port| descriptors::reserve().map(|()| port))
        .map_err(server::ServeError::Io)
        .and_then(|port| server::serve(port, Vec::new(), Ground::Elsewhere));
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kiln-agent: the connection to the host ended: {error}");
            ExitCode::FAILURE
        }
    }
}
