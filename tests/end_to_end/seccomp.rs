//! Proves that a server and its tools need no other system calls than those in `deploy/seccomp.json`.
//!
//! libseccomp ignores the names of calls that an architecture lacks, but seccompiler does not. So this runs on x86-64.
#![cfg(target_arch = "x86_64")]

use crate::acme::{Authority, until_issued};
use crate::databases::Kind;
use crate::server::{Server, Setup, uproar};
use seccompiler::{BpfProgram, apply_filter};
use serde_json::{Value, json};
use std::fs;
use std::thread;
use tokio::runtime::Handle;

/// A child process calls this before it becomes the server.
const START: &str = "dup2";
const URING: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

on_each_database! {
    alone "the system calls of one process are filtered":
    a_server_and_its_tools_need_no_other_calls
}

/// The filter of the profile, without some of the calls that it allows.
fn filter(forbidden: &[&str]) -> BpfProgram {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/seccomp.json");
    let profile: Value = serde_json::from_str(&fs::read_to_string(path).expect(path)).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rules = vec![json!({"syscall": START})];
    for group in list(&profile["syscalls"]) {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        let condition = |argument: &Value| {
            assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ");
            let operator = json!({"masked_eq": argument["value"]});
            json!({"index": argument["index"], "type": "qword", "op": operator, "val": argument["valueTwo"]})
        };
        let conditions: Vec<Value> = list(&group["args"]).iter().map(condition).collect();
        let names = list(&group["names"]);
        for name in names.iter().filter(|name| !forbidden.contains(&name.as_str().expect("a name"))) {
            rules.push(match conditions.is_empty() {
                true => json!({"syscall": name}),
                false => json!({"syscall": name, "args": conditions}),
            });
        }
    }
    let filter =
        json!({"mismatch_action": {"errno": profile["defaultErrnoRet"]}, "match_action": "allow", "filter": rules});
    let text = json!({"server": filter}).to_string();
    let mut programs =
        seccompiler::compile_from_json(text.as_bytes(), seccompiler::TargetArch::x86_64).expect("a filter");
    programs.remove("server").expect("its program")
}

/// Calls this from a thread to which, as to the processes that it starts, only the calls of the filter are allowed.
fn under<T: Send + 'static>(filter: &BpfProgram, start: impl FnOnce() -> T + Send + 'static) -> T {
    let (filter, runtime) = (filter.clone(), Handle::current());
    let thread = thread::spawn(move || {
        let _inside = runtime.enter();
        apply_filter(&filter).expect("the filter can't be applied");
        start()
    });
    thread.join().expect("it panics under the filter")
}

async fn start(setup: Setup, filter: &BpfProgram) -> Server {
    let server = under(filter, || setup.launch()).listens().await;
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("the status of the server");
    assert!(status.contains("Seccomp:\t2\n"), "no filter is in force: {status}");
    server
}

async fn a_server_and_its_tools_need_no_other_calls(kind: Kind) {
    let uring = ::uproar::driver::uring::available();
    for (driver, filter) in [("uring", filter(&[])), ("epoll", filter(&URING))] {
        let setup = Setup::new(kind, &["--driver", "auto"]).await;
        let mut server = start(setup, &filter).await;
        match &uring {
            Err(reason) if driver == "uring" => eprintln!("skipped: {reason}"),
            _ => server.setup.logs(&[&format!("driver=\"{driver}\"")]).await,
        }
        let ann = server.sign_up("ann").await;
        server.create_room(&ann, "lobby").await;
        let mut at_ann = server.join(&ann, "room=lobby").await;
        at_ann.send("hello").await;
        assert_eq!(at_ann.message().await, (1, "hello".into()));
        assert_eq!(server.history(&ann, "lobby").await.len(), 1);
        for path in ["/", "/healthz", "/readyz", "/metrics"] {
            assert_eq!(server.get(path, "").await.status, 200, "{path}");
        }

        let data = server.setup.data();
        let copy = data.with_file_name(format!("copy-{driver}.db"));
        let url = format!("http://127.0.0.1:{}", server.port);
        let mut tools = vec![vec!["token", "--user", "bot"], vec!["health", &url]];
        if kind == Kind::Sqlite {
            tools.push(vec!["backup", copy.to_str().expect("UTF-8")]);
        }
        for tool in tools {
            let mut command = uproar(&tool);
            command.arg("--data").arg(&data);
            let output = under(&filter, move || command.output()).await.expect("the tool can't be started");
            assert!(output.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_is_ordered_without_other_calls() {
    let authority = Authority::start().await;
    for driver in ["auto", "epoll"] {
        let mut server = start(authority.setup(driver, "chat.example.org").await, &filter(&[])).await;
        until_issued(&server, 1).await;
        server.stop().await;
    }
}
