//! The server's side.

use super::{
    LINE_LIMIT_BYTES, Request, Response, invite, manage_keys, mint, set_password, socket_path, with_socket_path,
};
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uproar_http::{SharedChat, Tokens};
use uproar_store::{DataFolder, SharedStore};

/// Commands that are served at the same time. Others wait in the socket's own queue.
const COMMANDS_LIMIT: usize = 4;
/// How long a request may take to arrive, and likewise its answer to be read.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What commands work on.
pub struct Office {
    pub store: SharedStore,
    pub tokens: Arc<Tokens>,
    pub chat: SharedChat,
}

/// The socket, which is removed when this is dropped.
pub struct OperatorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl OperatorSocket {
    /// Creates the socket, with mode 0600. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If something else has its name, or the file system has no sockets.
    pub fn bind(folder: &DataFolder) -> Result<OperatorSocket> {
        let path = socket_path(folder.path());
        let shown = path.display();
        // The folder is locked, so no other server listens on a socket that is left here.
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => {
                fs::remove_file(&path).with_context(|| format!("can't remove {shown}"))?;
            }
            Ok(_) => bail!("{shown} is not a socket; remove it"),
            Err(_) => {}
        }
        let bind = || -> io::Result<UnixListener> {
            let listener = with_socket_path(folder.path(), |path| StdListener::bind(path))?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener = bind().with_context(|| format!("can't create the socket {shown}"))?;
        Ok(OperatorSocket { listener, path })
    }

    /// Serves commands until it is dropped.
    pub async fn serve(self, office: Office) {
        let office = Arc::new(office);
        let mut commands = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if commands.len() < COMMANDS_LIMIT => match accepted {
                    Ok((stream, _)) => _ = commands.spawn(serve_command(stream, Arc::clone(&office))),
                    // Usually there are no free descriptors, and the next attempt would fail too.
                    Err(_) => sleep(ACCEPT_RETRY_AFTER).await,
                },
                Some(_) = commands.join_next() => {}
            }
        }
    }
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve_command(mut stream: UnixStream, office: Arc<Office>) {
    let response = match timeout(IO_TIMEOUT, read_request(&mut stream)).await {
        Ok(Ok(request)) => match office.execute(request).await {
            Ok(text) => Response::Done(text),
            Err(error) => Response::Failed(crate::output::one_line(&error)),
        },
        Ok(Err(error)) => Response::Failed(format!("the server can't read this request: {error}")),
        Err(_) => Response::Failed(format!("no request within {} s", IO_TIMEOUT.as_secs())),
    };
    let Ok(mut line) = serde_json::to_vec(&response) else { return };
    line.push(b'\n');
    // The command may have been interrupted.
    let _ = timeout(IO_TIMEOUT, stream.write_all(&line)).await;
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_LIMIT_BYTES)).read_until(b'\n', &mut line).await?;
    // The parser's own text would quote the request, which may hold a password.
    serde_json::from_slice(&line).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not of this version"))
}

impl Office {
    /// Returns what the command has to print.
    async fn execute(&self, request: Request) -> Result<String> {
        match request {
            Request::Token { user, lifetime_s } => mint(&self.tokens, &self.store.clock(), &user, lifetime_s),
            Request::Password { user, password } => {
                let revocation = set_password(&*self.store, &user, &password).await?;
                self.chat.revoke(revocation).await;
                tracing::info!(
                    user = revocation.user.0,
                    "an operator has set a user's password; its tokens are revoked"
                );
                Ok(String::new())
            }
            Request::ApiKey(request) => manage_keys(&*self.store, &request).await,
            Request::Invite(request) => {
                let code = invite(&*self.store, &request).await?;
                tracing::info!(room = request.room, "an operator has created an invite");
                Ok(code)
            }
        }
    }
}
