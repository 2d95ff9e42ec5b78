//! The side of the commands.

use super::{ANSWER_LIMIT_BYTES, Request, Response, socket_path, with_socket_path};
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a server that uses this data folder takes requests.
///
/// # Errors
/// If that can't be found out, usually because this user has no right to.
pub fn is_served(folder: &Path) -> Result<bool> {
    Ok(connect(folder)?.is_some())
}

/// Asks the server that uses this data folder. Returns what to print. `None`: no server takes requests there.
///
/// # Errors
/// What the server says, or why it can't be asked.
pub fn ask(folder: &Path, request: &Request) -> Result<Option<String>> {
    let Some(stream) = connect(folder)? else { return Ok(None) };
    let path = socket_path(folder);
    let response =
        exchange(stream, request).with_context(|| format!("no answer from the server at {}", path.display()));
    match response? {
        Response::Done(text) => Ok(Some(text)),
        Response::Failed(text) => Err(anyhow!(text)),
    }
}

fn connect(folder: &Path) -> Result<Option<UnixStream>> {
    match with_socket_path(folder, |path| UnixStream::connect(path)) {
        Ok(stream) => Ok(Some(stream)),
        // There is no such folder or socket; or the server was killed, and its socket is left.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => {
            let path = socket_path(folder).display().to_string();
            Err(anyhow!("can't reach the server at {path}: {error}; run this command as the server's user"))
        }
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> Result<Response> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_LIMIT_BYTES)).read_line(&mut answer)?;
    if answer.is_empty() {
        bail!("it has closed the connection; its log may say why");
    }
    Ok(serde_json::from_str(&answer)?)
}
