//! A guest that becomes the one that its host says: its name, its time, and what it runs from a disk.

use std::fs;
use std::io::{self, BufRead, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln::agent::{Adoption, AgentError, CaseDisk, Client, Command, Process, ProcessEvent, Status};
use kiln::cases::Guest;
use kiln::rootfs::cache::Cache;
use kiln::rootfs::image::{self, DiskSpec};
use kiln::{guest_test, skip, vm_test};

use super::words::{line, read};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The most that a guest's clock may be off by, in nanoseconds.
const CLOSE: i128 = 10_000_000;
/// Where a fork has its program.
const CASE_PATH: &str = "/run/kiln/case";
/// What the guest's clock is set wrong by before, in seconds: an hour and a bit.
const WRONG: i64 = 3_723;

fn nanoseconds() -> Result<i128> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Sets the clock wrong when it is told to, and tells the time, a line for each line.
#[guest_test]
fn clock_is_told_line_by_line() -> Result {
    for line in io::stdin().lock().lines() {
        if line? == "wrong" {
            let mut time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
            time.tv_sec -= WRONG;
            rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)?;
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", nanoseconds()?)?;
        out.flush()?;
    }
    Ok(())
}

/// A fork has its program where the host has it, and nothing of that in its own memory; a guest that booted has it in its image.
#[guest_test]
fn program_lies_in_memory_of_the_hosts() -> Result {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let Some(mount) = mounts.lines().find(|line| line.split(' ').nth(1) == Some(CASE_PATH)) else {
        skip!("this guest booted");
    };
    let words: Vec<&str> = mount.split(' ').collect();
    assert_eq!(words[0], "/dev/pmem0", "{mount}");
    assert!(words[3].split(',').any(|option| option == "dax=always"), "{mount}");
    assert!(words[3].split(',').any(|option| option == "ro"), "{mount}");
    assert_eq!(fs::read_to_string("/sys/block/pmem0/queue/dax")?.trim(), "1");
    Ok(())
}

/// Says where it is.
#[guest_test]
fn program_says_its_path() -> Result {
    println!("{}", fs::read_link("/proc/self/exe")?.display());
    Ok(())
}

fn case(client: &Client, program: &str, name: &str, stdin: bool) -> Result<Process> {
    let env = vec![("KILN_GUEST_CASE".to_owned(), format!("adoption::{name}"))];
    Ok(client.exec(Command { argv: vec![program.to_owned()], env, stdin, ..Command::default() })?)
}

fn own() -> Result<String> {
    Ok(std::env::current_exe()?.to_string_lossy().into_owned())
}

/// Between what the guest's clock is off by, in nanoseconds: by as many questions as it takes, for any may take long.
fn clock_is_off_by(process: &mut Process, stdin: &mut impl Write, word: &str) -> Result<(i128, i128)> {
    const QUESTIONS: usize = 20;
    let (mut low, mut high) = (i128::MIN, i128::MAX);
    for _ in 0..QUESTIONS {
        let before = nanoseconds()?;
        writeln!(stdin, "{word}")?;
        let guest: i128 = line(process)?.parse()?;
        low = low.max(guest - nanoseconds()?);
        high = high.min(guest - before);
    }
    Ok((low, high))
}

#[vm_test]
fn adopted_guest_has_the_time_of_its_host(guest: &mut Guest) -> Result {
    let client = guest.client();
    let mut process = case(client, &own()?, "clock_is_told_line_by_line", true)?;
    let mut stdin = process.take_stdin().ok_or("no standard input")?;
    writeln!(stdin, "wrong")?;
    let wrong: i128 = line(&mut process)?.parse()?;
    assert!(nanoseconds()? - wrong > i128::from(WRONG) * 1_000_000_000 - CLOSE, "{wrong}");
    let began = Instant::now();
    let adopted = client.adopt(&Adoption { entropy: vec![5; 64], ..Adoption::default() })?;
    let took = began.elapsed();
    let (low, high) = clock_is_off_by(&mut process, &mut stdin, "tell")?;
    eprintln!("adopted in {took:?} ({adopted:?}); the clock is off by {low} to {high} ns");
    // It is off by something between the two, which is all that can be seen from here.
    assert!(low <= CLOSE && high >= -CLOSE, "{low} {high}");
    assert!(i128::from(adopted.clock_error) <= CLOSE, "{adopted:?}");
    Ok(())
}

#[vm_test(disk = scratch("1M"), disk = scratch("128M"))]
fn adopted_guest_runs_what_its_disk_brings(guest: &mut Guest) -> Result {
    // A program that the guest does not have; nothing here runs it.
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("target/program");
    fs::create_dir_all(folder.path().join("target"))?;
    fs::copy(own()?, &program)?;
    let path = fs::canonicalize(&program)?.to_string_lossy().into_owned();
    let cache = Cache::open(Some(folder.path().join("cache")))?;
    let began = Instant::now();
    let disk = image::disk(&cache, &DiskSpec { execs: vec![program], files: Vec::new() })?;
    eprintln!("a disk of {} KiB in {:?}", fs::metadata(&disk)?.len() >> 10, began.elapsed());
    io::copy(&mut fs::File::open(&disk)?, &mut guest.open_disk(1)?)?;

    let client = guest.client();
    let began = Instant::now();
    client.settle()?;
    eprintln!("settled in {:?}", began.elapsed());
    let began = Instant::now();
    client.adopt(&Adoption {
        entropy: vec![7; 64],
        hostname: Some("fork-17".to_owned()),
        machine_id: Some([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xf0]),
        disk: Some(CaseDisk { serial: "vdb".to_owned(), size: 128 << 20 }),
    })?;
    let adopted = began.elapsed();
    let mut process = case(client, &path, "program_says_its_path", false)?;
    assert_eq!(line(&mut process)?, format!("/run/kiln/case{path}"));
    eprintln!("adopted in {adopted:?}, and the program speaks after {:?}", began.elapsed());
    loop {
        match process.next_event()? {
            ProcessEvent::Exited(status) => break assert_eq!(status, Status::Code(0)),
            other => eprintln!("{other:?}"),
        }
    }
    assert_eq!(read(client, "/proc/sys/kernel/hostname")?, "fork-17");
    assert_eq!(read(client, "/etc/machine-id")?, "000102030405060708090a0b0c0d0ef0");
    let mounts = read(client, "/proc/mounts")?;
    let mount = mounts.lines().find(|line| line.starts_with("/dev/vdb /run/kiln/case ext4 ro,"));
    assert!(mount.is_some(), "{mounts}");
    Ok(())
}

#[vm_test(disk = scratch("1M"))]
fn guest_refuses_what_it_cannot_be(guest: &mut Guest) -> Result {
    let client = guest.client();
    let refused = |adoption: Adoption| match client.adopt(&adoption) {
        Err(AgentError::Refused { errno, message }) => Ok((errno, message)),
        other => Err(format!("{adoption:?}: {other:?}")),
    };
    let whole = Adoption { entropy: vec![9; 64], ..Adoption::default() };
    let disk = Some(CaseDisk { serial: "vdz".to_owned(), size: 512 });
    let (_, message) = refused(Adoption { disk, ..whole.clone() })?;
    assert_eq!(message, "no virtio disk has the serial number vdz");
    // There is no file system on it.
    let disk = Some(CaseDisk { serial: "vda".to_owned(), size: 1 << 20 });
    let (_, message) = refused(Adoption { disk, ..whole.clone() })?;
    assert!(message.starts_with("mount /dev/vda at /run/kiln/case: "), "{message}");
    for length in [0, 31, 513] {
        let (_, message) = refused(Adoption { entropy: vec![9; length], ..Adoption::default() })?;
        assert!(message.starts_with("reseed the kernel's random numbers: "), "{message}");
    }
    let (_, message) = refused(Adoption { hostname: Some("x".repeat(65)), ..whole.clone() })?;
    assert!(message.starts_with("set the host name: "), "{message}");
    // None of them ended the connection, or what can be.
    client.adopt(&whole)?;
    Ok(())
}

#[vm_test]
fn guest_with_something_under_way_is_not_settled(guest: &mut Guest) -> Result {
    let client = guest.client();
    let mut process = case(client, &own()?, "clock_is_told_line_by_line", true)?;
    let mut stdin = process.take_stdin().ok_or("no standard input")?;
    writeln!(stdin, "tell")?;
    line(&mut process)?;
    let refused = client.settle();
    assert!(
        matches!(&refused, Err(AgentError::Refused { message, .. }) if message.contains("under way")),
        "{refused:?}"
    );
    drop(stdin);
    while !matches!(process.next_event()?, ProcessEvent::Exited(Status::Code(0))) {}
    for _ in 0..3 {
        client.settle()?;
    }
    assert!(read(client, "/proc/version")?.starts_with("Linux"));
    Ok(())
}
