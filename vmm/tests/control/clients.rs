//! Clients of the control socket that are slow, hostile, too many, or somebody else's.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use kiln::cases::{CASES, Case, linkme};
use kiln::vmm::control::protocol::{Event, Kind, LINE_MAX, Reply, Request, Status};
use kiln::vmm::control::{Client, ClientError};
use kiln::vmm::machine::MachineState;
use serde_json::{Value, json};

use super::vm::{COUNT, Result, Runtime, Vm, case, wait_for};

#[linkme::distributed_slice(CASES)]
#[linkme(crate = linkme)]
static CLIENTS: fn() -> Vec<Case> = || {
    vec![
        case("control::clients::greeting_and_replies_are_lines_of_json", conversation),
        case("control::clients::listener_hears_of_pause_resume_and_end", events),
        case("control::clients::garbage_is_refused_line_by_line", garbage),
        case("control::clients::line_without_end_is_refused_and_ends_the_connection", endless_line),
        case("control::clients::client_that_never_reads_holds_up_nobody", never_reads),
        case("control::clients::more_clients_than_there_may_be_are_refused", hundred),
        case("control::clients::client_that_hangs_up_is_forgotten", hang_up),
        case("control::clients::requests_in_flight_at_the_end_are_answered", in_flight),
        case("control::clients::another_user_is_refused", another_user).lacking(no_other_user()),
    ]
};

/// Says a line, and hears the next.
fn say(stream: &mut BufReader<UnixStream>, line: &str) -> Result<Value> {
    stream.get_mut().write_all(line.as_bytes())?;
    stream.get_mut().write_all(b"\n")?;
    hear(stream)
}

fn hear(stream: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn greeted(vm: &Vm) -> Result<BufReader<UnixStream>> {
    let mut stream = BufReader::new(vm.raw()?);
    let greeting = hear(&mut stream)?;
    assert_eq!((&greeting["schema"], &greeting["pid"]), (&1.into(), &vm.pid().into()), "{greeting}");
    Ok(stream)
}

/// Others are served whatever one client does.
fn serves(vm: &Vm) -> Result {
    let status: Status = vm.client()?.ask_for(Request::Status {})?;
    assert_eq!(status.state, MachineState::Running);
    Ok(())
}

fn conversation() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut stream = BufReader::new(vm.raw()?);
    let kiln = env!("CARGO_PKG_VERSION");
    assert_eq!(hear(&mut stream)?, json!({"schema": 1, "kiln": kiln, "name": "vm", "pid": vm.pid()}));
    let paused = json!({"id": 7, "result": {"state": "paused", "holders": ["control"]}});
    assert_eq!(say(&mut stream, r#"{"id":7,"request":"pause"}"#)?, paused);
    let refused = say(&mut stream, r#"{"id":8,"request":"pause","owner":"a b"}"#)?;
    assert_eq!((&refused["id"], &refused["error"]["kind"]), (&8.into(), &"bad-request".into()));
    // Several at once are answered in order.
    stream
        .get_mut()
        .write_all(b"{\"id\":1,\"request\":\"resume\"}\n\n{\"id\":2,\"request\":\"status\"}\n{\"id\":3}\n")?;
    assert_eq!([hear(&mut stream)?["id"].clone(), hear(&mut stream)?["id"].clone()], [1, 2]);
    assert_eq!(hear(&mut stream)?["id"], 3);
    Ok(())
}

fn events() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let (mut listener, mut other) = (vm.client()?, vm.client()?);
    listener.ask(Request::Events {})?;
    other.ask(Request::Pause { owner: None })?;
    assert_eq!(listener.next_event()?, Event::Paused { holders: vec!["control".to_owned()] });
    other.ask(Request::Resume { owner: None })?;
    assert_eq!(listener.next_event()?, Event::Resumed);
    other.ask(Request::Stop {})?;
    let Event::Ended(end) = listener.next_event()? else { return Err("no end came".into()) };
    assert_eq!((end.outcome, end.panicked), (kiln::vmm::outcome::Outcome::Stopped, false));
    assert!(matches!(listener.next_event(), Err(ClientError::Connection { .. })));
    Ok(())
}

fn garbage() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut stream = greeted(&vm)?;
    let deep = "[".repeat(LINE_MAX - 2);
    for line in [
        "x",
        "[]",
        "{}",
        "\u{1}\u{2}",
        "null",
        r#"{"request":"sttaus"}"#,
        r#"{"request":"status","a":1}"#,
        &deep,
    ] {
        let reply = say(&mut stream, line)?;
        assert_eq!(reply["error"]["kind"], "bad-request", "{reply}");
    }
    stream.get_mut().write_all(&[0xff, 0xfe, 0, b'\n'])?;
    assert_eq!(hear(&mut stream)?["error"]["kind"], "bad-request");
    assert_eq!(say(&mut stream, r#"{"request":"status"}"#)?["result"]["state"], "running");
    serves(&vm)
}

fn endless_line() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut stream = greeted(&vm)?;
    // Short of the limit it waits for more, and others don't.
    stream.get_mut().write_all(&vec![b'x'; LINE_MAX / 2])?;
    serves(&vm)?;
    // It hangs up in the midst of this.
    let _refused = stream.get_mut().write_all(&vec![b'x'; 16 * LINE_MAX]);
    let reply = hear(&mut stream)?;
    assert_eq!((&reply["id"], &reply["error"]["kind"]), (&0.into(), &"bad-request".into()), "{reply}");
    let rest = stream.read(&mut [0; 16]);
    assert!(matches!(rest, Ok(0)) || rest.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    serves(&vm)
}

fn never_reads() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut stream = vm.raw()?;
    stream.set_nonblocking(true)?;
    let mut said = 0;
    // Until the machine hears no more of it, for it has not taken the answers.
    wait_for("it is not heard any more", || {
        let line = b"{\"request\":\"sttaus\"}\n".repeat(100);
        loop {
            match stream.write(&line) {
                Ok(count) => said += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        serves(&vm)?;
        Ok(said > 100_000)
    })?;
    for _ in 0..20 {
        serves(&vm)?;
    }
    Ok(())
}

fn hundred() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut served = Vec::new();
    let mut refused = 0;
    let mut connect = |served: &mut Vec<BufReader<UnixStream>>| -> Result {
        let mut stream = BufReader::new(vm.raw()?);
        let first = hear(&mut stream)?;
        if first["schema"] == 1 {
            served.push(stream);
        } else {
            let reply: Reply = serde_json::from_value(first)?;
            assert_eq!(reply.error.ok_or("no error")?.kind, Kind::NotServed);
            refused += 1;
        }
        Ok(())
    };
    // One that has left before may not have been missed yet.
    wait_for("sixteen are served", || {
        connect(&mut served)?;
        Ok(served.len() == 16)
    })?;
    for _ in 0..84 {
        connect(&mut served)?;
    }
    assert_eq!(served.len(), 16);
    assert!(refused >= 84, "{refused}");
    // Those that are served still are.
    for stream in &mut served {
        assert_eq!(say(stream, r#"{"request":"status"}"#)?["result"]["state"], "running");
    }
    let said = runtime.vmm(&["status", "vm"])?;
    assert!(said.status == Some(125) && said.err.contains("16 clients are connected"), "{}", said.err);
    served.clear();
    wait_for("there is room again", || Ok(vm.client().is_ok()))
}

fn hang_up() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    for _ in 0..50 {
        let mut stream = vm.raw()?;
        stream.write_all(b"{\"request\":\"wait\"}\n")?;
    }
    let mut client = None;
    wait_for("there is room", || {
        client = vm.client().ok();
        Ok(client.is_some())
    })?;
    let mut client: Client = client.ok_or("no client")?;
    // What one asked for before it hung up is done. Once: a second pause might come after the resume.
    greeted(&vm)?.get_mut().write_all(b"{\"request\":\"pause\"}\n")?;
    wait_for("it is paused", || {
        Ok(client.ask_for::<Status>(Request::Status {})?.state == MachineState::Paused)
    })?;
    // One that has said all it will still hears the answer.
    let mut stream = greeted(&vm)?;
    stream.get_mut().write_all(b"{\"request\":\"resume\"}")?;
    stream.get_mut().shutdown(std::net::Shutdown::Write)?;
    assert_eq!(hear(&mut stream)?["result"]["state"], "running");
    assert_eq!(stream.read(&mut [0])?, 0);
    Ok(())
}

fn in_flight() -> Result {
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    let mut waiting = greeted(&vm)?;
    waiting.get_mut().write_all(b"{\"id\":5,\"request\":\"wait\"}\n")?;
    let mut busy = (0..8).map(|_| greeted(&vm)).collect::<Result<Vec<_>>>()?;
    for stream in &mut busy {
        let dumps = "{\"id\":6,\"request\":\"dump\"}\n".repeat(20);
        stream.get_mut().write_all(dumps.as_bytes())?;
    }
    let stopped = vm.client()?.ask(Request::Stop {})?;
    assert_eq!(stopped["outcome"], "stopped");
    assert_eq!(hear(&mut waiting)?, json!({"id": 5, "result": {"outcome": "stopped", "panicked": false}}));
    for stream in &mut busy {
        // Each line is whole, and answers; then the connection ends.
        let mut answers = 0;
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
            let reply: Reply = serde_json::from_str(&line)?;
            assert_eq!(reply.id, 6);
            assert!(reply.result.is_some() || reply.error.is_some_and(|error| error.kind == Kind::Ended));
            answers += 1;
        }
        assert!((1..=20).contains(&answers), "{answers}");
    }
    assert_eq!(vm.ended()?.code(), Some(124));
    Ok(())
}

/// Root alone can become another user; for others, who may connect is a unit test's.
fn no_other_user() -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "needs root, who alone can become another user".to_owned())
}

fn another_user() -> Result {
    /// Nobody's.
    const NOBODY: u32 = 65534;
    let runtime = Runtime::new()?;
    let vm = runtime.start("vm", COUNT, &[])?;
    // What keeps others out is opened: the machine itself must refuse.
    for path in [runtime.path(), &runtime.path().join("kiln"), &vm.socket] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777))?;
    }
    let socket = vm.socket.clone();
    let said = std::thread::spawn(move || -> std::result::Result<String, String> {
        // This thread alone becomes another's.
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        let become_nobody = rustix::thread::set_thread_res_uid(nobody, nobody, nobody);
        become_nobody.map_err(|error| error.to_string())?;
        let stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
        let mut said = String::new();
        BufReader::new(stream).read_line(&mut said).map_err(|error| error.to_string())?;
        Ok(said)
    });
    let said = said.join().map_err(|_| "the other user panicked")??;
    let reply: Reply = serde_json::from_str(&said)?;
    let error = reply.error.ok_or("it was greeted")?;
    assert_eq!(error.kind, Kind::NotServed);
    assert!(error.message.contains("user 65534"), "{}", error.message);
    serves(&vm)
}
