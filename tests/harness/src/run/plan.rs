//! What a run is to do, decided in full before it starts.

use std::time::Duration;

use kiln_vmm::config::MachineConfig;
use serde::{Deserialize, Serialize};

use crate::agent::TerminalSize;

/// A run with every choice made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The exact machine. Its first named port is the agent's.
    pub machine: MachineConfig,
    /// The limit on the machine's clock, from its creation to its end.
    pub timeout: Duration,
    /// What happens in the guest.
    pub task: Task,
    /// Whether the guest's console is passed on as it comes.
    pub show_console: bool,
    /// Whether what the kernel reports short of a panic is no verdict.
    #[serde(default)]
    pub allow_warning: bool,
    /// Whether a machine whose run fails is left running until somebody ends it.
    #[serde(default)]
    pub hold: bool,
}

impl Plan {
    /// Whether a command runs on a terminal in the guest.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        matches!(&self.task, Task::Command(CommandPlan { terminal: Some(_), .. }))
    }
}

/// What happens in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// The guest boots to its agent's hello, and is powered off.
    Boot,
    /// The guest is left to itself until it ends; the machine has no agent to talk to. What comes in is typed on its
    /// console.
    Watch,
    /// The guest boots to its agent's hello, and what comes in is typed on its console; it ends by itself. If nothing
    /// comes in, it is powered off.
    Console {
        /// What the console shows when the guest is ready to be typed to; what was typed before would be lost.
        prompt: Option<String>,
    },
    /// A command runs, and its exit status is what counts.
    Command(CommandPlan),
    /// The agent's own assertions run.
    Assert,
}

/// A command in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandPlan {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What is set in its environment beside the agent's own defaults.
    pub env: Vec<(String, String)>,
    /// Its working directory; the root folder if none is given.
    pub cwd: Option<String>,
    /// The size of its terminal's window, if it runs on a terminal.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// The kernel's command line: what every guest needs, then what the caller adds.
///
/// `cryptomgr.notests` leaves out the kernel's self-tests of its ciphers, which are more than half of a
/// distribution kernel's boot; appending `cryptomgr.notests=0` puts them back. `iomem=relaxed` lets
/// assertions reach device registers that a driver has claimed.
#[must_use]
pub fn cmdline(machine: &MachineConfig, append: &str) -> String {
    let mut line = format!(
        "console=ttyS0 loglevel=5 panic=-1 reboot=k iomem=relaxed cryptomgr.notests kiln.cpus={} kiln.mem={}M",
        machine.cpus,
        machine.memory >> 20
    );
    if !append.is_empty() {
        line.push(' ');
        line.push_str(append);
    }
    line
}
