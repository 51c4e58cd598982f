//! A `kiln-vmm run` with a name, in a runtime folder of its own.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use kiln::cases::{Case, Outcome as Came};
use kiln::gate::Needs;
use kiln::vmm::config::{Boot, CpuMode, MachineConfig};
use kiln::vmm::control::Client;
use kiln::vmm::control::protocol::{Request, Status};
use kiln::vmm::machine::MachineState;
use serde_json::Value;

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Far more than any of these takes on a busy host.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Counts in RAX for ever: `inc rax; jmp` to the start.
pub(crate) const COUNT: &[u8] = &[0x48, 0xff, 0xc0, 0xeb, 0xfb];
/// Writes 42 to the POST port for ever: `mov al, 42; out 0x80, al; jmp` to the second.
pub(crate) const POST: &[u8] = &[0xb0, 42, 0xe6, 0x80, 0xeb, 0xfc];
/// Halts with interrupts on for ever: `sti; hlt; jmp` to the start.
pub(crate) const IDLE: &[u8] = &[0xfb, 0xf4, 0xeb, 0xfc];

pub(crate) fn case(path: &str, body: fn() -> Result) -> Case {
    Case::host(path, Needs::Payload, move || body().map_err(|error| error.to_string()) as Came)
}

/// A folder that machines are in, which goes with it.
pub(crate) struct Runtime(tempfile::TempDir);

/// A machine that runs as a process of its own, which ends with it.
pub(crate) struct Vm {
    child: Child,
    pub(crate) socket: PathBuf,
    _config: tempfile::NamedTempFile,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Runtime {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-vmm"));
        command.args(arguments).env("XDG_RUNTIME_DIR", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `kiln-vmm` with these arguments to its end.
    pub(crate) fn vmm(&self, arguments: &[&str]) -> Result<Said> {
        let Output { status, stdout, stderr } = self.command(arguments).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { status: status.code(), out: text(stdout), err: text(stderr) })
    }

    /// As [`Runtime::vmm`], for a command that must do it: what it says as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.vmm(&[arguments, &["--json"]].concat())?;
        assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{arguments:?}");
        Ok(serde_json::from_str(&said.out)?)
    }

    /// A machine of 16 MiB with `code` in it, called `name`, without waiting for it.
    pub(crate) fn spawn(&self, name: &str, code: &[u8], options: &[&str]) -> Result<Vm> {
        let boot = Boot::Flat { code: code.to_vec(), address: 0x10_0000, mode: CpuMode::Long64 };
        let mut machine = MachineConfig { memory: 16 << 20, boot, ..MachineConfig::default() };
        machine.com1 = kiln::vmm::config::Backend::Nothing;
        let mut config = tempfile::NamedTempFile::new()?;
        config.write_all(machine.to_json()?.as_bytes())?;
        let path = config.path().to_string_lossy().into_owned();
        let arguments = [&["run", "--name", name, "--config", &path], options].concat();
        let child = self.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Vm { child, socket: kiln::vmm::control::socket(&self.path().join("kiln"), name), _config: config })
    }

    /// As [`Runtime::spawn`], and it runs.
    pub(crate) fn start(&self, name: &str, code: &[u8], options: &[&str]) -> Result<Vm> {
        let mut vm = self.spawn(name, code, options)?;
        wait_for("the machine runs", || {
            if let Some(status) = vm.child.try_wait()? {
                return Err(format!("it ended: {status}").into());
            }
            let Ok(mut client) = vm.client() else { return Ok(false) };
            Ok(client.ask_for::<Status>(Request::Status {})?.state == MachineState::Running)
        })?;
        Ok(vm)
    }
}

impl Vm {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&self) -> Result<Client> {
        let client = Client::connect_to(&self.socket)?;
        client.set_limit(Some(LIMIT))?;
        Ok(client)
    }

    /// A connection with nothing said yet, and at least the greeting heard.
    pub(crate) fn raw(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// The counter of vCPU 0.
    pub(crate) fn rax(&self, client: &mut Client) -> Result<String> {
        let dump = client.ask(Request::Dump {})?;
        let rax = &dump["vcpus"][0]["registers"]["rax"];
        Ok(rax.as_str().map_or_else(|| rax.to_string(), str::to_owned))
    }

    pub(crate) fn signal(&self, signal: i32) -> Result {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status()?;
        if sent.success() { Ok(()) } else { Err("kill failed".into()) }
    }

    /// Waits until the process has ended.
    pub(crate) fn ended(mut self) -> Result<ExitStatus> {
        wait_for("it ends", || Ok(self.child.try_wait()?.is_some()))?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("it never came that {what}").into());
        }
        std::thread::yield_now();
    }
    Ok(())
}
