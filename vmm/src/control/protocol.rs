//! What is said over a machine's control socket, version 1: lines of JSON, one object each.
//!
//! The machine speaks first, with a [`Greeting`]. Each [`Request`] then gets one [`Reply`], in order; a client that asked
//! for [`Request::Events`] gets [`Event`]s between them. Requests and fields that are not listed here are refused by name, so
//! that a misspelt one is not taken for a default. A later version may add fields to what the machine says: clients
//! skip those that they don't know. What would break them raises [`SCHEMA`].
//!
//! ```text
//! ← {"schema":1,"kiln":"0.1.0","name":"vm","pid":4711}
//! → {"id":1,"request":"pause"}
//! ← {"id":1,"result":{"state":"paused","holders":["control"]}}
//! → {"id":2,"request":"nmi","cpu":9}
//! ← {"id":2,"error":{"kind":"failed","message":"there is no vCPU 9: the machine has 1, counted from 0"}}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dump::VcpuDump;
use crate::outcome::Outcome;
use crate::trace::{Access, AccessCount, ExitKind};
use crate::vcpu::MachineState;

/// The version of what is said.
pub const SCHEMA: u32 = 1;
/// The longest line that a machine reads, its end included, in bytes.
pub const LINE_MAX: usize = 64 << 10;
/// Who holds a machine for those who don't say otherwise.
pub const OWNER: &str = "control";

/// The machine's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The version of what is said: [`SCHEMA`].
    pub schema: u32,
    /// kiln's version.
    pub kiln: String,
    /// The machine's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// What a machine can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What it is and does: [`Status`].
    Status {},
    /// Hold it. The reply ([`Held`]) comes when every vCPU is out of the guest. The hold outlives the connection.
    Pause {
        /// Who holds it, by a name as machines have them; [`OWNER`] if nothing. Each name is a hold of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// End the hold of that owner; the machine goes on if nobody else holds it: [`Held`].
    Resume {
        /// As in [`Request::Pause`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// End it as [`Outcome::Stopped`]: [`End`].
    Stop {},
    /// Pull its reset line, which ends it as [`Outcome::Reset`]; nothing boots anew: [`End`].
    Reset {},
    /// Give a vCPU a non-maskable interrupt: [`Done`].
    Nmi {
        /// Which, from 0.
        cpu: u32,
    },
    /// Send a break and then this key to COM1, which Linux takes for a magic SysRq if its console is there and something
    /// has that terminal open: [`Done`]. What comes of it the guest says on its console: its `kernel.sysrq` mask may refuse the
    /// key (Debian's, 0x1b6, refuses the dumps: `t`, `w`, `l`, `m`), and a kernel without `MAGIC_SYSRQ_SERIAL` takes it for input.
    Sysrq {
        /// The key, a letter or digit.
        key: char,
    },
    /// Lay every vCPU open: [`Dump`].
    Dump {},
    /// How often what happened: [`Stats`].
    Stats {},
    /// The last accesses of each vCPU: [`Accesses`].
    Trace {
        /// How many of each at most; all that are kept if nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<usize>,
    },
    /// Open the machine, which must have been started, to gdb: [`Door`]. The door closes with the machine; one that is
    /// open already, also by `kiln-vmm run --gdb`, is answered again. One debugger at a time comes in.
    Gdb {
        /// `unix:PATH`, from `/` on, or `tcp:[127.0.0.1:]PORT` (0: any); if nothing, or if it is open already, a socket beside
        /// the machine's own. Another one than is open is refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Be told of what happens from now on ([`Event`]): [`Done`].
    Events {},
    /// Wait for its end: [`End`].
    Wait {},
}

/// A request with the number that its reply will bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The client's own; 0 if it gave none.
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// Reads a line.
///
/// # Errors
/// The reply's number, as far as it could be read, and what is wrong with the line.
pub fn parse(line: &[u8]) -> Result<Numbered, (u64, Refusal)> {
    let bad = |id, message| (id, Refusal { kind: Kind::BadRequest, message });
    let mut object: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| bad(0, format!("a request is an object of JSON: {error}")))?;
    let id = match object.remove("id") {
        None => 0,
        Some(id) => id.as_u64().ok_or_else(|| bad(0, "\"id\" is a number from 0".to_owned()))?,
    };
    let request =
        serde_json::from_value(Value::Object(object)).map_err(|error| bad(id, error.to_string()))?;
    Ok(Numbered { id, request })
}

impl Numbered {
    /// The request as a line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut object = json(&self.request);
        if let Value::Object(fields) = &mut object {
            fields.insert("id".to_owned(), self.id.into());
        }
        format!("{object}\n")
    }
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub id: u64,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: Kind,
    /// For people.
    pub message: String,
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The line is no request of this version; it may have been too long, then the connection ends.
    BadRequest,
    /// This connection may not be: another user's, or one too many. It ends.
    NotServed,
    /// The machine has ended.
    Ended,
    /// It could not be done.
    Failed,
}

/// What happens to a machine, told to those who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Every vCPU is out of the guest, and stays out.
    Paused {
        /// Who holds it.
        holders: Vec<String>,
    },
    /// It goes on.
    Resumed,
    /// It has ended; the connection ends next.
    Ended(End),
}

/// The result of [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub state: MachineState,
    /// Who holds it, in the order in which they came.
    pub holders: Vec<String>,
    /// Whether its deadline, if it has one, stands still because of who holds it.
    pub deadline_stands: bool,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Whether the guest said at the pvpanic port that it panicked.
    pub panicked: bool,
    /// How many vCPUs it has.
    pub cpus: u32,
    /// Guest RAM, in bytes.
    pub memory: u64,
    /// Since it was built, in milliseconds.
    pub uptime_ms: u64,
    /// How often its vCPUs have left the guest; nothing if one does not answer at once.
    pub exits: Option<u64>,
}

/// The result of [`Request::Pause`] and [`Request::Resume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What it does now.
    pub state: MachineState,
    /// Who holds it.
    pub holders: Vec<String>,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The outcome, which no later one changes.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether the guest said at the pvpanic port that it panicked.
    pub panicked: bool,
}

/// The result of what has no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The result of [`Request::Dump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// One each, in order. Only a paused machine's are of one moment.
    pub vcpus: Vec<VcpuDump>,
}

/// The result of [`Request::Stats`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// How often vCPUs left the guest, by reason.
    pub exits: BTreeMap<ExitKind, u64>,
    /// How often each device was accessed.
    pub devices: BTreeMap<String, AccessCount>,
    /// How often what is nothing was accessed.
    pub nothing: AccessCount,
    /// How often each vCPU left the guest, in order.
    pub vcpus: Vec<u64>,
}

/// The result of [`Request::Trace`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accesses {
    /// One each, in order.
    pub vcpus: Vec<VcpuAccesses>,
}

/// What a vCPU accessed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuAccesses {
    /// Which vCPU.
    pub index: u32,
    /// Its last accesses, the oldest first.
    pub accesses: Vec<Access>,
}

/// The result of [`Request::Gdb`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// What gdb's `target remote` takes: a socket's path, or `ADDRESS:PORT`.
    pub address: String,
}

/// A value as JSON; all that is said here can be.
pub(super) fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> (u64, String) {
        let (id, refusal) = parse(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.kind, Kind::BadRequest);
        (id, refusal.message)
    }

    #[test]
    fn every_request_reads_back_from_its_line() {
        let owner = Some("ci".to_owned());
        for request in [
            Request::Status {},
            Request::Pause { owner: None },
            Request::Pause { owner: owner.clone() },
            Request::Resume { owner },
            Request::Stop {},
            Request::Reset {},
            Request::Nmi { cpu: 3 },
            Request::Sysrq { key: 'h' },
            Request::Dump {},
            Request::Stats {},
            Request::Trace { last: Some(7) },
            Request::Trace { last: None },
            Request::Gdb { address: None },
            Request::Gdb { address: Some("tcp:0".to_owned()) },
            Request::Events {},
            Request::Wait {},
        ] {
            let numbered = Numbered { id: 7, request };
            assert_eq!(parse(numbered.line().as_bytes()), Ok(numbered));
        }
        assert_eq!(parse(br#"{"request":"status"}"#), Ok(Numbered { id: 0, request: Request::Status {} }));
    }

    #[test]
    fn unknown_requests_and_fields_are_refused_by_name_with_what_there_is() {
        let (id, message) = refused(r#"{"id":5,"request":"sttaus"}"#);
        assert_eq!(id, 5);
        assert!(message.contains("sttaus") && message.contains("`status`"), "{message}");
        for line in [
            r#"{"id":6,"request":"status","verbose":true}"#,
            r#"{"id":6,"request":"pause","verbose":"x"}"#,
            r#"{"id":6,"request":"stop","verbose":1}"#,
            r#"{"id":6,"request":"gdb","verbose":1}"#,
        ] {
            let (id, message) = refused(line);
            assert!(id == 6 && message.contains("verbose"), "{message}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        for line in ["", "x", "[]", "17", "null", "\"a\"", "{}", r#"{"id":1}"#, "{\"request\":1}", "\u{0}"] {
            assert!(!refused(line).1.is_empty(), "{line}");
        }
        assert!(refused(r#"{"id":-1,"request":"status"}"#).1.contains("id"));
        assert!(refused(r#"{"request":"nmi"}"#).1.contains("cpu"));
        assert!(refused(r#"{"request":"nmi","cpu":-1}"#).1.contains("-1"));
        assert!(refused(r#"{"request":"sysrq","key":"ab"}"#).1.contains("character"));
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(10));
        assert!(refused(&deep).1.contains("object"));
        assert!(refused(&format!(r#"{{"a":{deep}"#)).1.contains("recursion"));
        assert!(parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn events_and_ends_are_flat() {
        let end = End { outcome: Outcome::DebugExit { value: 3 }, panicked: false };
        let text = json(&Event::Ended(end.clone())).to_string();
        assert_eq!(text, r#"{"event":"ended","outcome":"debug-exit","panicked":false,"value":3}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), Event::Ended(end));
    }
}
