//! `bench fork`: what a fork of a saved guest costs, beside the boot that it replaces.
//!
//! One guest is booted in the lab, saved when its agent has said hello, and restored again and again in the process that saved
//! it; each fork is asked a question, and ended when it has answered.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kiln::agent::Client;
use kiln::lab::LabSpec;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::progress::Progress;
use kiln::run::{Recipe, vmlinux_of};
use kiln::vmm::config::{Boot, MachineConfig};
use kiln::vmm::machine::{Machine, MachineIo, RestoreIo};
use serde::{Deserialize, Serialize};

use super::boot::{GUARD, SEEDS, carry_out};
use crate::ui::{Align, Table};

/// The word that makes this program measure forks in the lab.
pub(crate) const INNER_FORK: &str = "inner-fork";

/// How many forks are measured after the first.
const FORKS: usize = 5;
/// Where the machine's configuration, and what it boots, are in the lab.
const CONFIG: &str = "/kiln/fork.json";
const KERNEL: &str = "/kiln/vmlinux";
const INITRD: &str = "/kiln/initrd";
/// A fork has answered in this part of a boot at most.
const PART_OF_A_BOOT: f64 = 1.0 / 50.0;

/// What was measured, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Forks {
    /// From nothing to the agent's hello.
    boot_ms: f64,
    /// How long the guest was held until its folder was there.
    save_ms: f64,
    /// The size of that folder's state, in bytes.
    state: u64,
    /// Each fork; the first notes the pages that it has written, for those after it.
    forks: Vec<Fork>,
}

/// One fork, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Fork {
    /// From nothing until it can be started.
    restore_ms: f64,
    /// From nothing until its vCPUs run.
    start_ms: f64,
    /// From nothing until its agent has answered.
    answer_ms: f64,
    /// How long its end takes.
    end_ms: f64,
    /// How often the host's kernel had to bring a page for it until then.
    faults: u64,
}

/// Measures forks in a lab whose clock counts instructions.
///
/// # Errors
/// Something could not be built or fetched, or the lab was lost.
pub(crate) fn fork(cache: &Cache, progress: &dyn Progress) -> Result<Forks> {
    let recipe = Recipe::default();
    let kernel = recipe.kernel(cache, progress)?;
    let initrd = recipe.image(cache, &kernel, progress)?;
    let vmlinux = vmlinux_of(cache, &kernel.image)?.context("the distribution's kernel has no ELF in it")?;
    let mut config = recipe.machine(&kernel.image, initrd.clone());
    if let Boot::Kernel { kernel, initrd, .. } = &mut config.boot {
        (*kernel, *initrd) = (KERNEL.into(), Some(INITRD.into()));
    }
    let scratch = tempfile::Builder::new().prefix("kiln-bench-").tempdir()?;
    let text = scratch.path().join("fork.json");
    std::fs::write(&text, serde_json::to_vec(&config)?)
        .with_context(|| format!("write {}", text.display()))?;
    let own = std::env::current_exe()?;
    let argv = vec![own.to_string_lossy().into_owned(), INNER_FORK.to_owned(), CONFIG.to_owned()];
    let files = [(text, CONFIG), (vmlinux, KERNEL), (initrd, INITRD)];
    let lab = LabSpec {
        programs: vec![own],
        files: files.map(|(from, to)| (from, to.to_owned())).into(),
        guard: GUARD,
        ..LabSpec::default()
    };
    progress.note("measuring in the lab; its clock counts instructions");
    for seed in 1..=SEEDS {
        let lab = LabSpec { counts_instructions: Some(seed), ..lab.clone() };
        let mut measured = None;
        let mut came = |line: &[u8]| match serde_json::from_slice::<Forks>(line) {
            Ok(forks) => measured = Some(forks),
            Err(_) => progress.note(&format!("  {}", String::from_utf8_lossy(line).trim_end())),
        };
        match carry_out(cache, lab, &argv, &[], &mut came, progress) {
            Ok(()) => return measured.context("nothing was measured"),
            Err(error) if seed == SEEDS => return Err(error.context("the lab got stuck each time")),
            Err(error) => progress.note(&format!("{error:#}; another seed is tried")),
        }
    }
    bail!("no lab was tried")
}

/// Measures the guest whose configuration is in the file `config`, and prints what came of it.
///
/// # Errors
/// A machine did not do as it was to.
pub(crate) fn run(config: &Path) -> Result<()> {
    let config: MachineConfig = serde_json::from_slice(&std::fs::read(config)?)?;
    println!("{}", serde_json::to_string(&measure(&config)?)?);
    Ok(())
}

fn measure(config: &MachineConfig) -> Result<Forks> {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("snapshot");
    let serial = || Box::new(std::io::sink());

    let began = Instant::now();
    let (near, far) = UnixStream::pair()?;
    let io = MachineIo { serial: serial(), console: None, ports: vec![far] };
    let running = Machine::new(config, io)?.start()?;
    let first = Client::connect(near)?;
    let boot_ms = since(began);
    // A line at each step: who waits outside knows that the guest does not spin.
    println!("booted in {boot_ms:.1} ms");
    first.settle()?;
    let began = Instant::now();
    running.save(&at)?;
    let save_ms = since(began);
    println!("saved in {save_ms:.1} ms");
    let state = std::fs::metadata(at.join("state.json"))?.len();

    let mut forks = Vec::new();
    for _ in 0..=FORKS {
        let (began, faults) = (Instant::now(), faults());
        let (near, far) = UnixStream::pair()?;
        let io =
            RestoreIo { name: None, serial: serial(), console: None, ports: vec![far], reserved_disk: None };
        let machine = Machine::restore(&at, io)?;
        let restore_ms = since(began);
        let running = machine.start()?;
        let start_ms = since(began);
        let client = Client::of_fork(near, first.hello().clone(), first.last_request())?;
        let mut uptime = Vec::new();
        client.get("/proc/uptime", &mut uptime)?;
        let answer_ms = since(began);
        let faults = self::faults() - faults;
        if forks.is_empty() {
            running.note_early_pages()?;
        }
        let ends = Instant::now();
        drop(running);
        forks.push(Fork { restore_ms, start_ms, answer_ms, end_ms: since(ends), faults });
        println!("a fork has answered after {answer_ms:.1} ms");
    }
    Ok(Forks { boot_ms, save_ms, state, forks })
}

fn since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// How many pages the kernel has brought for this process and its guests (proc(5), `stat`, field 10).
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().nth(7).and_then(|count| count.parse().ok()).unwrap_or(0)
}

impl Forks {
    /// The table: the boot, the save, and the forks.
    pub(crate) fn table(&self) -> Table {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Right, Right, Right]);
        let ms = |ms: f64| format!("{ms:.1}");
        table.row(["", "ready", "running", "answered", "page faults"]);
        table.row(["boot to hello", "", "", &ms(self.boot_ms), ""]);
        table.row(["save", &ms(self.save_ms), "", "", ""]);
        for (index, fork) in self.forks.iter().enumerate() {
            let name = if index == 0 { "first fork".to_owned() } else { format!("fork {}", index + 1) };
            let faults = fork.faults.to_string();
            table.row([name, ms(fork.restore_ms), ms(fork.start_ms), ms(fork.answer_ms), faults]);
        }
        let wanted = format!("≤ {}", ms(self.boot_ms * PART_OF_A_BOOT));
        table.row(["wanted of a fork", "", "", &wanted, ""]);
        table
    }
}
