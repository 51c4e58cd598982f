//! The half that is built for speed: payloads under kiln's run loop and under the bare one, in turns.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln::fixtures::{self, EXITS_ROUND};
use kiln::vmm::config::{Boot, CpuMode, MachineConfig};
use kiln::vmm::machine::{Machine, MachineIo};
use serde::{Deserialize, Serialize};

use super::bare;

/// The word that makes this program measure exits.
pub(crate) const INNER_EXITS: &str = "inner-exits";

/// How often each loop has its turn.
const TURNS: usize = 60;
/// How many rounds a bare turn has.
const ROUNDS: u64 = 12;

/// The ways out of the guest: the payload, and the table's name for it.
const WAYS: [(&str, &str); 4] = [
    ("exits-pio-write", "PIO write"),
    ("exits-pio-read", "PIO read"),
    ("exits-mmio-write", "MMIO write"),
    ("exits-mmio-read", "MMIO read"),
];

/// What one kind of exit costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// The kind.
    pub(crate) exit: String,
    /// Nanoseconds for each exit: of each turn the shortest round, of those the median.
    pub(crate) ours_ns: f64,
    /// The same of the bare loop.
    pub(crate) bare_ns: f64,
    /// Ours over the bare loop's, for each pair of turns, in order of size.
    pub(crate) ratios: Vec<f64>,
}

impl Cost {
    /// The ratio that `part` (0 to 1) of all are below.
    pub(crate) fn ratio(&self, part: f64) -> f64 {
        quantile(&self.ratios, part)
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Measures each kind of exit, and prints what came of it as a line of JSON each.
///
/// # Errors
/// There is no KVM, or a machine did not do as it was to.
pub(crate) fn run() -> Result<()> {
    for (payload, exit) in WAYS {
        let cost = measure(payload, exit).with_context(|| format!("{exit} could not be measured"))?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&cost)?)?;
    }
    Ok(())
}

fn measure(payload: &str, exit: &str) -> Result<Cost> {
    let payload = fixtures::by_name(payload).context("there is no such payload")?;
    let boot = Boot::Flat { code: payload.code.to_vec(), address: payload.address, mode: CpuMode::Long64 };
    let config = MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() };
    let io = MachineIo { serial: Box::new(std::io::sink()), console: None, ports: Vec::new() };
    let running = Machine::new(&config, io)?.start()?;
    let machine = running.controller();
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    let mut khz = 0;
    let mut turn = Duration::from_millis(20);
    // The first pair warms caches.
    for pair in 0..=TURNS {
        std::thread::sleep(turn);
        let (one, other, took, rate) = machine.run_on_vcpu(0, |vcpu| -> std::io::Result<_> {
            let ours = bare::take(vcpu)?;
            // The round that is under way belongs to neither.
            bare::run(vcpu, 1)?;
            bare::take(vcpu)?;
            let began = Instant::now();
            bare::run(vcpu, ROUNDS)?;
            let took = began.elapsed();
            let rate = vcpu.get_tsc_khz().unwrap_or(0);
            Ok((ours, bare::take(vcpu)?, took, rate))
        })??;
        (turn, khz) = (took, rate);
        if pair > 0 && one.count > 0 && other.count == ROUNDS {
            ours.push(one.shortest);
            bares.push(other.shortest);
        }
    }
    drop(running);
    #[allow(clippy::cast_precision_loss)]
    let ns = |ticks: u64| ticks as f64 * 1e6 / f64::from(khz.max(1)) / EXITS_ROUND as f64;
    let sorted = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values
    };
    #[allow(clippy::cast_precision_loss)]
    let ratios = ours.iter().zip(&bares).map(|(ours, bare)| *ours as f64 / *bare as f64).collect();
    let median = |all: &[u64]| quantile(&sorted(all.iter().map(|ticks| ns(*ticks)).collect()), 0.5);
    Ok(Cost {
        exit: exit.to_owned(),
        ours_ns: median(&ours),
        bare_ns: median(&bares),
        ratios: sorted(ratios),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let values = [1.0, 2.0, 3.0, 4.0, 10.0];
        assert_eq!([0.0, 0.5, 1.0].map(|part| quantile(&values, part)), [1.0, 3.0, 10.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
