//! All options and commands, with their defaults, environment variables and help; and the configuration file.
#![allow(rustdoc::bare_urls, rustdoc::broken_intra_doc_links, reason = "doc comments of options are help texts")]

use crate::bus::nats::{self, Nats};
use crate::traces::Share;
use crate::{acme, driver, help, output};
use anyhow::{Context, Result, bail};
use clap::builder::{
    BoolishValueParser, EnumValueParser, PathBufValueParser, PossibleValue, StringValueParser, TypedValueParser,
};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, value_parser};
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::{Table, Value};
use uproar_core::limits::Limits;
use uproar_http::invites::{INVITE_LIFETIME_LIMIT_S, INVITE_USES_LIMIT, LIFETIME_DEFAULT_S};
use uproar_store::{DataFolder, DatabaseUrl, Scopes, UsersBy};
use uproar_tls::Files;

/// A self-hosted real-time chat backend.
///
/// Without a command, Uproar runs the server. Without options, the server listens on http://localhost:8080 and keeps
/// its database and its signing key in ./data.
#[derive(Debug, Parser)]
#[command(name = "uproar", version, max_term_width = 120, args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Tool>,
    #[command(flatten)]
    pub options: Options,
}

/// The tools. [`crate::help`] says which of the shared options each of them uses.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Prints a new token for a user
    ///
    /// It works while the server runs. If the user does not exist, the server creates the user, without a password,
    /// when it first sees the token.
    Token {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user: String,
        /// How long the token is valid, in seconds
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = 3600,
            value_parser = Trimmed(value_parser!(u64).range(1..=315_360_000))
        )]
        lifetime: u64,
    },
    /// Copies the SQLite database into a new file
    ///
    /// It works while the server runs. Back up PostgreSQL with its own tools.
    Backup {
        /// The file to create
        file: PathBuf,
    },
    /// Makes all clients start over after the database was restored to an earlier state
    ///
    /// It is needed only where the server can't detect the restore by itself. The server must not be running.
    Restored,
    /// Replaces the key that signs tokens, which makes all tokens and cookies invalid
    ///
    /// The server must not be running. If several servers share a database, stop all of them, and copy the new key to
    /// the others.
    NewKey,
    /// Sets a user's password and invalidates the user's tokens
    ///
    /// It asks for the new password on the terminal, or else reads it from standard input. It works while the server
    /// runs.
    Password {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user: String,
    },
    /// Moves everything from SQLite to an empty PostgreSQL database, which --database names
    ///
    /// Afterwards the server is started with the same options. Accounts, tokens and positions stay valid, so clients
    /// resume where they were. The server must not be running. The SQLite file stays as it is, apart from a mark that
    /// keeps servers from using it.
    Migrate {
        /// The SQLite file to move [default: uproar.db in the data folder]
        #[arg(long, value_name = "FILE", value_parser = path())]
        from: Option<PathBuf>,
    },
    /// Lists the nodes that use the PostgreSQL database together
    ///
    /// It prints the name, state, version and start of each server with --bus, and when it last said that it is alive.
    Nodes,
    /// Adds, lists or removes keys of the server API, or prints what was done with them
    ///
    /// `add NAME --user BOT` makes a key and prints it, this once. `list` shows the keys, and `remove NAME` removes
    /// one, which is refused within a second on every node. `log` prints the newest lines of the audit log. It works
    /// while the server runs.
    ApiKey {
        /// What to do
        action: KeyAction,
        /// Name of the key to add or remove
        name: Option<String>,
        /// For add: name of the user whose messages the key publishes; created if there is none
        #[arg(long, value_name = "BOT")]
        user: Option<String>,
        /// For add: what the key may do, from publish,read,manage,impersonate [default: publish,read,manage]
        #[arg(
            long,
            value_name = "SCOPES",
            value_parser = Trimmed(StringValueParser::new().try_map(|text| text.parse::<Scopes>()))
        )]
        scope: Option<Scopes>,
        /// For add: how the key names users, id, subject or username [default: id]
        #[arg(
            long,
            value_name = "HOW",
            value_parser = Trimmed(StringValueParser::new().try_map(|text| text.parse::<UsersBy>()))
        )]
        users: Option<UsersBy>,
        /// For log: how many lines [default: 100]
        #[arg(long, value_name = "N", value_parser = Trimmed(value_parser!(u16).range(1..=1000)))]
        last: Option<u16>,
    },
    /// Makes a link with which people sign up and join a room
    ///
    /// It is how the first people get onto a server with --sign-up invite; members can then invite others on the page.
    /// With --room, those who follow the link become members of that room. It works while the server runs.
    Invite {
        /// Name of a room, which may be private
        #[arg(long, value_name = "NAME")]
        room: Option<String>,
        /// How many people can use the link, up to 10000 [default: as many as like]
        #[arg(
            long,
            value_name = "N",
            value_parser = Trimmed(value_parser!(u32).range(1..=i64::from(INVITE_USES_LIMIT)))
        )]
        uses: Option<u32>,
        /// How long the link can be used, up to a year (31536000)
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = LIFETIME_DEFAULT_S,
            value_parser = Trimmed(value_parser!(u64).range(1..=INVITE_LIFETIME_LIMIT_S))
        )]
        lifetime: u64,
        /// Where people find the server, such as https://chat.example.org [default: --public-url, or the first address
        /// that the server listens on]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Checks everything that a start needs, without starting
    ///
    /// It prints one line for each thing that it has looked at: the options, the data folder, the addresses, the
    /// certificate, the signing key and the database. A line that starts with "problem:" says what would keep the
    /// server from starting, and what to do. A server may be running. Run it as the user that runs the server.
    Check,
    /// Exits with status 0 if a running server responds
    ///
    /// It is meant for the health check of a container. It asks the first address that the server listens on, one
    /// without TLS if there is any, for /healthz, which is answered as long as the process can serve requests, with or
    /// without its database. To learn whether the server can do all its work, name its /readyz. Over TLS it does not
    /// verify the certificate.
    Health {
        /// What to ask for, such as http://127.0.0.1:8080/readyz
        url: Option<String>,
    },
    /// Prints a completion script for a shell
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man,
}

/// The options that the server and its tools share.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// TOML file with options. Keys are the option names without the leading dashes; limits are in a [limit] table, and
    /// webhooks in [[webhook]] tables. The command line and the environment override it
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_CONFIG", value_parser = path())]
    pub config: Option<PathBuf>,

    /// Address and port to listen on; repeatable. Port 0 picks a free port
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS:PORT",
        env = "UPROAR_LISTEN",
        value_delimiter = ',',
        value_parser = text(),
        default_value = "127.0.0.1:8080"
    )]
    pub listen: Vec<String>,

    /// Address and port to listen on with TLS (https, wss); repeatable. It needs --tls-cert and --tls-key, or
    /// --tls-acme
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS:PORT",
        env = "UPROAR_LISTEN_TLS",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub listen_tls: Vec<String>,

    /// File with the certificate and then its chain, in PEM. It is loaded again when it changes, and on SIGHUP
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_TLS_CERT", value_parser = path())]
    pub tls_cert: Option<PathBuf>,

    /// File with the private key of the certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_TLS_KEY", value_parser = path())]
    pub tls_key: Option<PathBuf>,

    /// Domain to get a certificate for by ACME, instead of --tls-cert; repeatable. Its port 443 must lead to
    /// --listen-tls. Using this option means that you accept the terms of the certificate authority
    #[arg(
        long,
        global = true,
        value_name = "DOMAIN",
        env = "UPROAR_TLS_ACME",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub tls_acme: Vec<String>,

    /// E-mail address at which the certificate authority can reach you
    #[arg(long, global = true, value_name = "ADDRESS", env = "UPROAR_TLS_ACME_EMAIL", value_parser = text())]
    pub tls_acme_email: Option<String>,

    /// Directory of the certificate authority [default: Let's Encrypt]
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_TLS_ACME_DIRECTORY", value_parser = text())]
    pub tls_acme_directory: Option<String>,

    /// File with the roots that the certificate of --tls-acme-directory may come from, in PEM [default: those of the
    /// system]
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_TLS_ACME_CA", value_parser = path())]
    pub tls_acme_ca: Option<PathBuf>,

    /// Address and port that only sends clients to the same address with https
    #[arg(long, global = true, value_name = "ADDRESS:PORT", env = "UPROAR_REDIRECT_HTTP", value_parser = text())]
    pub redirect_http: Option<String>,

    /// Tell browsers to use nothing but https for this host name during the next year (Strict-Transport-Security)
    #[arg(long, global = true, env = "UPROAR_HSTS", value_parser = switch())]
    pub hsts: bool,

    /// Address and port for operators only. It serves /metrics, /admin/webhooks and the reasons in /readyz, and then it
    /// alone serves the server API
    #[arg(long, global = true, value_name = "ADDRESS:PORT", env = "UPROAR_ADMIN_LISTEN", value_parser = text())]
    pub admin_listen: Option<String>,

    /// Serve /metrics and the reasons in /readyz on the public port too, to anyone
    #[arg(long, global = true, env = "UPROAR_PUBLIC_METRICS", value_parser = switch())]
    pub public_metrics: bool,

    /// Network of proxies whose headers X-Forwarded-For, X-Forwarded-Proto and traceparent are trusted, such as
    /// 10.0.0.0/8; repeatable
    #[arg(
        long,
        global = true,
        value_name = "CIDR",
        env = "UPROAR_TRUSTED_PROXY",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub trusted_proxy: Vec<String>,

    /// Private network that the server may send requests to, such as 10.0.0.0/8, with or without TLS; repeatable
    #[arg(
        long,
        global = true,
        value_name = "CIDR",
        env = "UPROAR_OUTGOING_ALLOW",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub outgoing_allow: Vec<String>,

    /// Folder for the signing key, the SQLite database and the lock file; created if it is missing
    #[arg(
        long,
        global = true,
        value_name = "FOLDER",
        env = "UPROAR_DATA",
        value_parser = path(),
        default_value = "./data"
    )]
    pub data: PathBuf,

    /// sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/NAME [default: SQLite in the data folder]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "UPROAR_DATABASE",
        hide_env_values = true,
        value_parser = text()
    )]
    pub database: Option<String>,

    /// Run as one of several nodes that share a PostgreSQL database. The bus carries what each node commits to the
    /// others. It is `postgres`, or servers of NATS such as nats://HOST:4222, separated by commas
    #[arg(
        long,
        global = true,
        value_name = "BUS",
        env = "UPROAR_BUS",
        hide_env_values = true,
        value_parser = text()
    )]
    pub bus: Option<String>,

    /// File of credentials for NATS (.creds)
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_BUS_CREDENTIALS", value_parser = path())]
    pub bus_credentials: Option<PathBuf>,

    /// Name of this node, in log lines and `uproar nodes` [default: the host name]
    #[arg(long, global = true, value_name = "NAME", env = "UPROAR_NODE", value_parser = text())]
    pub node: Option<String>,

    /// Threads that serve connections, each with its own event loop [default: one per core]
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "UPROAR_SHARDS",
        value_parser = Trimmed(value_parser!(u16).range(1..=1024))
    )]
    pub shards: Option<u16>,

    /// Writers that commit batches of messages to PostgreSQL in parallel, one batch at a time each. SQLite always has
    /// one
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "UPROAR_LANES",
        default_value_t = 4,
        value_parser = Trimmed(value_parser!(u16).range(1..=64))
    )]
    pub lanes: u16,

    /// Kernel interface for the sockets
    #[arg(
        long,
        global = true,
        env = "UPROAR_DRIVER",
        value_parser = Trimmed(EnumValueParser::<Driver>::new()),
        ignore_case = true,
        default_value = "auto"
    )]
    pub driver: Driver,

    /// Origin whose pages may use the API and connect, such as https://chat.example.org; repeatable; * allows all
    /// [default: the server's own origin]
    #[arg(
        long,
        global = true,
        value_name = "ORIGIN",
        env = "UPROAR_ALLOW_ORIGIN",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub allow_origin: Vec<String>,

    /// Origin whose pages may show a room in a frame, such as https://www.example.org; repeatable
    #[arg(
        long,
        global = true,
        value_name = "ORIGIN",
        env = "UPROAR_EMBED_ORIGIN",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub embed_origin: Vec<String>,

    /// File with the key that signs tokens, 32 to 4096 bytes [default: signing.key in the data folder, created at the
    /// first start]
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_KEY_FILE", value_parser = path())]
    pub key_file: Option<PathBuf>,

    /// File with a key of the server API, one line, that may do everything in the name of the user uproar
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_API_KEY_FILE", value_parser = path())]
    pub api_key_file: Option<PathBuf>,

    /// Name of an API key. What your backend writes into the table uproar_outbox in PostgreSQL is executed with the
    /// rights of this key
    #[arg(long, global = true, value_name = "KEY", env = "UPROAR_OUTBOX", value_parser = text())]
    pub outbox: Option<String>,

    /// Identity provider whose tokens are accepted: the URL in their claim `iss`. Its keys are found by OpenID Connect
    /// Discovery. It needs --auth-audience
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_AUTH_ISSUER", value_parser = text())]
    pub auth_issuer: Option<String>,

    /// URL of the keys of --auth-issuer (JWKS), for a provider without discovery
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_AUTH_JWKS", value_parser = text())]
    pub auth_jwks: Option<String>,

    /// Audience for which the provider's tokens must be issued: what their claim `aud` contains
    #[arg(long, global = true, value_name = "AUDIENCE", env = "UPROAR_AUTH_AUDIENCE", value_parser = text())]
    pub auth_audience: Option<String>,

    /// File with a key, at least 32 bytes. Tokens that your backend signs with it (HS256) are accepted, as for
    /// Centrifugo
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_AUTH_HMAC_KEY_FILE", value_parser = path())]
    pub auth_hmac_key_file: Option<PathBuf>,

    /// Claim with the name of a new user, in the tokens of other systems [default: info.name, preferred_username, name]
    #[arg(long, global = true, value_name = "CLAIM", env = "UPROAR_AUTH_USERNAME_CLAIM", value_parser = text())]
    pub auth_username_claim: Option<String>,

    /// Identity provider with which users sign in on the page (OpenID Connect). It needs --oidc-client-id and
    /// --public-url
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_OIDC_ISSUER", value_parser = text())]
    pub oidc_issuer: Option<String>,

    /// What the provider calls this server
    #[arg(long, global = true, value_name = "ID", env = "UPROAR_OIDC_CLIENT_ID", value_parser = text())]
    pub oidc_client_id: Option<String>,

    /// File with the secret that the provider has given this server, if it has
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_OIDC_CLIENT_SECRET_FILE", value_parser = path())]
    pub oidc_client_secret_file: Option<PathBuf>,

    /// What the page calls the provider [default: the host of --oidc-issuer]
    #[arg(long, global = true, value_name = "NAME", env = "UPROAR_OIDC_NAME", value_parser = text())]
    pub oidc_name: Option<String>,

    /// Where users find this server, such as https://chat.example.org [default: where a request was sent to]
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_PUBLIC_URL", value_parser = text())]
    pub public_url: Option<String>,

    /// Whether users sign in, and up, with a password: on or off
    #[arg(
        long,
        global = true,
        value_name = "SWITCH",
        env = "UPROAR_PASSWORD_SIGN_IN",
        action = ArgAction::Set,
        value_parser = switch(),
        default_value = "on"
    )]
    pub password_sign_in: bool,

    /// Who may create an account with a password: open (everybody), invite (those whom somebody has invited) or closed
    /// (nobody)
    #[arg(
        long,
        global = true,
        value_name = "WHO",
        env = "UPROAR_SIGN_UP",
        value_parser = Trimmed(EnumValueParser::<SignUp>::new()),
        ignore_case = true,
        default_value = "open"
    )]
    pub sign_up: SignUp,

    /// Accept tokens in the URL of a WebSocket (?token=), although proxies and shells may keep them
    #[arg(long, global = true, env = "UPROAR_QUERY_TOKEN", value_parser = switch())]
    pub query_token: bool,

    /// Serve /echo, which sends back everything it receives, for conformance tests and benchmarks
    #[arg(long, global = true, env = "UPROAR_ECHO", value_parser = switch())]
    pub echo: bool,

    /// Set a limit; repeatable. `uproar --help` lists the limits
    #[arg(
        long,
        global = true,
        value_name = "NAME=VALUE",
        env = "UPROAR_LIMIT",
        value_delimiter = ',',
        value_parser = text()
    )]
    pub limit: Vec<String>,

    /// Send traces to the OpenTelemetry collector with this base URL (OTLP over HTTP), such as http://localhost:4318
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_OTLP", value_parser = text())]
    pub otlp: Option<String>,

    /// Header for the collector, percent-encoded, such as authorization=Bearer%20TOKEN; repeatable
    #[arg(
        long,
        global = true,
        value_name = "NAME=VALUE",
        env = "UPROAR_OTLP_HEADERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = text()
    )]
    pub otlp_headers: Vec<String>,

    /// Share of the traces to record, from 0 to 1
    #[arg(
        long,
        global = true,
        value_name = "SHARE",
        env = "UPROAR_OTLP_SAMPLE",
        value_parser = Trimmed(StringValueParser::new().try_map(|text| text.parse::<Share>())),
        default_value = "1"
    )]
    pub otlp_sample: Share,

    /// What to log to standard error: error, warn, info, debug or trace, or a filter such as uproar_store=debug
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "UPROAR_LOG",
        value_parser = text(),
        default_value = "info"
    )]
    pub log: String,

    /// The `[[webhook]]` tables of the configuration file.
    #[arg(skip)]
    pub webhooks: Vec<Table>,
}

/// What to do with the keys of the server API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyAction {
    /// Add a key
    Add,
    /// List the keys
    List,
    /// Remove a key
    Remove,
    /// Print the audit log
    Log,
}

/// The longest name of a node.
const NODE_NAME_LIMIT_BYTES: usize = 100;

/// Where the certificate comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum TlsSource {
    Files(Files),
    /// It is ordered by ACME.
    Acme(acme::Settings),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SignUp {
    /// Everybody
    Open,
    /// Those who have an invite
    Invite,
    /// Nobody
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring if it is available, otherwise epoll
    Auto,
    /// io_uring
    Uring,
    /// epoll, for machines that forbid io_uring
    Epoll,
}

impl Driver {
    /// None: the best one available.
    pub fn requested(self) -> Option<driver::Driver> {
        match self {
            Driver::Auto => None,
            Driver::Uring => Some(driver::Driver::Uring),
            Driver::Epoll => Some(driver::Driver::Epoll),
        }
    }
}

/// Parses a value without the spaces around it. All options do so, because quotes and line ends of container files
/// easily end up in a variable.
#[derive(Clone)]
struct Trimmed<P>(P);

impl<P: TypedValueParser> TypedValueParser for Trimmed<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<P::Value, clap::Error> {
        self.0.parse_ref(command, argument, OsStr::from_bytes(value.as_bytes().trim_ascii()))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

fn text() -> Trimmed<StringValueParser> {
    Trimmed(StringValueParser::new())
}

fn path() -> Trimmed<PathBufValueParser> {
    Trimmed(PathBufValueParser::new())
}

/// Takes words such as `true` and `off`, and rejects all others: `disabled` must not switch something on.
fn switch() -> Trimmed<BoolishValueParser> {
    Trimmed(BoolishValueParser::new())
}

impl Cli {
    /// Reads the arguments, the environment and the configuration file, in this order of precedence. If clap rejects
    /// them, it prints one line and ends the process with exit status 2.
    pub fn load() -> Result<Cli> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let (command, webhooks) = Cli::command_and_webhooks(&arguments)?;
        let matches = command.try_get_matches_from(&arguments);
        match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(mut cli) => {
                cli.options.webhooks = webhooks;
                Ok(cli)
            }
            Err(error) if error.use_stderr() => {
                output::note(format_args!("uproar: {}", one_line(&error)));
                std::process::exit(error.exit_code())
            }
            // The output of --help or --version.
            Err(error) => {
                match error.print().and_then(|()| std::io::stdout().flush()) {
                    Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                        Err(error).context("can't write to standard output")
                    }
                    // It is not an error if the reader stops early.
                    _ => std::process::exit(0),
                }
            }
        }
    }

    /// The complete command line, with the values of the configuration file, if there is one, as defaults; and what
    /// only the file can have.
    fn command_and_webhooks(arguments: &[OsString]) -> Result<(clap::Command, Vec<Table>)> {
        let command = without_empty_variables(Cli::command());
        let lenient = command.clone().ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
        let matches = lenient.try_get_matches_from(arguments).ok();
        let (command, webhooks) = match matches.as_ref().and_then(|matches| matches.get_one::<PathBuf>("config")) {
            Some(path) => {
                let mut table = read_file(path)?;
                let webhooks = take_webhooks(&mut table, path)?;
                (with_defaults(command, path, table)?, webhooks)
            }
            None => (command, Vec::new()),
        };
        Ok((help::complete(command), webhooks))
    }
}

/// Ignores the variables that are set to nothing, as container files often set those that they don't use.
fn without_empty_variables(mut command: clap::Command) -> clap::Command {
    let is_empty = |argument: &&clap::Arg| {
        argument
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.as_encoded_bytes().trim_ascii().is_empty())
    };
    let empty: Vec<clap::Id> =
        command.get_arguments().filter(is_empty).map(|argument| argument.get_id().clone()).collect();
    for id in empty {
        command = command.mut_arg(id, |argument| argument.env(None::<&'static str>));
    }
    command
}

/// The variables that look like options and are none, such as misspelt ones.
pub fn unknown_variables() -> Vec<String> {
    let mut command = Cli::command();
    command.build();
    let known: Vec<&OsStr> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    let names = std::env::vars_os().map(|(name, _)| name).filter(|name| !known.contains(&name.as_os_str()));
    let mut unknown: Vec<String> =
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| looks_like_an_option(name)).collect();
    unknown.sort();
    unknown
}

/// Kubernetes sets variables such as `UPROAR_SERVICE_HOST` and `UPROAR_PORT_8080_TCP` for a service that is called
/// `uproar`.
fn looks_like_an_option(variable: &str) -> bool {
    variable.strip_prefix("UPROAR_").is_some_and(|rest| !rest.starts_with("SERVICE_") && !rest.starts_with("PORT"))
}

/// The elements of a list, which people write with trailing commas.
fn elements(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(String::as_str).filter(|element| !element.is_empty())
}

fn read_file(path: &Path) -> Result<Table> {
    let unreadable = || format!("can't read the configuration file {}", path.display());
    // Opening a named pipe would wait until something writes to it. Containers mount the file as a link to a file.
    if !std::fs::metadata(path).with_context(unreadable)?.is_file() {
        bail!("the configuration file {} is not a regular file", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(unreadable)?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        anyhow::anyhow!("{}, line {line}: {}", path.display(), error.message())
    })
}

/// Takes the `[[webhook]]` tables out, which are no options.
fn take_webhooks(table: &mut Table, path: &Path) -> Result<Vec<Table>> {
    let tables = match table.remove("webhook") {
        None => return Ok(Vec::new()),
        Some(Value::Array(tables)) => tables,
        Some(_) => bail!("{}: webhooks are written as [[webhook]], with two brackets", path.display()),
    };
    let as_table = |value: Value| match value {
        Value::Table(table) => Ok(table),
        _ => bail!("{}: webhooks are written as [[webhook]], with two brackets", path.display()),
    };
    tables.into_iter().map(as_table).collect()
}

/// Makes the values of the configuration file the defaults of the options.
fn with_defaults(command: clap::Command, path: &Path, table: Table) -> Result<clap::Command> {
    table.into_iter().try_fold(command, |command, (name, value)| set_default(command, path, &name, &value))
}

/// Joins the lines of an error of clap, without the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    let words: Vec<&str> = text[..end.unwrap_or(text.len())].split_whitespace().collect();
    format!("{}; `uproar --help` lists the options", words.join(" "))
}

fn set_default(command: clap::Command, path: &Path, name: &str, value: &Value) -> Result<clap::Command> {
    let path = path.display();
    let argument = command.get_arguments().find(|argument| argument.get_long() == Some(name) && name != "config");
    let Some(argument) = argument else {
        bail!("{path}: there is no option '{name}'; `uproar --help` lists the options");
    };
    let (id, is_repeatable) = (argument.get_id().clone(), matches!(argument.get_action(), ArgAction::Append));
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(boolean) => Ok(boolean.to_string()),
        _ => bail!("{path}: '{name}' must be a string, an integer, a boolean, or a list of these"),
    };
    let values: Vec<String> = match value {
        Value::Array(_) if !is_repeatable => bail!("{path}: '{name}' must be a single value, not a list"),
        Value::Array(values) => values.iter().map(scalar).collect::<Result<_>>()?,
        // The [limit] table.
        Value::Table(table) if name == "limit" => {
            table.iter().map(|(name, value)| Ok(format!("{name}={}", scalar(value)?))).collect::<Result<_>>()?
        }
        value => vec![scalar(value)?],
    };
    Ok(command.mut_arg(id, |argument| argument.default_values(values)))
}

impl Options {
    /// The limits: the defaults with the changes of --limit.
    pub fn limits(&self) -> Result<Limits> {
        let mut limits = Limits::default();
        for assignment in elements(&self.limit) {
            limits.set(assignment).map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        }
        limits.check().map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        Ok(limits)
    }

    /// The addresses to listen on. A host name such as `localhost` stands for all its addresses.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let addresses = resolve_all("--listen", &self.listen)?;
        if addresses.is_empty() && elements(&self.listen_tls).next().is_none() {
            bail!("--listen: there is no address; name one, such as 127.0.0.1:8080");
        }
        Ok(addresses)
    }

    /// The addresses to listen on with TLS.
    pub fn tls_addresses(&self) -> Result<Vec<SocketAddr>> {
        resolve_all("--listen-tls", &self.listen_tls)
    }

    /// Where the certificate comes from, if an address speaks TLS.
    pub fn tls_source(&self) -> Result<Option<TlsSource>> {
        let acme = [
            ("--tls-acme-email", self.tls_acme_email.is_some()),
            ("--tls-acme-directory", self.tls_acme_directory.is_some()),
            ("--tls-acme-ca", self.tls_acme_ca.is_some()),
        ];
        let files = [("--tls-cert", self.tls_cert.is_some()), ("--tls-key", self.tls_key.is_some())];
        let others = [("--tls-acme", !self.tls_acme.is_empty()), ("--redirect-http", self.redirect_http.is_some())];
        let first =
            |options: &[(&'static str, bool)]| options.iter().find(|(_, is_set)| *is_set).map(|(name, _)| *name);
        if elements(&self.listen_tls).next().is_none() {
            return match first(&[&files[..], &others, &acme].concat()) {
                Some(option) => bail!(
                    "{option} has no effect without --listen-tls; name the address for TLS with it, such as 0.0.0.0:443"
                ),
                None => Ok(None),
            };
        }
        if !self.tls_acme.is_empty() {
            if let Some(option) = first(&files) {
                bail!("{option} and --tls-acme exclude each other: name a certificate, or have one ordered");
            }
            let email = self.tls_acme_email.as_deref();
            let directory = self.tls_acme_directory.as_deref();
            let ca = self.tls_acme_ca.clone();
            return Ok(Some(TlsSource::Acme(acme::Settings::new(elements(&self.tls_acme), email, directory, ca)?)));
        }
        if let Some(option) = first(&acme) {
            bail!("{option} has no effect without --tls-acme; name the domain with it, such as chat.example.org");
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Ok(Some(TlsSource::Files(Files { certificate: certificate.clone(), key: key.clone() })))
            }
            (None, _) => bail!(
                "--listen-tls needs a certificate; name its file with --tls-cert, or have one ordered with --tls-acme"
            ),
            (Some(_), None) => {
                bail!("--listen-tls needs the private key of the certificate; name its file with --tls-key")
            }
        }
    }

    /// The address that only sends clients to https.
    pub fn redirect_address(&self) -> Result<Option<SocketAddr>> {
        let Some(text) = &self.redirect_http else { return Ok(None) };
        Ok(resolve("--redirect-http", text)?.next())
    }

    /// The origins of `--allow-origin`.
    pub fn origins(&self) -> Vec<&str> {
        elements(&self.allow_origin).collect()
    }

    /// The origins of `--embed-origin`.
    pub fn embed_origins(&self) -> Vec<&str> {
        elements(&self.embed_origin).collect()
    }

    /// The headers of `--otlp-headers`.
    pub fn otlp_headers(&self) -> impl Iterator<Item = &str> {
        elements(&self.otlp_headers)
    }

    /// The networks of `--trusted-proxy`.
    pub fn trusted_networks(&self) -> Vec<&str> {
        elements(&self.trusted_proxy).collect()
    }

    /// The networks of `--outgoing-allow`.
    pub fn outgoing_networks(&self) -> Vec<&str> {
        elements(&self.outgoing_allow).collect()
    }

    /// The address of the operators' port, if it has one of its own.
    pub fn admin_address(&self) -> Result<Option<SocketAddr>> {
        let Some(text) = &self.admin_listen else { return Ok(None) };
        Ok(resolve("--admin-listen", text)?.next())
    }

    /// The database; by default SQLite in the data folder.
    pub fn database_url(&self) -> Result<DatabaseUrl> {
        match &self.database {
            Some(text) => DatabaseUrl::from_str(text).map_err(|error| anyhow::anyhow!("--database: {error}")),
            None => Ok(DatabaseUrl::Sqlite(self.data.join(DataFolder::DATABASE_FILE))),
        }
    }

    /// The name of this process as a node, if it is one.
    pub fn node(&self) -> Result<Option<String>> {
        if self.nats_servers()?.is_none() && self.bus_credentials.is_some() {
            bail!("--bus-credentials has no effect without NATS; add --bus nats://HOST:4222");
        }
        if self.bus.is_none() {
            return match self.node {
                Some(_) => bail!("--node has no effect without --bus; add --bus postgres"),
                None => Ok(None),
            };
        }
        let name = match &self.node {
            Some(name) => name.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        if name.is_empty() || name.len() > NODE_NAME_LIMIT_BYTES || name.chars().any(char::is_control) {
            bail!("--node: a name must have 1 to {NODE_NAME_LIMIT_BYTES} bytes and no control characters");
        }
        Ok(Some(name))
    }

    /// NATS, if it is the bus. This reads the file of credentials and the certificates that the system trusts.
    pub fn nats(&self) -> Result<Option<Nats>> {
        let servers = self.nats_servers()?;
        servers.map(|servers| Nats::new(servers, self.bus_credentials.as_deref())).transpose()
    }

    fn nats_servers(&self) -> Result<Option<Vec<nats::Server>>> {
        match self.bus.as_deref() {
            None | Some("postgres") => Ok(None),
            Some(urls) if urls.contains("://") => Nats::parse(urls).map(Some),
            Some(other) => {
                bail!("--bus: there is no bus '{}'; use postgres or nats://HOST:4222", other.escape_debug())
            }
        }
    }

    /// The path of the signing key.
    pub fn key_path(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data.join(DataFolder::KEY_FILE))
    }
}

/// The addresses of a list, each one once.
fn resolve_all(option: &str, list: &[String]) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for text in elements(list) {
        for address in resolve(option, text)? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

fn resolve(option: &str, text: &str) -> Result<std::vec::IntoIter<SocketAddr>> {
    text.to_socket_addrs().map_err(|error| {
        anyhow::anyhow!("{option}: '{text}' is not an address with a port, such as 127.0.0.1:8080 ({error})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_with_file(arguments: &[OsString]) -> Result<clap::Command> {
        Ok(Cli::command_and_webhooks(arguments)?.0)
    }

    fn load(file: &str, arguments: &[&str]) -> Result<Options> {
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(file.as_bytes()).unwrap();
        let mut all: Vec<OsString> = vec!["uproar".into(), "--config".into(), config.path().into()];
        all.extend(arguments.iter().map(OsString::from));
        let (command, webhooks) = Cli::command_and_webhooks(&all)?;
        let matches = command.try_get_matches_from(&all)?;
        Ok(Options { webhooks, ..Cli::from_arg_matches(&matches)?.options })
    }

    #[test]
    fn webhooks_are_tables_of_the_file() {
        let options = load("[[webhook]]\nname = 'a'\n[[webhook]]\nname = 'b'\n[limit]\nlease_ms = 500\n", &[]).unwrap();
        let names: Vec<_> = options.webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect();
        assert_eq!((names, options.limits().unwrap().lease_ms), (vec!["a", "b"], 500));
        for file in ["[webhook]\nname = 'a'", "webhook = 'a'", "webhook = ['a']"] {
            let error = load(file, &[]).unwrap_err().to_string();
            assert!(error.ends_with("webhooks are written as [[webhook]], with two brackets"), "{error}");
        }
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let file = "data = '/x'\nshards = 3\necho = true\nlisten = ['127.0.0.1:1', '[::1]:2']\n\
                    [limit]\nping_interval_ms = 1_000\ntext_limit_bytes = 5\n";
        let options = load(file, &[]).unwrap();
        assert_eq!((options.data, options.shards, options.echo), (PathBuf::from("/x"), Some(3), true));
        assert_eq!(options.listen, ["127.0.0.1:1", "[::1]:2"]);
        let options = load(file, &["--shards", "5", "--listen", "127.0.0.1:3"]).unwrap();
        assert_eq!((options.shards, options.listen.as_slice()), (Some(5), ["127.0.0.1:3".to_owned()].as_slice()));
        let limits = options.limits().unwrap();
        assert_eq!((limits.ping_interval_ms, limits.text_limit_bytes), (1000, 5));
    }

    #[test]
    fn errors_in_the_file_are_named() {
        let error = |file: &str| load(file, &[]).unwrap_err().to_string();
        assert!(error("shard = 3").contains("there is no option 'shard'"));
        assert!(error("config = 'other'").contains("there is no option 'config'"));
        assert!(error("a = 1\nb = = 2").contains(", line 2: "));
        assert!(error("data = 1.5").contains("'data' must be"));
        assert!(error("shards = 'many'").contains("many"));
        assert!(error("data = ['/x', '/y']").contains("'data' must be a single value"));
        assert!(error("echo = 'disabled'").contains("disabled"));
        let missing = command_with_file(&["uproar".into(), "--config".into(), "/does/not/exist".into()]).unwrap_err();
        assert!(missing.to_string().contains("can't read the configuration file /does/not/exist"));
    }

    /// Opening a named pipe would wait for a writer.
    #[test]
    fn a_configuration_file_must_be_a_regular_file_or_a_link_to_one() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, file, link] = ["pipe", "file", "link"].map(|name| folder.path().join(name));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let load = |path: &Path| command_with_file(&["uproar".into(), "--config".into(), path.into()]);
        for path in [pipe.as_path(), folder.path()] {
            assert!(load(path).unwrap_err().to_string().ends_with(" is not a regular file"));
        }
        assert!(load(&file).is_ok() && load(&link).is_ok());
    }

    #[test]
    fn spaces_around_a_value_are_ignored() {
        let file = "listen = ' 127.0.0.1:1 '\nadmin-listen = ' 127.0.0.1:2\\n'\npublic-metrics = 'false '\n\
                    echo = ' on'\ntrusted-proxy = ' 127.0.0.1'\noutgoing-allow = ' ::1 '\n\
                    data = ' /x '\ndatabase = ' sqlite:/y '\n\
                    bus = ' nats://h '\nbus-credentials = ' /b '\nnode = ' a '\nshards = ' 2'\n\
                    lanes = '3 '\nlisten-tls = ' 127.0.0.1:3 '\ntls-cert = ' /c '\ntls-key = '/k '\n\
                    redirect-http = ' 127.0.0.1:4'\nhsts = ' yes '\n\
                    otlp = ' http://localhost:4318 '\notlp-headers = [' a=b ', 'c=d']\notlp-sample = ' 0.5 '\n\
                    driver = ' Epoll '\nallow-origin = [' https://a.example ']\n\
                    embed-origin = ' https://b.example '\nkey-file = '/z '\nauth-issuer = ' https://c.example '\n\
                    auth-jwks = ' https://d.example '\nauth-audience = ' chat '\nauth-hmac-key-file = ' /h '\n\
                    auth-username-claim = ' nick '\n\
                    oidc-issuer = ' https://e.example '\noidc-client-id = ' id '\n\
                    oidc-client-secret-file = ' /s '\noidc-name = ' Example '\n\
                    public-url = ' https://f.example '\n\
                    password-sign-in = ' off '\nsign-up = ' Closed '\nlog = ' info '\n\
                    [limit]\ntext_limit_bytes = ' 5 '\n";
        let options = load(&file.replace("'", "\""), &[]).unwrap();
        assert_eq!(options.addresses().unwrap(), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(options.admin_address().unwrap(), Some("127.0.0.1:2".parse().unwrap()));
        assert_eq!(options.tls_addresses().unwrap(), ["127.0.0.1:3".parse().unwrap()]);
        let files = Files { certificate: "/c".into(), key: "/k".into() };
        assert_eq!(options.tls_source().unwrap(), Some(TlsSource::Files(files)));
        assert_eq!(options.redirect_address().unwrap(), Some("127.0.0.1:4".parse().unwrap()));
        assert!(options.hsts);
        assert_eq!(
            (options.otlp.as_deref(), options.otlp_sample),
            (Some("http://localhost:4318"), "0.5".parse().unwrap())
        );
        assert_eq!(options.otlp_headers().collect::<Vec<_>>(), ["a=b", "c=d"]);
        assert_eq!((options.public_metrics, options.query_token, options.echo), (false, false, true));
        assert_eq!((options.trusted_networks(), options.origins()), (vec!["127.0.0.1"], vec!["https://a.example"]));
        assert_eq!(options.embed_origins(), ["https://b.example"]);
        assert_eq!(options.outgoing_networks(), ["::1"]);
        assert_eq!((options.data.as_path(), options.key_path().as_path()), (Path::new("/x"), Path::new("/z")));
        let oidc = [&options.oidc_issuer, &options.oidc_client_id, &options.oidc_name, &options.public_url];
        let oidc = oidc.map(|option| option.as_deref().unwrap_or_default());
        assert_eq!(oidc, ["https://e.example", "id", "Example", "https://f.example"]);
        assert_eq!(options.oidc_client_secret_file, Some("/s".into()));
        assert_eq!((options.password_sign_in, options.sign_up), (false, SignUp::Closed));
        assert_eq!(options.auth_issuer.as_deref(), Some("https://c.example"));
        assert_eq!(options.auth_jwks.as_deref(), Some("https://d.example"));
        assert_eq!(options.auth_audience.as_deref(), Some("chat"));
        assert_eq!(options.auth_hmac_key_file, Some("/h".into()));
        assert_eq!(options.auth_username_claim.as_deref(), Some("nick"));
        assert_eq!(options.database_url().unwrap(), DatabaseUrl::Sqlite("/y".into()));
        assert_eq!(options.node().unwrap().as_deref(), Some("a"));
        assert_eq!(options.bus_credentials, Some("/b".into()));
        assert_eq!((options.shards, options.lanes, options.driver), (Some(2), 3, Driver::Epoll));
        assert_eq!((options.log.as_str(), options.limits().unwrap().text_limit_bytes), ("info", 5));
    }

    #[test]
    fn a_switch_takes_known_words_only() {
        let echo = |value: &str| load(&format!("echo = '{value}'"), &[]).map(|options| options.echo).ok();
        for (values, is_on) in [
            (["1", "true", "yes", "ON"], Some(true)),
            (["0", "false ", "No", "off"], Some(false)),
            (["disabled", "2", "tru", "-"], None),
        ] {
            assert_eq!(values.map(echo), [is_on; 4], "{values:?}");
        }
    }

    #[test]
    fn the_options_are_well_formed() {
        help::complete(Cli::command()).debug_assert();
    }

    #[test]
    fn an_invalid_address_is_explained() {
        let options = |listen: &str| Cli::parse_from(["uproar", "--listen", listen]).options;
        for list in ["127.0.0.1:1,[::1]:2", " 127.0.0.1:1, [::1]:2 ,", "127.0.0.1:1,[::1]:2,127.0.0.1:1"] {
            assert_eq!(options(list).addresses().unwrap().len(), 2, "{list}");
        }
        assert!(options(" ,").addresses().unwrap_err().to_string().contains("there is no address"));
        let error = options("8080").addresses().unwrap_err().to_string();
        assert!(error.starts_with("--listen: '8080' is not an address with a port"), "{error}");
    }

    #[test]
    fn a_node_has_a_bus_and_a_name() {
        let node = |arguments: &[&str]| Cli::parse_from([&["uproar"], arguments].concat()).options.node();
        assert_eq!(node(&[]).unwrap(), None);
        assert_eq!(node(&["--bus", " postgres ", "--node", "a"]).unwrap().as_deref(), Some("a"));
        assert!(!node(&["--bus", "postgres"]).unwrap().expect("the host name").is_empty());
        let error = |arguments: &[&str]| node(arguments).unwrap_err().to_string();
        assert!(error(&["--node", "a"]).starts_with("--node has no effect without --bus"));
        assert!(error(&["--bus", "carrier-pigeon"]).contains("no bus 'carrier-pigeon'"));
        assert_eq!(node(&["--bus", "nats://h", "--node", "a"]).unwrap().as_deref(), Some("a"));
        assert!(error(&["--bus", "http://h"]).contains("named like nats://HOST:4222"));
        for bus in [&["--bus", "postgres"][..], &[]] {
            let error = error(&[bus, &["--bus-credentials", "/c"]].concat());
            assert!(error.starts_with("--bus-credentials has no effect without NATS"), "{error}");
        }
        for name in ["", "a\nb", &"x".repeat(101)] {
            assert!(
                error(&["--bus", "postgres", "--node", name]).starts_with("--node: a name must have 1 to 100 bytes")
            );
        }
    }

    #[test]
    fn options_for_tls_must_be_complete() {
        let options = |arguments: &[&str]| Cli::parse_from([&["uproar"], arguments].concat()).options;
        let error = |arguments: &[&str]| options(arguments).tls_source().unwrap_err().to_string();
        let listening = |arguments: &[&str]| error(&[&["--listen-tls", "127.0.0.1:0"], arguments].concat());
        assert!(listening(&[]).ends_with("name its file with --tls-cert, or have one ordered with --tls-acme"));
        assert!(listening(&["--tls-cert", "/c"]).ends_with("name its file with --tls-key"));
        let of_acme = ["--tls-acme-email", "--tls-acme-directory", "--tls-acme-ca"];
        for option in [&["--tls-cert", "--tls-key", "--redirect-http", "--tls-acme"][..], &of_acme].concat() {
            let error = error(&[option, "127.0.0.1:0"]);
            assert!(error.starts_with(&format!("{option} has no effect without --listen-tls")), "{error}");
        }
        for option in of_acme {
            let error = listening(&[option, "x"]);
            assert!(error.starts_with(&format!("{option} has no effect without --tls-acme;")), "{error}");
        }
        for option in ["--tls-cert", "--tls-key"] {
            let error = listening(&[option, "/c", "--tls-acme", "a.example"]);
            assert!(error.starts_with(&format!("{option} and --tls-acme exclude each other")), "{error}");
        }
        assert!(listening(&["--tls-acme", "*.example.org"]).contains("name each domain"));
        let alone = options(&["--listen", "", "--listen-tls", "127.0.0.1:1"]);
        assert!(alone.addresses().unwrap().is_empty(), "TLS can be all that is served");
    }

    #[test]
    fn options_for_acme_come_from_the_file_too() {
        let file = "listen-tls = ['[::]:443']\ntls-acme = ['a.example', ' B.example ']\n\
                    tls-acme-email = 'ann@a.example'\ntls-acme-directory = 'https://ca.example/dir'\n\
                    tls-acme-ca = '/ca.pem'\n";
        let Ok(Some(TlsSource::Acme(settings))) = load(file, &[]).unwrap().tls_source() else { panic!("not ACME") };
        assert_eq!(settings.domains, ["a.example", "b.example"]);
        assert_eq!(settings.email.as_deref(), Some("ann@a.example"));
        assert_eq!(settings.directory, "https://ca.example/dir");
        assert_eq!(settings.ca, Some("/ca.pem".into()));
    }

    #[test]
    fn docs_options_md_lists_every_option() {
        let document = include_str!("../docs/options.md").replace('`', "");
        let mut command = Cli::command();
        command.build();
        for option in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
            let help = option.get_help().map(ToString::to_string).unwrap_or_default().replace('`', "");
            let takes_value = option.get_action().takes_values();
            let default = option.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
            let (purpose, default) = match help.split_once(" [default: ") {
                Some((purpose, default)) => (purpose, default.trim_end_matches(']').to_owned()),
                None if takes_value => (&*help, default.unwrap_or_else(|| "none".into())),
                None => (&*help, "off".into()),
            };
            let name = option.get_long().expect("a long name");
            let value = option.get_value_names().filter(|_| takes_value).and_then(|names| names.first());
            let value = value.map(|value| format!(" {value}")).unwrap_or_default();
            let variable = option.get_env().expect("a variable").to_string_lossy();
            let row = format!("| --{name}{value} | {variable} | {default} | {purpose} |");
            assert!(document.contains(&row), "docs/options.md lacks:\n{row}");
        }
    }
}
