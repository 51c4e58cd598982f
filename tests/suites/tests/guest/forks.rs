//! Many forks of one snapshot, each a guest of its own; and snapshots that are of no use, which are refused and made anew.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln::agent::{Client, Command as Exec};
use kiln::cases::{CASES, Case, linkme, machine_for};
use kiln::evidence::{EVIDENCE_FD, EVIDENCE_ROOT};
use kiln::fork::{self, Snapshot};
use kiln::gate::Needs;
use kiln::guest_test;
use kiln::rootfs::cache::{Cache, Key};
use kiln::rootfs::image::{self, DiskSpec};
use kiln::vmm::config::MachineConfig;
use kiln::vmm::machine::{RestoreIo, Running};
use kiln::vmm::outcome::Outcome;
use kiln::vmm::snapshot::SnapshotError;

use super::words::{line, read};
use super::{generation, interrupts};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than a guest in the lab takes for anything here.
const LIMIT: Duration = Duration::from_secs(600);
/// How many forks there are at a time.
const AT_A_TIME: usize = 3;
/// After so many this process has all that it ever needs.
const SETTLED: usize = 10;
/// The most that a guest's clock may be off by, in nanoseconds.
const CLOSE: i128 = 10_000_000;
/// The most that this process may grow by in all forks, in bytes: a fork dirties more than that.
const GROWTH_MAX: u64 = 4 << 20;
/// The most that what is kept of a fork may take, in bytes, and a little.
const KEPT_MAX: u64 = 17 << 20;
/// Set where a case has a process of its own, whose descriptors and memory nobody else changes.
const ALONE: &str = "KILN_TEST_ALONE";
/// The file that each fork makes, and finds none of.
const OWN_FILE: &str = "/tmp/x";

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static FORKS: fn() -> Vec<Case> = || {
    let case = |name: &'static str, body: fn(&str) -> Result| {
        let path = format!("guest::forks::{name}");
        Case::host(&path, Needs::Linux, move || {
            body(&format!("forks::{name}")).map_err(|error| kiln::vmm::chain(&*error))
        })
    };
    vec![
        case("fifty_forks_have_nothing_in_common", |name| alone(name, || many(50))),
        case("thousand_forks_have_nothing_in_common", |name| alone(name, || many(1000)))
            .ignore("takes long: `cargo xtask ci --full` runs it"),
        case("forks_on_what_others_left_have_nothing_in_common", |name| alone(name, in_turn)),
        case("snapshot_cut_off_or_changed_or_of_another_version_is_made_anew", |_| damaged()),
        case("case_whose_snapshot_is_refused_boots_and_the_next_one_forks", |_| refused()),
    ]
};

/// Runs `body` in a process of its own, which runs the case `name` of this binary again.
fn alone(name: &str, body: fn() -> Result) -> Result {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let arguments = ["--exact", name, "--include-ignored", "--nocapture"];
    let output = Command::new(std::env::current_exe()?).args(arguments).env(ALONE, "1").output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    eprintln!("{said}");
    if output.status.success() { Ok(()) } else { Err(format!("{}: {said}", output.status).into()) }
}

fn nanoseconds() -> Result<i128> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Tells what is its guest's own, and the time, a line for each line.
#[guest_test]
fn guest_tells_what_is_its_own() -> Result {
    for line in io::stdin().lock().lines() {
        line?;
        let mut random = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let found = Path::new(OWN_FILE).exists();
        let (id, told) = (generation::id()?, interrupts::count("ACPI:Ged")?);
        let mut out = io::stdout().lock();
        writeln!(out, "{random} {found} {id} {told} {}", nanoseconds()?)?;
        out.flush()?;
    }
    Ok(())
}

/// Where snapshots are kept, and what is forked.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    cache: Cache,
    config: MachineConfig,
    disk: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        Self::of(machine_for(1, 192)?)
    }

    /// With `machine`, which gets a reserved disk.
    pub(crate) fn of(machine: MachineConfig) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cache = Cache::open(Some(folder.path().join("cache")))?;
        let word = folder.path().join("word");
        fs::write(&word, "brought")?;
        let files = vec![(word, "/opt/word".to_owned())];
        let disk = image::disk(&cache, &DiskSpec { files, ..DiskSpec::default() })?;
        let config = MachineConfig { reserved_disk: true, ..machine };
        Ok(Self { folder, cache, config, disk })
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::of(&self.cache, &self.config, LIMIT)?)
    }

    pub(crate) fn fork(&self, snapshot: &Snapshot) -> Result<Fork> {
        let (near, far) = UnixStream::pair()?;
        let (serial, ports) = (Box::new(io::sink()), vec![far]);
        let io = RestoreIo { name: None, serial, console: None, ports, reserved_disk: None };
        let (machine, adopting) = snapshot.fork(&self.disk, io)?;
        let running = machine.start()?;
        Ok(Fork { client: adopting.adopt(near)?, running })
    }
}

/// A fork that is adopted.
pub(crate) struct Fork {
    pub(crate) client: Client,
    running: Running,
}

impl Fork {
    /// Lets it go, and keeps what it leaves for the next one.
    fn leave(self) -> Result {
        self.running.controller().dismiss();
        let (ended, chassis) = self.running.wait_and_keep(Some(Instant::now() + LIMIT));
        assert_eq!(ended.outcome, Outcome::Dismissed);
        fork::keep(chassis.ok_or("it left nothing")?);
        Ok(())
    }
}

/// What of forks is to be each one's own.
#[derive(Default)]
struct Seen {
    random: BTreeSet<String>,
    generations: BTreeSet<String>,
    machine_ids: BTreeSet<String>,
}

/// Has a fork tell what is its own, and leave a file behind.
fn ask(fork: &Fork, seen: &mut Seen) -> Result {
    /// Any answer may take long; all together tell enough.
    const QUESTIONS: usize = 5;
    let argv = vec![std::env::current_exe()?.to_string_lossy().into_owned()];
    let env = vec![("KILN_GUEST_CASE".to_owned(), "forks::guest_tells_what_is_its_own".to_owned())];
    let mut process = fork.client.exec(Exec { argv, env, stdin: true, ..Exec::default() })?;
    let mut stdin = process.take_stdin().ok_or("no standard input")?;
    let (mut low, mut high) = (i128::MIN, i128::MAX);
    let mut generation = None;
    for _ in 0..QUESTIONS {
        let before = nanoseconds()?;
        writeln!(stdin, "tell")?;
        let said = line(&mut process)?;
        let after = nanoseconds()?;
        let [random, found, id, told, time] = said.split(' ').collect::<Vec<_>>()[..] else {
            return Err(said.into());
        };
        assert_eq!(found, "false", "a sibling's file is here");
        assert_eq!(generation.get_or_insert_with(|| id.to_owned()), id, "its generation changed");
        assert_eq!(told, "1", "how often it was told of its generation");
        assert!(seen.random.insert(random.to_owned()), "another guest had the random number {random}");
        let time: i128 = time.parse()?;
        (low, high) = (low.max(time - after), high.min(time - before));
    }
    let generation = generation.unwrap_or_default();
    assert!(seen.generations.insert(generation.clone()), "another guest is of generation {generation}");
    // It is off by something between the two, which is all that can be seen from here.
    assert!(low <= CLOSE && high >= -CLOSE, "the clock is off by {low} to {high} ns");
    let id = read(&fork.client, "/etc/machine-id")?;
    assert!(id.len() == 32 && seen.machine_ids.insert(id.clone()), "another guest had machine-id {id}");
    assert_eq!(read(&fork.client, "/opt/word")?, "brought");
    fork.client.put(OWN_FILE, 0o600, &mut &b"mine"[..])?;
    Ok(())
}

/// Open descriptors of this process, and its anonymous memory in bytes.
fn taken() -> Result<(usize, u64)> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no anonymous memory")?;
    let kib: u64 = line.trim_end_matches("kB").trim().parse()?;
    Ok((fs::read_dir("/proc/self/fd")?.count(), kib * 1024))
}

/// What is taken once no more than `most` is, or [`LIMIT`] is over: what a fork took is given back by threads of their own.
fn taken_at_rest(most: (usize, u64)) -> Result<(usize, u64)> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = taken()?;
        if (now.0 <= most.0 && now.1 <= most.1) || Instant::now() >= deadline {
            return Ok(now);
        }
        std::thread::yield_now();
    }
}

fn many(count: usize) -> Result {
    let place = Place::new()?;
    let snapshot = place.snapshot()?;
    let (mut seen, mut forks, mut settled) = (Seen::default(), VecDeque::new(), None);
    for index in 0..count {
        if forks.len() == AT_A_TIME {
            forks.pop_front();
        }
        if index == SETTLED {
            settled = Some(taken()?);
        }
        let fork = place.fork(&snapshot).map_err(|error| format!("fork {index}: {error}"))?;
        ask(&fork, &mut seen).map_err(|error| format!("fork {index}: {error}"))?;
        forks.push_back(fork);
    }
    let (descriptors, memory) = settled.ok_or("too few forks")?;
    forks.pop_front();
    let most = (descriptors, memory + GROWTH_MAX);
    let at_last = taken_at_rest(most)?;
    eprintln!(
        "descriptors and memory after {SETTLED} forks: {descriptors}, {memory}; after {count}: {at_last:?}"
    );
    assert!(
        at_last.0 <= most.0 && at_last.1 <= most.1,
        "it grew from {descriptors}, {memory} to {at_last:?}"
    );
    Ok(())
}

/// One after another in one VM.
fn in_turn() -> Result {
    const COUNT: usize = 20;
    let place = Place::new()?;
    let snapshot = place.snapshot()?;
    let (mut seen, mut settled) = (Seen::default(), None);
    for index in 0..COUNT {
        if index == SETTLED {
            settled = Some(taken()?);
        }
        let fork = place.fork(&snapshot).map_err(|error| format!("fork {index}: {error}"))?;
        ask(&fork, &mut seen).map_err(|error| format!("fork {index}: {error}"))?;
        // It leaves much, and one in the middle more than is kept.
        if index == COUNT / 2 {
            fork.client.put("/tmp/much", 0o600, &mut io::repeat(7).take(24 << 20))?;
        }
        fork.leave().map_err(|error| format!("fork {index}: {error}"))?;
    }
    let (descriptors, memory) = settled.ok_or("too few forks")?;
    let at_last = taken_at_rest((descriptors, memory + KEPT_MAX))?;
    assert!(
        at_last.0 <= descriptors && at_last.1 <= memory + KEPT_MAX,
        "it grew from {descriptors}, {memory} to {at_last:?}"
    );
    Ok(())
}

/// Changes a byte of a file.
fn change(path: &Path, at: u64) -> Result {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// Makes a snapshot's state that of another version.
fn other_version(path: &Path) -> Result {
    let text = fs::read_to_string(path)?;
    let (head, body) = text.split_once(',').ok_or("no first line")?;
    assert!(head.contains("kiln_snapshot"), "{head}");
    Ok(fs::write(path, format!("{{\"kiln_snapshot\":4000000,{body}"))?)
}

fn cut_off(path: &Path) -> Result {
    let file = fs::File::options().write(true).open(path)?;
    Ok(file.set_len(file.metadata()?.len() / 2)?)
}

/// Each damage is told by the machine, and no snapshot is taken out of the cache with it.
fn damaged() -> Result {
    type Damage = (&'static str, fn(&Path) -> Result, &'static str);
    const ALL: [Damage; 4] = [
        ("state.json", cut_off, "is damaged: it has"),
        ("state.json", |path| change(path, 1000), "is damaged: its bytes are not those that were written"),
        ("state.json", other_version, "is of version 4000000"),
        ("memory", cut_off, "is damaged: "),
    ];
    let place = Place::new()?;
    let mut snapshot = place.snapshot()?;
    for (file, damage, words) in ALL {
        damage(&snapshot.folder().join(file))?;
        let io = RestoreIo {
            name: None,
            serial: Box::new(io::sink()),
            console: None,
            ports: vec![UnixStream::pair()?.0],
            reserved_disk: None,
        };
        match snapshot.fork(&place.disk, io) {
            Ok(_) => return Err(format!("a machine went on from a damaged {file}").into()),
            Err(error) => {
                let text = kiln::vmm::chain(&error);
                assert!(text.contains(words) && text.contains("make it anew"), "{file}: {text}");
                assert!(SnapshotError::is_stale(&error), "{error:?}");
            }
        }
        let before = fs::metadata(snapshot.folder())?;
        snapshot = place.snapshot()?;
        let after = fs::metadata(snapshot.folder())?;
        assert!(
            before.ino() != after.ino() || before.ctime_nsec() != after.ctime_nsec(),
            "{file}: made anew"
        );
    }
    ask(&place.fork(&snapshot)?, &mut Seen::default())
}

/// Runs a case in a process that keeps its snapshots in `cache`, and gives what was noted of its run.
fn run_case(cache: &Path) -> Result<String> {
    let runs = cache.join("runs");
    let _none = fs::remove_dir_all(&runs);
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "forks::guest_tells_what_is_its_own"])
        // As nextest has it: a case that is alone forks, too.
        .envs([("NEXTEST", "1"), ("KILN_KEEP", "1"), ("KILN_SNAPSHOT", "")])
        .env("KILN_CACHE", cache)
        // On this side of the lab, if this is one.
        .env(EVIDENCE_ROOT, &runs)
        .env_remove(EVIDENCE_FD)
        .output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let mut folder = runs;
    // Suite, case, run.
    for _ in 0..3 {
        let mut below = fs::read_dir(&folder)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        folder = below.find(|path| path.is_dir() && !path.is_symlink()).ok_or("no evidence")?;
    }
    Ok(fs::read_to_string(folder.join("run.jsonl"))?)
}

/// A snapshot that the cache takes for whole and no machine goes on from.
fn refused() -> Result {
    let place = Place::new()?;
    let root = place.folder.path().join("cache");
    let first = run_case(&root)?;
    assert!(!first.contains("no fork can be had") && !first.contains("no snapshot"), "{first}");
    let shelf = root.join("snapshots");
    let entry = fs::read_dir(&shelf)?.next().ok_or("the case made no snapshot")??.path();
    // The same in an entry of its own, with a byte changed before the cache takes its account; then in its place.
    let forged = place.cache.entry("tmp-forged", &Key::new("forged"), |folder| {
        fs::create_dir(folder.join("machine"))?;
        for name in ["greeting.json", "console.log", "machine/state.json", "machine/memory"] {
            fs::rename(entry.join(name), folder.join(name))?;
        }
        change(&folder.join("machine/state.json"), 1000)
    })?;
    fs::remove_dir_all(&entry)?;
    fs::rename(&forged, &entry)?;
    let second = run_case(&root)?;
    assert!(second.contains("no fork can be had") && second.contains("make it anew"), "{second}");
    let third = run_case(&root)?;
    assert!(!third.contains("no fork can be had") && !third.contains("no snapshot"), "{third}");
    Ok(())
}
