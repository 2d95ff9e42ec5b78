//! Proves that the example programs in docs/protocol.md work.

use crate::client::within;
use crate::databases::Kind;
use crate::sdk_client::installed;
use crate::server::{Server, WITH_JOINS};
use std::path::Path;
use tokio::process::Command;

/// The code block after "`NAME`:" in the document.
fn program(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let document = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, after) =
        document.split_once(&format!("\n`{name}`:\n\n```")).expect("the name of the program in the document");
    let (_, code) = after.split_once('\n').expect("the line with the language");
    let (code, _) = code.split_once("\n```\n").expect("the end of the block");
    code.to_owned()
}

/// Runs a program of the document against a server and returns what it prints.
async fn run(name: &str, interpreter: &Path, folder: &Path) -> String {
    let server = Server::start(Kind::any(), &WITH_JOINS).await;
    std::fs::write(folder.join(name), program(name)).expect("the program cannot be written");
    let address = format!("http://127.0.0.1:{}", server.port);
    let mut command = Command::new(interpreter);
    command.arg(name).arg(address).current_dir(folder).kill_on_drop(true);
    let output = within(name, command.output()).await.expect("the program cannot be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[tokio::test]
async fn the_javascript_example_works() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(installed("node_modules"), folder.path().join("node_modules")).expect("a symbolic link");
    let printed = run("quickstart.mjs", Path::new("node"), folder.path()).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("is here: ann-")), "{printed}");
    assert!(lines.iter().any(|line| line.starts_with("1 ann-") && line.ends_with(": Hello")), "{printed}");
    assert!(lines.contains(&"the newest of the history: [ 'Hello' ]"), "{printed}");
    assert!(
        lines.iter().any(|line| line.starts_with("rooms: [ 'lobby-") && line.ends_with(", 0 unread' ]")),
        "{printed}"
    );
}

#[tokio::test]
async fn the_python_example_works() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let printed = run("quickstart.py", &installed("python/bin/python"), folder.path()).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("is here: bob-")), "{printed}");
    assert!(lines.iter().any(|line| line.starts_with("1 bob-") && line.ends_with(": Hello")), "{printed}");
    assert!(lines.contains(&"the newest of the history: ['Hello']"), "{printed}");
    assert!(
        lines.iter().any(|line| line.starts_with("rooms: ['lobby-") && line.ends_with(", 0 unread']")),
        "{printed}"
    );
}
