//! Machines in files: TOML or JSON, told apart by how they begin.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ConfigError, MachineConfig};

/// More than any machine takes: a payload of 16 MiB as numbers.
const SIZE_MAX: u64 = 64 << 20;

/// A file that describes no machine.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It can't be read.
    #[error("can't read the machine's configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// It says something that is no machine.
    #[error("configuration {path}, line {line}: {what}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// It says a machine that can't be.
    #[error("configuration {path}")]
    Machine {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ConfigError,
    },
}

impl MachineConfig {
    /// Reads and checks a machine from a file of TOML or JSON. What it does not name is as [`MachineConfig::default`]
    /// has it.
    ///
    /// # Errors
    /// It can't be read, or describes no machine; the line is named.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let read = |source| ConfigFileError::Read { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(read)?;
        if meta.is_dir() {
            return Err(read(std::io::ErrorKind::IsADirectory.into()));
        }
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(read)?;
        file.take(SIZE_MAX).read_to_string(&mut text).map_err(read)?;
        let syntax = |(line, what)| ConfigFileError::Syntax { path: path.to_owned(), line, what };
        let config = parse(&text).map_err(syntax)?;
        config.validate().map_err(|source| ConfigFileError::Machine { path: path.to_owned(), source })?;
        Ok(config)
    }

    /// The machine as JSON, to be read back by [`MachineConfig::read`].
    ///
    /// # Errors
    /// A path is no UTF-8.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The machine as TOML, to be read back by [`MachineConfig::read`].
    ///
    /// # Errors
    /// A path is no UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// Reads a machine; an error says in which line it is, and what.
fn parse(text: &str) -> Result<MachineConfig, (usize, String)> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| {
            // Its words end with the place, which is told before them.
            let words = error.to_string();
            let what = words.rsplit_once(" at line ").map_or(words.as_str(), |(what, _)| what);
            (error.line().max(1), what.to_owned())
        });
    }
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        (before.matches('\n').count() + 1, error.message().lines().collect::<Vec<_>>().join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{
        AllowedRange, Backend, Boot, BusKind, CpuMode, DiskConfig, FwCfgFile, ModuleConfig, PvPanicConfig,
    };
    use super::*;

    /// Machines that between them use all that a configuration can say.
    fn machines() -> Vec<MachineConfig> {
        let module = |string: Option<&str>| ModuleConfig {
            path: "/a module".into(),
            string: string.map(str::to_owned),
        };
        let boots = [
            Boot::Kernel { kernel: "/k".into(), initrd: None, cmdline: "a=\"b c\"".to_owned() },
            Boot::Kernel { kernel: "/k".into(), initrd: Some("/i".into()), cmdline: String::new() },
            Boot::Multiboot {
                kernel: "k".into(),
                modules: vec![module(Some("with words")), module(None)],
                cmdline: "x".to_owned(),
            },
            Boot::Firmware { image: "bios.bin".into() },
            Boot::Flat { code: vec![0xf4, 0], address: 0x1_0000, mode: CpuMode::Real16 },
        ];
        let disk = DiskConfig { path: "disk".into(), read_only: true };
        boots
            .into_iter()
            .map(|boot| MachineConfig {
                boot,
                cpus: 3,
                memory: 5 << 30,
                memory_backing: "huge-pages=explicit,shared,prefault".parse().unwrap(),
                disks: vec![disk.clone(), disk.clone()],
                ports: vec!["kiln.agent".to_owned()],
                com1: Backend::Stdio,
                com2: Backend::File { path: "com2".into() },
                com3: Backend::Pty { link: None },
                com4: Backend::Pty { link: Some("com4".into()) },
                debug_console: Backend::Absent,
                firmware_console: Backend::Socket { path: "s".into() },
                pvpanic: PvPanicConfig::End,
                rtc: true,
                fw_cfg_files: vec![FwCfgFile { name: "opt/x".to_owned(), path: "x".into() }],
                testdev: true,
                strict: true,
                allowed: vec![AllowedRange { bus: BusKind::Mmio, base: 0xfed0_0000, size: 1 }; 2],
                ..MachineConfig::default()
            })
            .collect()
    }

    #[test]
    fn machines_read_back_from_what_is_printed_of_them() {
        for machine in machines() {
            assert_eq!(parse(&machine.to_json().unwrap()), Ok(machine.clone()));
            assert_eq!(parse(&machine.to_toml().unwrap()), Ok(machine));
        }
        assert_eq!(parse(""), Ok(MachineConfig::default()));
    }

    #[test]
    fn toml_is_as_short_as_people_write_it() {
        let text = "cpus = 2\nboot = { kind = \"kernel\", kernel = \"bzImage\", cmdline = \"console=ttyS0\" }\n\
                    com2 = { to = \"pty\" }\n";
        let machine = parse(text).unwrap();
        assert_eq!((machine.cpus, machine.com2), (2, Backend::Pty { link: None }));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, words) in [
            ("cpus = 1\ncpu = 2\n", 2, "unknown field `cpu`"),
            ("cpus = \"two\"\n", 1, "invalid type"),
            ("\n\ncom1 = { to = \"printer\" }\n", 3, "printer"),
            ("memory = -1\n", 1, "invalid value"),
            ("cpus = \n", 1, ""),
            ("{\n  \"cpus\": 1,\n  \"cpu\": 2\n}", 3, "unknown field `cpu`"),
            ("{\n", 2, "EOF"),
            ("boot = { kind = \"teapot\" }\n", 1, "teapot"),
        ] {
            let (at, what) = parse(text).unwrap_err();
            assert!(at == line && what.contains(words), "{text:?}: line {at}: {what}");
            assert!(!what.contains('\n'), "{what}");
        }
    }

    #[test]
    fn file_that_cannot_be_read_or_is_no_machine_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "cpus = 0\n").unwrap();
        let error = MachineConfig::read(file.path()).unwrap_err();
        assert!(crate::chain(&error).contains("0 CPUs"), "{error}");
        std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
        assert!(matches!(MachineConfig::read(file.path()), Err(ConfigFileError::Read { .. })));
        assert!(
            MachineConfig::read(Path::new("/no/such/file"))
                .unwrap_err()
                .to_string()
                .contains("/no/such/file")
        );
        assert!(matches!(MachineConfig::read(Path::new("/tmp")), Err(ConfigFileError::Read { .. })));
    }
}
