//! What is measured, as plain data that goes into the lab.

use serde::{Deserialize, Serialize};

/// One thing to start and watch: a VMM with a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contender {
    /// The VMM, as the table names it.
    pub(crate) vmm: String,
    /// The guest, as the table names it: `null`, `elf` or `bzImage`.
    pub(crate) guest: String,
    /// The program and its arguments. `{agent}` stands for a fresh socket path where the agent's port is offered.
    pub(crate) argv: Vec<String>,
    /// What the program needs in its environment.
    pub(crate) env: Vec<(String, String)>,
    /// What the guest prints on its UART when it is there.
    pub(crate) marker: String,
    /// Whether the agent's hello is waited for on `{agent}` after the marker.
    pub(crate) hello: bool,
    /// Guest RAM in bytes: a mapping of this size is the guest's, not the VMM's.
    pub(crate) guest_memory: u64,
    /// For how many milliseconds the guest goes on behind its marker before the VMM's memory is read.
    pub(crate) settles_ms: u64,
    /// A file that the first run leaves behind, to be removed before it, so that a cold start can be told.
    pub(crate) kept: Option<String>,
}

/// What the lab is asked to measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// In the order of the table.
    pub(crate) contenders: Vec<Contender>,
    /// What is run, in this order: contenders are interleaved.
    pub(crate) runs: Vec<Run>,
}

/// One run that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Which contender.
    pub(crate) contender: usize,
    /// What the contender kept from an earlier run is removed first.
    pub(crate) cold: bool,
    /// Nothing is measured: it only leaves behind what a warm run finds.
    pub(crate) warms_up: bool,
}

/// What one run came to; a line of JSON each, as they end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Came {
    /// The run.
    pub(crate) run: Run,
    /// What was measured, or why nothing was.
    pub(crate) sample: Result<Sample, String>,
}

/// One run of one contender. Times are in milliseconds of the lab's clock since the program was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// KVM first entered the guest.
    pub(crate) first_instruction_ms: Option<f64>,
    /// KVM entered the guest for the kernel's first instructions, with the firmware done if there is any.
    pub(crate) kernel_ms: Option<f64>,
    /// The guest's marker appeared on the UART: for a Linux guest, its init runs.
    pub(crate) marker_ms: f64,
    /// The agent's hello arrived on its own port.
    pub(crate) hello_ms: Option<f64>,
    /// KVM exits until the marker.
    pub(crate) exits: Option<u64>,
    /// Resident memory of the VMM beside guest RAM, at the marker, in bytes.
    pub(crate) memory: u64,
}

/// All runs of one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The VMM.
    pub(crate) vmm: String,
    /// The guest.
    pub(crate) guest: String,
    /// Every run, the cold one first.
    pub(crate) samples: Vec<Sample>,
    /// Why there is none.
    pub(crate) error: Option<String>,
}

impl Measured {
    /// The median of `of` over the warm runs.
    pub(crate) fn median(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.samples.iter().skip(1).filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// `of` in the first, cold run.
    pub(crate) fn cold(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        self.samples.first().and_then(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_leaves_the_cold_run_out() {
        let sample = |ms: f64| Sample { marker_ms: ms, ..Sample::default() };
        let measured = Measured {
            vmm: String::new(),
            guest: String::new(),
            samples: vec![sample(900.0), sample(3.0), sample(1.0), sample(2.0)],
            error: None,
        };
        assert_eq!(measured.median(|s| Some(s.marker_ms)), Some(2.0));
        assert_eq!(measured.cold(|s| Some(s.marker_ms)), Some(900.0));
    }
}
