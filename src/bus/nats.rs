//! NATS as a bus: all nodes of a cluster publish on one subject, and subscribe to it. Nothing that is sent is kept: a
//! session that ends has missed something. Therefore the client's own way to connect again is not used: it would hide
//! that, and send what is out of date.

use anyhow::{Context, Result, bail};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, Subscriber};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use std::error::Error;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

/// The longest message, in bytes. Servers take 1 MiB by default.
pub(super) const MESSAGE_LIMIT_BYTES: usize = 128 * 1024;
/// The longest text of a `live:` message, as a JSON string: it fits into a message.
pub const LIVE_LIMIT_BYTES: usize = 120_000;
/// Messages that have arrived and are not taken yet. More are lost, which the numbers show.
const RECEIVED_LIMIT: usize = 1_024;
/// Messages that wait to be written. More make the sender wait.
const SENT_LIMIT: usize = 128;
/// What went wrong, until it is looked at. The first one is the reason.
const FAULTS_LIMIT: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to try all servers. After five seconds without a session, the bus begins with the first one
/// again.
const ROUND_TIMEOUT: Duration = Duration::from_secs(4);
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(2);
const CREDENTIALS_LIMIT_BYTES: u64 = 64 * 1024;
/// Where `uproar check` sends something to itself.
const CHECK_SUBJECT: &str = "uproar.check";

/// The servers of `--bus`, with what is needed to sign in.
#[derive(Clone)]
pub struct Nats {
    servers: Vec<Server>,
    /// The file is read for each session, so that it can be replaced while the node runs.
    credentials: Option<PathBuf>,
    /// It trusts what the system trusts.
    tls: ClientConfig,
}

/// It shows the address without the password.
#[derive(Clone, Debug)]
pub struct Server {
    address: ServerAddr,
    sign_in: Option<SignIn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SignIn {
    Token(String),
    User(String, String),
}

/// A connection with a server, on which all nodes of a cluster send to each other.
pub(super) struct Session {
    sender: Sender,
    receiver: Receiver,
}

/// Sends to all nodes.
pub(super) struct Sender {
    client: Client,
    subject: String,
}

/// Receives what all nodes send, this one included.
pub(super) struct Receiver {
    subscriber: Subscriber,
    faults: mpsc::Receiver<String>,
}

impl Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address.host(), self.address.port())
    }
}

impl Server {
    /// Takes `nats://` or `tls://`, an optional `USER:PASSWORD@` or `TOKEN@`, a host and an optional port.
    fn parse(url: &str) -> Result<Server> {
        // What is before the @ may be secret.
        let shown = url.rsplit_once('@').map_or(url, |(_, address)| address).escape_debug();
        let usual = "a server of NATS is named like nats://HOST:4222 or tls://HOST:4222";
        let Ok(address) = ServerAddr::from_str(url) else { bail!("--bus: '{shown}' is not valid; {usual}") };
        let url = address.clone().into_inner();
        if !matches!(url.scheme(), "nats" | "tls") || address.host().is_empty() {
            bail!("--bus: '{shown}' is not valid; {usual}");
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            bail!("--bus: there is more than a host and a port in '{shown}'; {usual}");
        }
        let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => bail!("--bus: the user or password for '{shown}' is not UTF-8"),
        };
        let sign_in = match (url.username(), url.password()) {
            ("", None) => None,
            (token, None) => Some(SignIn::Token(decoded(token)?)),
            (user, Some(password)) => Some(SignIn::User(decoded(user)?, decoded(password)?)),
        };
        Ok(Server { address, sign_in })
    }
}

impl Nats {
    /// Takes URLs, separated by commas. What the first one says of scheme and user is valid for those that say nothing.
    ///
    /// # Errors
    /// If one of them is invalid.
    pub fn parse(list: &str) -> Result<Vec<Server>> {
        let mut urls = list.split(',').map(str::trim).filter(|url| !url.is_empty()).peekable();
        let scheme = urls.peek().and_then(|first| first.split_once("://")).map_or("nats", |(scheme, _)| scheme);
        let with_scheme = |url: &str| match url.contains("://") {
            true => url.to_owned(),
            false => format!("{scheme}://{url}"),
        };
        let mut servers = urls.map(|url| Server::parse(&with_scheme(url))).collect::<Result<Vec<_>>>()?;
        let sign_in = servers.iter().find_map(|server| server.sign_in.clone());
        servers.iter_mut().for_each(|server| server.sign_in = server.sign_in.take().or(sign_in.clone()));
        Ok(servers)
    }

    /// Reads the file of credentials, if there is one, and what certificates are trusted.
    ///
    /// # Errors
    /// If there are no credentials in the file, or others too.
    pub fn new(servers: Vec<Server>, credentials: Option<&Path>) -> Result<Nats> {
        if let Some(path) = credentials {
            if servers.iter().any(|server| server.sign_in.is_some()) {
                bail!("--bus-credentials and a user or token in --bus exclude each other");
            }
            let text = read_credentials(path)?;
            ConnectOptions::with_credentials(&text).with_context(|| {
                format!(
                    "--bus-credentials: {} is not a file of credentials of NATS (.creds, with a user's JWT and seed)",
                    path.display()
                )
            })?;
        }
        // It is also needed if a server asks for TLS although the URL does not.
        let tls = crate::roots::usual().context("--bus")?.config().as_ref().clone();
        Ok(Nats { servers, credentials: credentials.map(Path::to_owned), tls })
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Opens a session with the first server that can be reached, for this cluster.
    ///
    /// # Errors
    /// If none can be reached, in one line.
    pub(super) async fn open(&self, cluster: &str) -> Result<Session, String> {
        let limit = CONNECT_TIMEOUT.min(ROUND_TIMEOUT / self.servers.len() as u32);
        let mut reasons = Vec::new();
        for server in &self.servers {
            match self.open_with(server, format!("uproar.{cluster}"), limit).await {
                Ok(session) => return Ok(session),
                Err(reason) => reasons.push(format!("{server}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    async fn open_with(&self, server: &Server, subject: String, limit: Duration) -> Result<Session, String> {
        let (report, faults) = mpsc::channel(FAULTS_LIMIT);
        let mut options = ConnectOptions::new()
            .name("uproar")
            .connection_timeout(limit)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(RECEIVED_LIMIT)
            .client_capacity(SENT_LIMIT)
            // 0 means without end. After the first one the session is given up.
            .max_reconnects(1)
            .ignore_discovered_servers()
            .require_tls(server.address.tls_required())
            .tls_client_config(self.tls.clone())
            .event_callback(move |event| {
                // When there are too many, the earlier ones say enough.
                let _ = fault(event).map(|fault| report.try_send(fault));
                std::future::ready(())
            });
        options = match &server.sign_in {
            Some(SignIn::Token(token)) => options.token(token.clone()),
            Some(SignIn::User(user, password)) => options.user_and_password(user.clone(), password.clone()),
            None => options,
        };
        if let Some(path) = &self.credentials {
            let text = read_credentials(path).map_err(|error| crate::output::one_line(&error))?;
            options = options.credentials(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let opened = async {
            let client = options.connect(server.address.clone()).await.map_err(|error| refusal(&error))?;
            let payload = client.max_payload();
            if payload < MESSAGE_LIMIT_BYTES {
                return Err(format!("its max_payload of {payload} bytes is too small; set it to the default, 1 MB"));
            }
            let subscriber = client.subscribe(subject.clone()).await.map_err(|error| error.to_string())?;
            client.flush().await.map_err(|error| error.to_string())?;
            Ok(Session { sender: Sender { client, subject }, receiver: Receiver { subscriber, faults } })
        };
        timeout(limit, opened).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    /// Sends something to itself through this server. Returns the version of the server.
    ///
    /// # Errors
    /// If it does not come back, in one line.
    pub async fn reach(&self, server: &Server) -> Result<String, String> {
        let Session { sender, mut receiver } =
            self.open_with(server, CHECK_SUBJECT.to_owned(), CONNECT_TIMEOUT).await?;
        let word = format!("{:016x}", getrandom::u64().unwrap_or_default());
        sender.send(std::slice::from_ref(&word)).await?;
        let came_back = async {
            while receiver.next().await? != word {}
            Ok(sender.client.server_info().version)
        };
        timeout(CONNECT_TIMEOUT, came_back).await.unwrap_or_else(|_| Err("what is sent does not come back".to_owned()))
    }
}

impl Session {
    pub fn split(&mut self) -> (&Sender, &mut Receiver) {
        (&self.sender, &mut self.receiver)
    }
}

impl Sender {
    /// Sends texts of at most [`MESSAGE_LIMIT_BYTES`], and waits until they have been written.
    ///
    /// # Errors
    /// If it is unknown whether they were sent, in one line.
    pub async fn send(&self, messages: &[String]) -> Result<(), String> {
        let sent = async {
            for message in messages {
                let message = message.clone().into();
                self.client.publish(self.subject.clone(), message).await.map_err(|error| error.to_string())?;
            }
            self.client.flush().await.map_err(|error| error.to_string())
        };
        timeout(SEND_TIMEOUT, sent).await.unwrap_or_else(|_| Err("NATS takes nothing".to_owned()))
    }
}

impl Receiver {
    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// If the session has ended, in one line.
    pub async fn next(&mut self) -> Result<String, String> {
        tokio::select! {
            biased;
            Some(fault) = self.faults.recv() => Err(fault),
            message = self.subscriber.next() => match message {
                Some(message) => Ok(String::from_utf8_lossy(&message.payload).into_owned()),
                None => Err("the session with NATS has ended".to_owned()),
            },
        }
    }
}

/// Why a session could not be opened.
fn refusal(error: &ConnectError) -> String {
    match (error.kind(), error.source()) {
        (ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication, _) => {
            "it does not accept the user, password, token or credentials".to_owned()
        }
        (ConnectErrorKind::TimedOut, _) => "it does not answer".to_owned(),
        (ConnectErrorKind::Io, Some(source)) => source.to_string(),
        _ => error.to_string(),
    }
}

/// Why a session must end, if this is a reason.
fn fault(event: Event) -> Option<String> {
    match event {
        Event::ServerError(error) => Some(error.to_string()),
        Event::Disconnected | Event::Closed => Some("the connection with NATS has ended".to_owned()),
        Event::LameDuckMode => Some("the server of NATS is about to stop".to_owned()),
        // What it has lost leaves a gap in the numbers.
        Event::SlowConsumer(_) | Event::Connected | Event::Draining | Event::ClientError(_) => None,
    }
}

fn read_credentials(path: &Path) -> Result<String> {
    let shown = path.display();
    let unreadable = || format!("--bus-credentials: can't read {shown}");
    // Opening a named pipe would wait until something writes to it.
    if !std::fs::metadata(path).with_context(unreadable)?.is_file() {
        bail!("--bus-credentials: {shown} is not a regular file");
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(CREDENTIALS_LIMIT_BYTES).read_to_string(&mut text))
        .with_context(unreadable)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Vec<(String, bool, Option<SignIn>)> {
        let servers = Nats::parse(list).unwrap();
        servers.iter().map(|it| (it.to_string(), it.address.tls_required(), it.sign_in.clone())).collect()
    }

    #[test]
    fn servers_are_listed_by_url() {
        let server = |shown: &str, is_tls| (shown.to_owned(), is_tls, None);
        assert_eq!(parse("nats://a"), [server("a:4222", false)]);
        assert_eq!(parse(" nats://a:1 , tls://b/, "), [server("a:1", false), server("b:4222", true)]);
        assert_eq!(
            parse("tls://a,b:2,10.0.0.1"),
            [server("a:4222", true), server("b:2", true), server("10.0.0.1:4222", true)]
        );
        assert_eq!(parse("nats://[::1]:3"), [server("::1:3", false)]);
    }

    #[test]
    fn users_and_tokens_are_taken_from_the_url() {
        let user = |name: &str, password: &str| Some(SignIn::User(name.to_owned(), password.to_owned()));
        let sign_ins = |list: &str| parse(list).into_iter().map(|(.., sign_in)| sign_in).collect::<Vec<_>>();
        assert_eq!(sign_ins("nats://ann:a%40b@h"), [user("ann", "a@b")]);
        assert_eq!(sign_ins("nats://s%3Acret@h"), [Some(SignIn::Token("s:cret".to_owned()))]);
        // The others have the same one.
        assert_eq!(sign_ins("nats://ann:x@h,i,ben:y@j"), [user("ann", "x"), user("ann", "x"), user("ben", "y")]);
    }

    #[test]
    fn invalid_urls_are_explained_without_secrets() {
        for list in [
            "http://h",
            "ws://ann:secret@h",
            "nats://",
            "nats://ann:secret@",
            "nats://ann:secret@h:port",
            "nats://h,nats://ann:secret@h:99999",
            "nats://ann:secret@h/x",
            "nats://ann:secret@h?x",
            "nats://ann:secret@h h",
            "nats://%ff:secret@h",
        ] {
            let error = Nats::parse(list).unwrap_err().to_string();
            assert!(error.starts_with("--bus: ") && error.lines().count() == 1, "{list}: {error}");
            assert!(!error.contains("secret"), "{list}: {error}");
        }
    }

    #[test]
    fn files_of_credentials_must_contain_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.creds");
        let error =
            |servers: &str| format!("{:#}", Nats::new(Nats::parse(servers).unwrap(), Some(&path)).err().unwrap());
        assert!(error("nats://h").starts_with("--bus-credentials: can't read "), "{}", error("nats://h"));
        for garbage in ["", "hello", "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n", "\u{0}"] {
            std::fs::write(&path, garbage).unwrap();
            assert!(error("nats://h").contains("node.creds is not a file of credentials of NATS"), "{garbage}");
        }
        std::fs::write(&path, [0xff; 9]).unwrap();
        assert!(error("nats://h").starts_with("--bus-credentials: can't read "));
        assert!(error("nats://token@h").contains("exclude each other"));
    }
}
