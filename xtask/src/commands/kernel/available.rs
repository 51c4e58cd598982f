//! `kernel list --available`: what the distribution has.

use anyhow::Result;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel;
use serde::Serialize;

use crate::exit::Exit;
use crate::report::{JsonTo, Report};
use crate::ui::{self, Align, Bars, Table};

#[derive(Serialize)]
struct Own {
    available: Vec<Kernel>,
}

#[derive(Serialize)]
struct Kernel {
    release: String,
    flavour: String,
    cached: bool,
}

/// Lists them, newest last.
pub(super) fn run(cache: &Cache, json: &JsonTo) -> Result<Exit> {
    let kernels = kernel::available(cache, &Bars::new())?;
    let mut table = Table::new(&[Align::Left; 3]);
    for kernel in &kernels {
        let cached = if kernel.is_cached { "in the cache" } else { "" };
        table.row([kernel.release.as_str(), &kernel.flavour, cached]);
    }
    let stream = ui::stream(json);
    if kernels.is_empty() {
        ui::line(stream, "the distribution has no kernel that suits a guest")?;
    } else {
        ui::line(stream, &table.to_string())?;
    }
    let available = kernels
        .into_iter()
        .map(|kernel| Kernel { release: kernel.release, flavour: kernel.flavour, cached: kernel.is_cached })
        .collect();
    Report::new("kernel list", Exit::PASSED, Own { available }).write(json)?;
    Ok(Exit::PASSED)
}
