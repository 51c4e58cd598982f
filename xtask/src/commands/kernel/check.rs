//! `kernel check`: what a kernel is, and which options that a guest needs it lacks.

use std::path::PathBuf;

use anyhow::Result;
use kiln::check::{Checked, Origin, check};
use kiln::rootfs::cache::Cache;
use kiln::rootfs::kernel;
use kiln::rootfs::kernel::check::{Answer, Compression, State};
use kiln::rootfs::modules;
use kiln::run::Recipe;
use serde::Serialize;

use crate::exit::Exit;
use crate::report::{JsonTo, Report};
use crate::ui::{self, Align, Bars, Stream, Style, Table, paint};

/// Options of `kernel check`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Kernel to look at, bzImage or ELF; or as much of a packaged kernel's release as matters
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Folder with the kernel's modules, as `lib/modules/RELEASE` has them
    #[arg(long, value_name = "DIR")]
    modules_dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Own {
    file: String,
    format: &'static str,
    release: String,
    banner: String,
    builder: Option<String>,
    compiler: Option<String>,
    build: Option<String>,
    build_id: Option<String>,
    protocol: Option<String>,
    compression: Option<&'static str>,
    entry: Entry,
    size: Size,
    config: Option<Config>,
    modules_dir: Option<String>,
    notes: Vec<String>,
    needs: Vec<Need>,
}

#[derive(Serialize)]
struct Entry {
    /// Whether a bzImage has a 64-bit entry; none for an ELF.
    xlf_kernel_64: Option<bool>,
    /// The address of the PVH entry; none if there is none, or the ELF can't be had.
    pvh: Option<String>,
    /// Which one the machine takes.
    taken: &'static str,
}

#[derive(Serialize)]
struct Size {
    image: u64,
    decompressed: Option<u64>,
}

#[derive(Serialize)]
struct Config {
    /// `kernel` if it carries it, else the file.
    from: String,
    version: Option<String>,
}

#[derive(Serialize)]
struct Need {
    option: String,
    /// `y`, `m`, `m, unusable`, `missing` or `unknown`.
    state: &'static str,
    needed: bool,
    purpose: &'static str,
    /// The module's file, if it is a module and at hand.
    module: Option<String>,
    /// What there is to know of that state.
    note: Option<String>,
}

/// Tells of the kernel.
pub(super) fn run(args: Args, json: &JsonTo) -> Result<Exit> {
    let cache = Cache::open(None)?;
    let kernel = kernel::find(&cache, &args.file, args.modules_dir.as_deref(), &Bars::new())?;
    let checked = check(&cache, kernel)?;
    let loaded = loaded(&checked);
    let needs: Vec<Need> = checked.answers.iter().map(|answer| told(answer, &loaded)).collect();
    let own = facts(&checked, needs);
    show(&checked, &own, ui::stream(json))?;

    let lacks: Vec<String> = own
        .needs
        .iter()
        .zip(&checked.answers)
        .filter(|(need, answer)| need.needed && answer.is_lacking())
        .map(|(need, answer)| match answer.state {
            State::ModuleAway => format!("the module of {} (--modules-dir)", need.option),
            State::Unusable(..) => format!("a module of {} that it can load", need.option),
            _ => need.option.clone(),
        })
        .collect();
    let exit = if lacks.is_empty() { Exit::PASSED } else { Exit::FAILED };
    let error =
        (!lacks.is_empty()).then(|| format!("no guest runs on this kernel: it lacks {}", lacks.join(", ")));
    let mut report = Report::new("kernel check", exit, own);
    report.error = error;
    report.write(json)?;
    Ok(exit)
}

/// The names of the modules that every guest loads unasked.
fn loaded(checked: &Checked) -> Vec<String> {
    let Some(dir) = &checked.kernel.modules_dir else { return Vec::new() };
    // One that is missing is told of as an option.
    let closure = |name: &&str| modules::closure(dir, &[name]).unwrap_or_default();
    Recipe::MODULES.iter().flat_map(closure).map(|module| module.name).collect()
}

fn told(answer: &Answer, loaded: &[String]) -> Need {
    let need = answer.need;
    let (state, module, note) = match &answer.state {
        State::BuiltIn => ("y", None, None),
        State::Module(file) => {
            let name = need.module.unwrap_or_default();
            let unasked = loaded.iter().any(|loaded| loaded == name);
            let note =
                if unasked { "loaded in every guest".to_owned() } else { format!("with --modules {name}") };
            ("m", Some(file.display().to_string()), Some(note))
        }
        State::ModuleAway => ("m", None, Some("its module is not at hand: --modules-dir".to_owned())),
        State::Unusable(file, why) => ("m, unusable", Some(file.display().to_string()), Some(why.clone())),
        State::Missing => ("missing", None, None),
        State::Unknown => ("unknown", None, None),
    };
    Need {
        option: format!("CONFIG_{}", need.option),
        state,
        needed: need.needed,
        purpose: need.purpose,
        module,
        note,
    }
}

fn facts(checked: &Checked, needs: Vec<Need>) -> Own {
    let bzimage = checked.bzimage.as_ref();
    let vmlinux = checked.vmlinux.as_ref();
    Own {
        file: checked.kernel.image.display().to_string(),
        format: if bzimage.is_some() { "bzImage" } else { "ELF" },
        release: checked.banner.release.clone(),
        banner: checked.banner.text.clone(),
        builder: checked.banner.builder.clone(),
        compiler: checked.banner.compiler.clone(),
        build: checked.banner.build.clone(),
        build_id: vmlinux.and_then(|vmlinux| vmlinux.build_id.clone()),
        protocol: bzimage.map(|bzimage| format!("{}.{:02}", bzimage.protocol.0, bzimage.protocol.1)),
        compression: bzimage.and_then(|bzimage| bzimage.compression).map(Compression::name),
        entry: Entry {
            xlf_kernel_64: bzimage.map(|bzimage| bzimage.entry_64),
            pvh: vmlinux.and_then(|vmlinux| vmlinux.pvh).map(|address| format!("{address:#x}")),
            taken: checked.entry.name(),
        },
        size: Size {
            image: checked.size,
            decompressed: bzimage.map_or(Some(checked.size), |bzimage| bzimage.decompressed),
        },
        config: checked.config.as_ref().map(|(config, origin)| Config {
            from: match origin {
                Origin::Kernel => "kernel".to_owned(),
                Origin::File(path) => path.display().to_string(),
            },
            version: config.version.clone(),
        }),
        modules_dir: checked.kernel.modules_dir.as_ref().map(|dir| dir.display().to_string()),
        notes: checked.notes.clone(),
        needs,
    }
}

fn show(checked: &Checked, own: &Own, stream: Stream) -> Result<()> {
    let mut table = Table::new(&[Align::Left, Align::Left]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), ui::sanitize(value.as_bytes())]);
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
    row("file", own.file.clone());
    row(
        "format",
        match &own.protocol {
            Some(protocol) => format!("bzImage, boot protocol {protocol}"),
            None => "ELF".to_owned(),
        },
    );
    row("release", own.release.clone());
    row("version", own.banner.clone());
    row("build id", known(&own.build_id));
    if own.protocol.is_some() {
        row("compression", own.compression.unwrap_or("not known").to_owned());
    }
    row("entry", entry(own));
    row(
        "size",
        match own.size.decompressed {
            Some(size) if own.protocol.is_some() => {
                format!("{}, {} decompressed", ui::bytes(own.size.image), ui::bytes(size))
            }
            _ => ui::bytes(own.size.image),
        },
    );
    row("configuration", match &own.config {
        Some(config) if config.from == "kernel" => "carried by the kernel".to_owned(),
        Some(config) => config.from.clone(),
        None => "none at hand: neither in the kernel (CONFIG_IKCONFIG) nor beside it (.config, config-RELEASE)".to_owned(),
    });
    row("modules", own.modules_dir.clone().unwrap_or_else(|| "none at hand (--modules-dir)".to_owned()));
    for note in &own.notes {
        row("note", note.clone());
    }
    ui::line(stream, &table.to_string())?;
    options(checked, own, stream)
}

fn entry(own: &Own) -> String {
    let mut ways = Vec::new();
    ways.extend(own.entry.pvh.as_ref().map(|address| format!("PVH at {address}")));
    ways.extend((own.entry.xlf_kernel_64 != Some(false)).then(|| "64-bit".to_owned()));
    ways.extend(own.protocol.is_some().then(|| "32-bit".to_owned()));
    let taken = match own.entry.taken {
        "pvh" => "PVH",
        "bzimage-32" => "32-bit",
        _ => "64-bit",
    };
    format!("{}; the machine takes {taken}", ways.join(", "))
}

/// The table of needs, coloured after its columns are set, and what it comes to.
fn options(checked: &Checked, own: &Own, stream: Stream) -> Result<()> {
    let word = |need: &Need, answer: &Answer| match (&answer.state, need.needed) {
        (State::BuiltIn | State::Module(_), _) => ("ok", Style::Good),
        (State::Unknown, _) => ("?", Style::Dim),
        (_, true) => ("NEEDED", Style::Bad),
        (_, false) => ("wanted", Style::Warn),
    };
    let mut table = Table::new(&[Align::Left; 4]);
    for (need, answer) in own.needs.iter().zip(&checked.answers) {
        let note = need.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        table.row([word(need, answer).0, &need.option, need.state, &format!("{}{note}", need.purpose)]);
    }
    ui::line(stream, "")?;
    for ((text, need), answer) in table.to_string().lines().zip(&own.needs).zip(&checked.answers) {
        let (word, style) = word(need, answer);
        let rest = text.strip_prefix(word).unwrap_or(text);
        ui::line(stream, &format!("{}{rest}", paint(stream, style, word)))?;
    }
    let count = |needed: bool| {
        checked.answers.iter().filter(|answer| answer.need.needed == needed && answer.is_lacking()).count()
    };
    let unknown = checked.answers.iter().filter(|answer| answer.state == State::Unknown).count();
    let mut line = match (count(true), count(false)) {
        (0, 0) if unknown > 0 => "It lacks nothing that can be told of.".to_owned(),
        (0, 0) => "It has all that guests need.".to_owned(),
        (0, wanted) => format!("Guests run on it, but it lacks {wanted} of the options that they want."),
        (needed, _) => {
            format!("No guest runs on it: it lacks {needed} of the options that every guest needs.")
        }
    };
    if unknown > 0 {
        line.push_str(&format!(" Without a configuration {unknown} options are not known."));
    }
    ui::line(stream, &format!("\n{line}"))?;
    Ok(())
}
