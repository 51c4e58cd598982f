//! What a run came to.

use kiln_vmm::outcome::Outcome;
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;

/// What a run came to: `report.json` in its directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The one verdict.
    pub verdict: Verdict,
    /// Whether the kernel panicked, first or after the report that names the verdict.
    pub panicked: bool,
    /// The header line of the kernel's first report.
    pub kernel_report: Option<String>,
    /// Every assertion that ran, in order.
    pub assertions: Vec<Assertion>,
    /// The command's exit status (128+N for one killed by signal N).
    pub status: Option<u8>,
    /// How the machine ended; none if it never started.
    pub outcome: Option<Outcome>,
    /// Milliseconds on the machine's clock from its creation to the agent's hello.
    pub hello_ms: Option<f64>,
    /// The guest's kernel release, as its agent told it.
    pub kernel: Option<String>,
    /// KVM exits of all vCPUs.
    pub exits: u64,
    /// What went wrong besides, in one line.
    pub error: Option<String>,
    /// The console's last lines.
    pub tail: Vec<String>,
    /// Where each vCPU stood when it ended, in words, unless it ended as it should.
    #[serde(default)]
    pub vcpus: Vec<String>,
}

/// One assertion that ran in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// Its name, a module path.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// What was seen, when it did not.
    #[serde(default)]
    pub message: String,
}

impl Report {
    /// The report of a run whose machine could not be had, or was lost from outside.
    #[must_use]
    pub fn without_machine(verdict: Verdict, error: String) -> Self {
        Self {
            verdict,
            panicked: false,
            kernel_report: None,
            assertions: Vec::new(),
            status: None,
            outcome: None,
            hello_ms: None,
            kernel: None,
            exits: 0,
            error: Some(error),
            tail: Vec::new(),
            vcpus: Vec::new(),
        }
    }

    /// How many assertions failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.assertions.iter().filter(|a| !a.ok).count()
    }

    /// Why it did not pass, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        let detail =
            self.error.clone().or_else(|| self.kernel_report.clone()).or_else(|| {
                self.assertions.iter().find(|a| !a.ok).map(|a| format!("{}: {}", a.name, a.message))
            });
        detail.map_or_else(|| self.verdict.to_string(), |detail| format!("{}: {detail}", self.verdict))
    }
}
