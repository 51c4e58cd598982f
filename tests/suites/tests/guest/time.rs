//! The time, and what tells it: KVM's clock, the local APIC's timers, the machine's own lines.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use kiln::cases::Guest;
use kiln::{guest_test, vm_test};

/// The counts of the interrupt that `/proc/interrupts` calls `name`, a processor each.
fn counts(name: &str) -> io::Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let line = line.ok_or_else(|| io::Error::other(format!("no interrupt {name} in:\n{text}")))?;
    Ok(line.split_whitespace().map_while(|word| word.parse().ok()).collect())
}

#[guest_test]
fn clock_is_that_of_kvm() -> io::Result<()> {
    let of = |file| fs::read_to_string(format!("/sys/devices/system/clocksource/clocksource0/{file}"));
    assert_eq!(of("current_clocksource")?.trim(), "kvm-clock", "there are: {}", of("available_clocksource")?);
    Ok(())
}

#[guest_test(cpus = 2)]
fn timer_of_each_processor_counts() -> io::Result<()> {
    let before = counts("LOC")?;
    assert_eq!(before.len(), 2, "{before:?}");
    // A sleep ends by a timer's interrupt on some processor; both are kept at it until both have had one.
    loop {
        let sleepers = [0, 1].map(|_| std::thread::spawn(|| std::thread::sleep(Duration::from_millis(5))));
        for sleeper in sleepers {
            sleeper.join().map_err(|_| io::Error::other("a thread panicked"))?;
        }
        let now = counts("LOC")?;
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            return Ok(());
        }
    }
}

#[guest_test]
fn sleep_takes_no_less_than_it_was_to() {
    let (began, wanted) = (Instant::now(), Duration::from_millis(50));
    std::thread::sleep(wanted);
    assert!(began.elapsed() >= wanted);
}

#[guest_test]
fn serial_port_interrupts_through_the_io_apic() -> io::Result<()> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let line = text.lines().find(|line| line.ends_with("ttyS0"));
    assert!(line.is_some_and(|line| line.contains("IO-APIC")), "{text}");
    Ok(())
}

#[vm_test(disk = scratch("1M"))]
fn kick_of_a_queue_leaves_no_trace_of_an_exit(guest: &mut Guest) -> Result<(), Box<dyn std::error::Error>> {
    /// Virtio over MMIO's `QueueNotify` (virtio 1.2, §4.2.2).
    const QUEUE_NOTIFY: u64 = 0x50;
    let mut disk = Vec::new();
    guest.client().get("/dev/vda", &mut disk)?;
    assert_eq!(disk.len(), 1 << 20);
    let trace = guest.machine().trace()?;
    assert!(
        trace.devices().contains_key("virtio-blk vda"),
        "the driver set the disk up: {:?}",
        trace.devices()
    );
    let kicks = trace.vcpus.iter().flat_map(|vcpu| &vcpu.accesses);
    let kicks: Vec<_> = kicks
        .filter(|access| !access.pio && access.write && access.address & 0xfff == QUEUE_NOTIFY)
        .collect();
    assert_eq!(kicks.len(), 0, "{kicks:?}");
    Ok(())
}

#[guest_test]
fn time_of_day_is_the_hosts() -> io::Result<()> {
    // There is no clock to read but KVM's: without it the year were 1970.
    let since =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    assert!(since > Duration::from_secs(50 * 365 * 86_400), "{since:?}");
    Ok(())
}

#[guest_test(cpus = 2)]
fn time_never_goes_back_between_processors() -> io::Result<()> {
    let (there, asks) = std::sync::mpsc::channel::<Instant>();
    let (back, answers) = std::sync::mpsc::channel::<Instant>();
    let other = std::thread::spawn(move || {
        for asked in asks {
            let now = Instant::now();
            assert!(now >= asked, "it is {:?} earlier there", asked - now);
            if back.send(now).is_err() {
                break;
            }
        }
    });
    for _ in 0..2000 {
        let asked = Instant::now();
        there.send(asked).map_err(io::Error::other)?;
        let answered = answers.recv().map_err(io::Error::other)?;
        assert!(Instant::now() >= answered && answered >= asked);
    }
    drop(there);
    other.join().map_err(|_| io::Error::other("the clocks of two processors differ"))
}

#[guest_test]
fn uptime_grows_with_the_clock() -> io::Result<()> {
    let uptime = || -> io::Result<f64> {
        let text = fs::read_to_string("/proc/uptime")?;
        text.split(' ').next().unwrap_or_default().parse().map_err(io::Error::other)
    };
    let (before, began) = (uptime()?, Instant::now());
    std::thread::sleep(Duration::from_millis(100));
    let (grown, passed) = (uptime()? - before, began.elapsed().as_secs_f64());
    // It is told in hundredths of a second.
    assert!(grown >= 0.09 && grown <= passed + 0.02, "{grown} of {passed}");
    Ok(())
}
