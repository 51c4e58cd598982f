//! What was measured, for people.

use super::spec::{Measured, Sample};
use crate::ui::{Align, Table};

/// The table: times in virtual milliseconds since the VMM was started, memory in MiB, and each line's time to
/// init as a share of the first line with the same guest that is not kiln's.
pub(crate) fn table(all: &[Measured]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Right, Right, Right, Right, Right, Right, Right, Right]);
    table.row([
        "guest",
        "VMM",
        "first instruction",
        "kernel",
        "init",
        "hello",
        "cold init",
        "exits",
        "VMM MiB",
        "of QEMU's",
    ]);
    for one in all {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.1}"));
        if let Some(error) = &one.error {
            table.row([one.guest.clone(), one.vmm.clone(), error.clone()]);
            continue;
        }
        let init = one.median(|s| Some(s.marker_ms));
        let peer = all.iter().find(|m| m.guest == one.guest && m.vmm != "kiln" && m.error.is_none());
        let ratio =
            init.zip(peer.and_then(|p| p.median(|s| Some(s.marker_ms)))).map(|(ours, theirs)| ours / theirs);
        #[allow(clippy::cast_precision_loss)]
        let count = |of: fn(&Sample) -> Option<u64>| one.median(move |s| of(s).map(|n| n as f64));
        table.row([
            one.guest.clone(),
            one.vmm.clone(),
            number(one.median(|s| s.first_instruction_ms)),
            number(one.median(|s| s.kernel_ms)),
            number(init),
            number(one.median(|s| s.hello_ms)),
            number(one.cold(|s| Some(s.marker_ms))),
            count(|s| s.exits).map_or_else(|| "–".to_owned(), |n| format!("{n:.0}")),
            number(count(|s| Some(s.memory)).map(|bytes| bytes / f64::from(1 << 20))),
            ratio.map_or_else(|| "–".to_owned(), |r| format!("{r:.3}")),
        ]);
    }
    table
}
