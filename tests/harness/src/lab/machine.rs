//! QEMU as the lab's machine: started, watched, ended.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_protocol::wire;
use kiln_rootfs::cache::Cache;
use kiln_rootfs::image::{self, Format, ImageSpec};
use kiln_rootfs::progress::Progress;
use kiln_rootfs::{agent, kernel, modules, qemu};
use kiln_vmm::config::DiskConfig;

use super::LabError;
use super::nudge::Nudges;
use crate::agent::{AgentError, Client};
use crate::run::vmlinux_of;

/// What the lab's kernel needs to find its agent's port and disks, and to have a KVM.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "virtio_blk", "kvm", "kvm_amd"];
/// The emulated processor. XSAVE is left out: the emulator carries out a nested guest's `XSETBV` without the exit
/// that SVM owes its hypervisor (seen with 7.2), so KVM answers that guest's `CPUID` with stale sizes, and the
/// guest's kernel warns of them. `CMPXCHG16B` is left out, too: before version 8 the emulator makes its flags of what
/// was last compared, if those of before came from the stack. An exit that comes before they are made anew hands a
/// pointer's bits to the guest as its RFLAGS, with TF or NT in it, and its kernel, which allocates memory by that
/// instruction, dies once in some thousand boots.
const CPU: &str = "max,+svm,-xsave,-cx16";
/// What else is left out where nothing is measured: fast strings (`ERMS`). The emulator does a string instruction step by step, and kernels
/// that believe in them copy and clear by bytes, not by eight at a time: a boot takes more than half as long again.
/// Figures that are compared with others' were measured with them.
const UNMEASURED: &str = ",-erms";
/// By how much the rate of the time stamp counter may be off before KVM takes it for another one, in parts per million. The lab's kernel
/// measures the rate twice: as it starts, and a second later better; KVM keeps the first value for its guests. A host that had other
/// things to do puts both some 750 ppm apart, where 250 are allowed. For a guest that is then "below hardware speed" KVM forgets to set
/// its counter's ratio to the host's (`set_tsc_khz`, arch/x86/kvm/x86.c), takes the counter for one that stands still, and sets each
/// timer as far ahead as the lab is old: no sleep of any guest ends.
const TOLERANCE: &str = "/sys/module/kvm/parameters/tsc_tolerance_ppm";
/// More than the two can be apart: from 1 % on the kernel keeps the first itself.
const ANY: &[u8] = b"20000";
/// Room for the lab's own kernel, and its files twice: packed and unpacked.
const OWN_MEMORY: u64 = 1 << 30;
/// How many of the console's last lines are kept to explain a death.
const TAIL_LINES: usize = 5;

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// Programs of this host to carry in, each with its interpreter and shared libraries, at their own paths.
    pub programs: Vec<PathBuf>,
    /// Files to carry in: where they are here, and where they go.
    pub files: Vec<(PathBuf, String)>,
    /// Disks, by order `/dev/vda`, `/dev/vdb`… inside.
    pub disks: Vec<DiskConfig>,
    /// RAM for the guests inside, in bytes.
    pub guest_memory: u64,
    /// A seed, if the lab's clock is to count instructions, so that figures repeat.
    ///
    /// Of some hundred guests one spins for ever then, with interrupts off, for a lock that it has itself. Where QEMU's emulator enters a
    /// nested guest with an interrupt to deliver, it delivers that at once and keeps the number as an exception to
    /// come (`exception_index`, `helper_vmrun` in target/i386/tcg/sysemu/svm_helper.c). A clock that counts has the emulator leave its loop
    /// whenever a timer is due; if no exception came in between, it delivers the interrupt once more, into its own handler.
    pub counts_instructions: Option<u32>,
    /// After so much wall time a lab that still runs is stuck, and is ended.
    pub guard: Duration,
    /// Where the lab's own console goes.
    pub console: Option<PathBuf>,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            programs: Vec::new(),
            files: Vec::new(),
            disks: Vec::new(),
            guest_memory: 1 << 30,
            counts_instructions: None,
            guard: Duration::from_secs(600),
            console: None,
        }
    }
}

/// A lab that runs. Dropping it ends it and removes what it left.
pub struct Lab {
    client: Client,
    qemu: Qemu,
    guard: Duration,
    /// After the emulator: it ends first.
    _nudges: Nudges,
}

impl Lab {
    /// Brings what is missing, makes the image, starts the machine and waits for its agent.
    ///
    /// Call this from a thread that lives as long as the lab: the machine dies with the thread that began it.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start(cache: &Cache, spec: &LabSpec, progress: &dyn Progress) -> Result<Self, LabError> {
        let qemu = qemu::find(cache, progress)?;
        let kernel = kernel::fetch(cache, None, progress)?;
        let modules_dir = kernel.modules_dir.as_deref();
        let image = ImageSpec {
            agent: Some(agent::build(cache, progress)?),
            modules: modules_dir.map(|dir| modules::closure(dir, MODULES)).transpose()?.unwrap_or_default(),
            release: kernel.release.clone(),
            execs: spec.programs.clone(),
            files: spec.files.clone(),
            hostname: Some("kiln-lab".to_owned()),
            ..ImageSpec::default()
        };
        // A file without a name: nothing is left of it, however this process ends.
        let mut initrd = tempfile::tempfile().map_err(LabError::host("create the lab's image"))?;
        image::write(&image, Format::default(), &mut initrd)?;
        let image_size = initrd.metadata().map_err(LabError::host("measure the lab's image"))?.len();
        // The ELF boots quicker than the image it came in: the emulator is spared the decompression.
        let vmlinux = vmlinux_of(cache, &kernel.image)?.unwrap_or(kernel.image);

        let mut command = Command::new(&qemu.program[0]);
        command.args(&qemu.program[1..]).envs(qemu.env.iter().map(|(name, value)| (name, value)));
        let less = if spec.counts_instructions.is_some() { "" } else { UNMEASURED };
        command.args(["-M", "q35", "-smp", "1", "-cpu"]).arg(format!("{CPU}{less}"));
        command.args(["-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio", "-monitor", "none"]);
        if let Some(seed) = spec.counts_instructions {
            command.args(["-accel", "tcg", "-icount", "shift=1,sleep=off", "-seed", &seed.to_string()]);
            command.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        } else {
            command.args(["-accel", "tcg"]);
        }
        let memory = (OWN_MEMORY + 2 * image_size + spec.guest_memory).div_ceil(1 << 20);
        command.arg("-m").arg(format!("{memory}M"));
        command
            .arg("-kernel")
            .arg(vmlinux)
            .arg("-initrd")
            .arg(format!("/proc/self/fd/{}", initrd.as_raw_fd()));
        command.arg("-append").arg("console=ttyS0 quiet panic=-1 cryptomgr.notests");
        for (index, disk) in spec.disks.iter().enumerate() {
            let path = std::path::absolute(&disk.path).map_err(LabError::host("find the disk"))?;
            let block = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_block_device());
            let driver = if block { "host_device" } else { "file" };
            let path = path.to_string_lossy().replace(',', ",,");
            let read_only = if disk.read_only { "on" } else { "off" };
            command
                .arg("-drive")
                .arg(format!(
                "if=none,id=d{index},driver=raw,read-only={read_only},file.driver={driver},file.filename={path}"
            ));
            command.arg("-device").arg(format!("virtio-blk-pci,drive=d{index}"));
        }
        let (near, far) = UnixStream::pair().map_err(LabError::host("make a socket pair"))?;
        command.args(["-chardev", &format!("socket,id=agent,fd={}", far.as_raw_fd())]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-device", &format!("virtserialport,chardev=agent,name={}", wire::PORT_NAME)]);

        let mut qemu = Qemu::spawn(command, [far.as_raw_fd(), initrd.as_raw_fd()], spec)?;
        drop(far);
        let ready = Client::connect(near).and_then(|client| {
            client.put(TOLERANCE, 0o644, &mut &*ANY)?;
            Ok(client)
        });
        match ready {
            Ok(client) => {
                let nudges = Nudges::begin(client.clone())?;
                Ok(Self { client, qemu, guard: spec.guard, _nudges: nudges })
            }
            Err(source) => Err(qemu.explain(spec.guard, source)),
        }
    }

    /// The agent inside.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the lab from another thread: whoever waits for its agent then finds it lost.
    pub fn ender(&self) -> impl Fn() + Send + 'static {
        let child = self.qemu.child.clone();
        move || drop(child.lock().unwrap_or_else(PoisonError::into_inner).kill())
    }

    /// Turns the loss of the agent into what happened to the lab.
    #[must_use]
    pub fn explain(&mut self, source: AgentError) -> LabError {
        self.qemu.explain(self.guard, source)
    }
}

/// The emulator's process, its console's reader and its guard.
struct Qemu {
    child: Arc<Mutex<Child>>,
    tail: Arc<Mutex<VecDeque<String>>>,
    stuck: Arc<AtomicBool>,
    /// Dropped to end the guard.
    ended: Option<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Qemu {
    /// Starts the emulator, which inherits `descriptors` beside its standard ones; they must stay open
    /// until this returns.
    fn spawn(mut command: Command, descriptors: [RawFd; 2], spec: &LabSpec) -> Result<Self, LabError> {
        let parent = std::process::id();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only async-signal-safe calls are made, on numbers that were fixed
        // before.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                // The emulator dies with the thread that started it, however that ends.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                for descriptor in descriptors {
                    if libc::fcntl(descriptor, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command
            .spawn()
            .map_err(LabError::host(format!("start QEMU ({})", command.get_program().to_string_lossy())))?;
        let streams = [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn io::Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn io::Read + Send>),
        ];
        let log = spec
            .console
            .as_ref()
            .map(|path| File::options().create(true).append(true).open(path))
            .transpose()
            .map_err(LabError::host("open the lab's console log"))?
            .map(|file| Arc::new(Mutex::new(file)));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let mut threads = Vec::new();
        for stream in streams.into_iter().flatten() {
            let (tail, log) = (tail.clone(), log.clone());
            threads.push(std::thread::spawn(move || follow(stream, &tail, log.as_deref())));
        }
        let child = Arc::new(Mutex::new(child));
        let stuck = Arc::new(AtomicBool::new(false));
        let (ended, watch_end) = mpsc::channel::<()>();
        let (guarded, flag, limit) = (child.clone(), stuck.clone(), spec.guard);
        threads.push(std::thread::spawn(move || {
            if watch_end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                let _ = guarded.lock().unwrap_or_else(PoisonError::into_inner).kill();
            }
        }));
        Ok(Self { child, tail, stuck, ended: Some(ended), threads })
    }

    /// Ends the process and waits for all that follows it.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        self.ended.take();
        let status = {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            child.wait().ok()
        };
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        status
    }

    fn explain(&mut self, guard: Duration, source: AgentError) -> LabError {
        let stuck = self.stuck.load(Ordering::SeqCst);
        self.end();
        if stuck {
            return LabError::Stuck { seconds: guard.as_secs() };
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<&str> = tail.iter().map(String::as_str).collect();
        let detail = if said.is_empty() {
            "it said nothing".to_owned()
        } else {
            format!("its last words: {}", said.join(" | "))
        };
        LabError::Died { detail, source }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}

/// Keeps the last lines of `stream`, and all of it in the log.
fn follow(stream: impl io::Read, tail: &Mutex<VecDeque<String>>, log: Option<&Mutex<File>>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    // A line without end is taken in pieces, so that the lab can't grow this process.
    while matches!(io::Read::take(&mut reader, 4096).read_until(b'\n', &mut line), Ok(n) if n > 0) {
        if let Some(log) = log {
            let _ = io::Write::write_all(&mut *log.lock().unwrap_or_else(PoisonError::into_inner), &line);
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if !text.is_empty() {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(text);
        }
        line.clear();
    }
}
