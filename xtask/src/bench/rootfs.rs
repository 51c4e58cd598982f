//! `bench rootfs`: what an image costs on this host, beside the pipeline that people have for it.
//!
//! Times are wall times of this host, so only their ratios mean anything: the contenders take turns, and medians are
//! compared.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, Compression, Format};
use kiln::rootfs::progress::Progress;
use kiln::run::Recipe;
use serde::Serialize;

use super::peers::on_path;
use crate::ui::{Align, Table};

/// How often each contender runs, after a round that does not count.
const ROUNDS: usize = 15;
/// What the others are compared with.
const PIPELINE: &str = "find | cpio | gzip";

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Images {
    /// The minimal image made anew, and its peers.
    cold: Vec<Contender>,
    /// Commands as a user gives them, the image in the cache.
    warm: Vec<Contender>,
}

/// One of those that are compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contender {
    name: String,
    samples_ms: Vec<f64>,
    median_ms: Option<f64>,
    /// Of the first run.
    bytes: Option<u64>,
    /// Why nothing was measured.
    error: Option<String>,
    #[serde(skip)]
    task: Task,
}

#[derive(Clone, Debug)]
enum Task {
    /// Our own image.
    Image(Format),
    /// A shell's pipeline over the tree on disk; its standard output is the image.
    Pipeline(String),
    /// This program.
    Own(&'static [&'static str]),
}

impl Contender {
    fn new(name: &str, task: Task) -> Self {
        Self {
            name: name.to_owned(),
            samples_ms: Vec::new(),
            median_ms: None,
            bytes: None,
            error: None,
            task,
        }
    }

    /// One run, in milliseconds.
    fn run(&mut self, place: &Place) {
        let began = Instant::now();
        let bytes = match &self.task {
            Task::Image(format) => place.image(*format),
            Task::Pipeline(line) => place.pipeline(line),
            Task::Own(arguments) => place.own(arguments),
        };
        let ms = began.elapsed().as_secs_f64() * 1e3;
        match bytes {
            Ok(bytes) => {
                // The first round warms the page cache and the allocator.
                if self.bytes.is_some() {
                    self.samples_ms.push(ms);
                }
                self.bytes = Some(bytes);
            }
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    fn end(&mut self) {
        let mut sorted = self.samples_ms.clone();
        sorted.sort_by(f64::total_cmp);
        self.median_ms = sorted.get(sorted.len() / 2).copied();
    }
}

/// Where it is measured.
struct Place<'a> {
    cache: &'a Cache,
    scratch: &'a Path,
    progress: &'a dyn Progress,
}

impl Place<'_> {
    /// The minimal image, with all but itself at hand.
    fn image(&self, format: Format) -> Result<u64> {
        // What is not there is what is measured.
        let root = self.scratch.join("cache");
        kiln::rootfs::cache::remove(&root)?;
        let empty = Cache::open(Some(root))?;
        let recipe = Recipe::default();
        let kernel = recipe.kernel(self.cache, self.progress)?;
        let contents = recipe.contents(self.cache, &kernel, self.progress)?;
        let path = image::build(&empty, &contents, format)?;
        Ok(path.metadata()?.len())
    }

    fn pipeline(&self, line: &str) -> Result<u64> {
        let path = self.scratch.join("image");
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.scratch.join("tree")).stdin(Stdio::null());
        let status = shell.stdout(File::create(&path)?).stderr(Stdio::null()).status().context("start sh")?;
        if !status.success() {
            bail!("{line}: {status}");
        }
        Ok(path.metadata()?.len())
    }

    fn own(&self, arguments: &[&str]) -> Result<u64> {
        let mut own = Command::new(std::env::current_exe()?);
        own.args(arguments).env("KILN_CACHE", self.cache.root()).stdin(Stdio::null()).stdout(Stdio::null());
        let output = own.output().context("start ourselves")?;
        if !output.status.success() {
            bail!("kiln {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(0)
    }

    /// Unpacks the minimal image for the pipelines; its devices stay out, for they need root.
    fn lay_out(&self) -> Result<()> {
        let tree = self.scratch.join("tree");
        fs::create_dir_all(&tree)?;
        let archive = self.scratch.join("cache/archive");
        self.image(Format::default())?;
        let recipe = Recipe::default();
        let kernel = recipe.kernel(self.cache, self.progress)?;
        let contents = recipe.contents(self.cache, &kernel, self.progress)?;
        image::write(&contents, Format::default(), &mut File::create(&archive)?)?;
        let mut cpio = Command::new("cpio");
        cpio.args(["-i", "-d", "--quiet"]).current_dir(&tree).stdin(File::open(&archive)?);
        // That it can't make devices, it says by its status, too: what counts is what is there.
        let _status = cpio.stdout(Stdio::null()).stderr(Stdio::null()).status().context("start cpio")?;
        for path in ["sbin/kiln-agent", "etc/group"] {
            if !tree.join(path).is_file() {
                bail!("cpio did not unpack /{path}");
            }
        }
        Ok(())
    }
}

/// Measures images.
///
/// # Errors
/// The kernel or the agent could not be had.
pub(crate) fn rootfs(cache: &Cache, progress: &dyn Progress) -> Result<Images> {
    let scratch = tempfile::Builder::new().prefix("kiln-bench-").tempdir()?;
    let place = Place { cache, scratch: scratch.path(), progress };
    let pipeline = "find . | cpio -o -H newc --quiet";
    let mut cold = vec![
        Contender::new("kiln, initramfs", Task::Image(Format::default())),
        Contender::new("kiln, gzip", Task::Image(Format::Initramfs(Compression::Gzip))),
        Contender::new("kiln, zstd", Task::Image(Format::Initramfs(Compression::Zstd))),
        Contender::new("kiln, ext4", Task::Image(Format::Ext4 { size: None })),
        Contender::new("find | cpio", Task::Pipeline(pipeline.to_owned())),
        Contender::new(PIPELINE, Task::Pipeline(format!("{pipeline} | gzip"))),
    ];
    let mut warm = vec![
        Contender::new("kiln --version", Task::Own(&["--version"])),
        Contender::new("kiln rootfs", Task::Own(&["rootfs"])),
        Contender::new("kiln rootfs --compress gzip", Task::Own(&["rootfs", "--compress", "gzip"])),
        Contender::new("kiln rootfs --format ext4", Task::Own(&["rootfs", "--format", "ext4"])),
    ];
    // Whatever has to be fetched or built is, before the first round.
    place.image(Format::default())?;
    let missing = ["find", "cpio", "gzip"].into_iter().find(|name| on_path(name).is_none());
    let at_hand = match missing {
        Some(name) => Err(anyhow::anyhow!("no {name} on PATH")),
        None => place.lay_out(),
    };
    if let Err(error) = at_hand {
        for peer in cold.iter_mut().filter(|contender| matches!(contender.task, Task::Pipeline(_))) {
            peer.error = Some(format!("{error:#}"));
        }
    }
    for _ in 0..=ROUNDS {
        for contender in cold.iter_mut().chain(&mut warm).filter(|contender| contender.error.is_none()) {
            contender.run(&place);
        }
    }
    cold.iter_mut().chain(&mut warm).for_each(Contender::end);
    Ok(Images { cold, warm })
}

impl Images {
    /// Whether one of ours could not be measured. A peer that is not there is none of ours.
    pub(crate) fn failed(&self) -> bool {
        let ours = |contender: &Contender| !matches!(contender.task, Task::Pipeline(_));
        self.cold.iter().chain(&self.warm).any(|contender| ours(contender) && contender.error.is_some())
    }

    /// The table: each cold time as a multiple of the pipeline's, each warm one as what it adds to a command that
    /// does nothing.
    pub(crate) fn table(&self) -> Table {
        use Align::{Left, Right};
        let mut table = Table::new(&[Left, Right, Right, Right]);
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.1}"));
        let mut add = |name: &str,
                       all: &[Contender],
                       columns: [&str; 3],
                       of: &dyn Fn(f64, f64) -> String,
                       base: &str| {
            table.row([name, columns[0], columns[1], columns[2]]);
            let base = all.iter().find(|one| one.name == base).and_then(|one| one.median_ms);
            for one in all {
                if let Some(error) = &one.error {
                    table.row([format!("  {}", one.name), error.clone()]);
                    continue;
                }
                let kib = one.bytes.filter(|bytes| *bytes > 0).map(|bytes| (bytes / 1024).to_string());
                let compared = one.median_ms.zip(base).map(|(ms, base)| of(ms, base));
                table.row([
                    format!("  {}", one.name),
                    number(one.median_ms),
                    compared.unwrap_or_else(|| "–".to_owned()),
                    kib.unwrap_or_default(),
                ]);
            }
        };
        let ratio = |ms: f64, base: f64| format!("{:.2}", ms / base);
        let more = |ms: f64, base: f64| format!("{:+.1}", ms - base);
        add("minimal image, made anew", &self.cold, ["ms", "of the pipeline's", "KiB"], &ratio, PIPELINE);
        add("command, image in the cache", &self.warm, ["ms", "more", ""], &more, "kiln --version");
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_compares_with_the_pipeline_and_says_who_is_missing() {
        let measured = |name: &str, task: Task, ms: f64| Contender {
            samples_ms: vec![ms, ms * 9.0, ms / 2.0],
            bytes: Some(2048),
            ..Contender::new(name, task)
        };
        let mut images = Images {
            cold: vec![
                measured("kiln", Task::Image(Format::default()), 10.0),
                measured(PIPELINE, Task::Pipeline(String::new()), 40.0),
            ],
            warm: vec![
                measured("kiln --version", Task::Own(&[]), 5.0),
                measured("kiln rootfs", Task::Own(&[]), 25.0),
            ],
        };
        images.cold.iter_mut().chain(&mut images.warm).for_each(Contender::end);
        let text = images.table().to_string();
        assert!(text.contains("10.0") && text.contains("0.25") && text.contains("+20.0"), "{text}");
        assert!(!images.failed());
        images.cold[1] = Contender {
            error: Some("no cpio on PATH".to_owned()),
            ..Contender::new(PIPELINE, Task::Pipeline(String::new()))
        };
        assert!(images.table().to_string().contains("no cpio on PATH") && !images.failed());
        images.warm[1].error = Some("it failed".to_owned());
        assert!(images.failed());
    }
}
