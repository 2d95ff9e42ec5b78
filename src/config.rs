//! Every option, once: name, default, environment variable, help.

use crate::driver;
use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::{Table, Value};
use uproar_core::limits::Limits;
use uproar_store::{DataFolder, DatabaseUrl};

/// Uproar, a self-hosted real-time chat backend.
///
/// Without a command it starts the server. With no option at all it listens on http://localhost:8080 and keeps its
/// database and its signing key under ./data.
#[derive(Debug, Parser)]
#[command(name = "uproar", version, max_term_width = 120, after_long_help = limits_help(), args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mints a token for a user. Reads only the signing key, so it works beside a running server, which creates the
    /// user (without a password) when it first sees the token
    Token {
        /// The user's name
        #[arg(long, value_name = "NAME")]
        user: String,
        /// How long the token is good, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
        lifetime: u64,
    },
    /// Copies the SQLite database into a new file, while the server runs
    Backup {
        /// The file to make
        file: PathBuf,
    },
    /// Says that the database was restored to an earlier state, where Uproar can't notice by itself: clients start over.
    /// The server must not run
    Restored,
    /// Sets a user's password, read from standard input, and ends the user's tokens. The server must not run
    Password {
        /// The user's name
        #[arg(long, value_name = "NAME")]
        user: String,
    },
    /// Prints completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Prints the manual page
    Man,
}

/// The server's options.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// TOML file with options under the names that they have here, without the dashes in front; what is given on the
    /// command line or in the environment goes before it
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_CONFIG")]
    pub config: Option<PathBuf>,

    /// Address and port to listen on; may be given more than once. Port 0 takes a free one
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS:PORT",
        env = "UPROAR_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8080"
    )]
    pub listen: Vec<String>,

    /// Address and port for operators alone: /metrics and the reasons in /readyz are answered there and no longer on the
    /// public port
    #[arg(long, global = true, value_name = "ADDRESS:PORT", env = "UPROAR_ADMIN_LISTEN")]
    pub admin_listen: Option<String>,

    /// Network of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, such as 10.0.0.0/8; may be given more
    /// than once
    #[arg(long, global = true, value_name = "CIDR", env = "UPROAR_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<String>,

    /// Folder for the signing key, the SQLite database and the lock file; made when it is missing
    #[arg(long, global = true, value_name = "FOLDER", env = "UPROAR_DATA", default_value = "./data")]
    pub data: PathBuf,

    /// sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/NAME [default: SQLite in the data folder]
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_DATABASE", hide_env_values = true)]
    pub database: Option<String>,

    /// Threads that serve connections, each with a loop of its own [default: one a core]
    #[arg(long, global = true, value_name = "N", env = "UPROAR_SHARDS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,

    /// Batches that PostgreSQL commits at once; SQLite has one writer
    #[arg(long, global = true, value_name = "N", env = "UPROAR_LANES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub lanes: u16,

    /// How sockets are driven
    #[arg(long, global = true, value_enum, env = "UPROAR_DRIVER", default_value_t = Driver::Auto)]
    pub driver: Driver,

    /// Origin whose pages may use the API and connect, such as https://chat.example.org; may be given more than once;
    /// * for all [default: the server's own]
    #[arg(long, global = true, value_name = "ORIGIN", env = "UPROAR_ALLOW_ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<String>,

    /// File with the key that signs tokens, 32 to 4096 bytes [default: signing.key in the data folder, made at the
    /// first start]
    #[arg(long, global = true, value_name = "FILE", env = "UPROAR_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// Refuse tokens in the address of a WebSocket (?token=), which proxies may log
    #[arg(long, global = true, env = "UPROAR_NO_QUERY_TOKEN", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_query_token: bool,

    /// Serve /echo, which sends back what it gets, for conformance tests and benchmarks
    #[arg(long, global = true, env = "UPROAR_ECHO", value_parser = clap::builder::FalseyValueParser::new())]
    pub echo: bool,

    /// Set a limit; may be given more than once. They are listed below
    #[arg(long, global = true, value_name = "NAME=VALUE", env = "UPROAR_LIMIT", value_delimiter = ',')]
    pub limit: Vec<String>,

    /// What is logged to standard error: error, warn, info, debug or trace, or a filter such as uproar_store=debug
    #[arg(long, global = true, value_name = "FILTER", env = "UPROAR_LOG", default_value = "info")]
    pub log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring where it can be used, else epoll
    Auto,
    /// io_uring
    Uring,
    /// epoll, for where io_uring is forbidden
    Epoll,
}

impl Driver {
    /// None: whichever is best here.
    pub fn wanted(self) -> Option<driver::Driver> {
        match self {
            Driver::Auto => None,
            Driver::Uring => Some(driver::Driver::Uring),
            Driver::Epoll => Some(driver::Driver::Epoll),
        }
    }
}

impl Cli {
    /// From the arguments, the environment and the configuration file, in this order of precedence. Arguments that
    /// clap refuses end the process with one line and exit code 2.
    pub fn load() -> Result<Cli> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let cli = Cli::with_file(&arguments)?.try_get_matches_from(&arguments);
        match cli.and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => Ok(cli),
            Err(error) if error.use_stderr() => {
                eprintln!("uproar: {}", one_line(&error));
                std::process::exit(error.exit_code())
            }
            // What --help and --version ask for.
            Err(error) => error.exit(),
        }
    }

    /// The command line with the defaults of the configuration file that it names, if it names one.
    fn with_file(arguments: &[OsString]) -> Result<clap::Command> {
        let command = Cli::command();
        let first_look = command.clone().ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
        let Ok(matches) = first_look.try_get_matches_from(arguments) else { return Ok(command) };
        let Some(path) = matches.get_one::<PathBuf>("config") else { return Ok(command) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the configuration file {} can't be read", path.display()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("{}, line {line}: {}", path.display(), error.message())
        })?;
        table.into_iter().try_fold(command, |command, (name, value)| set_default(command, path, &name, &value))
    }
}

/// What clap says in several lines, without the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    let words: Vec<&str> = text[..end.unwrap_or(text.len())].split_whitespace().collect();
    format!("{}; `uproar --help` lists the options", words.join(" "))
}

/// Makes a value of the configuration file the default of the option with this name.
fn set_default(command: clap::Command, path: &Path, name: &str, value: &Value) -> Result<clap::Command> {
    let path = path.display();
    let argument = command.get_arguments().find(|argument| argument.get_long() == Some(name) && name != "config");
    let Some(id) = argument.map(|argument| argument.get_id().clone()) else {
        bail!("{path}: there is no option '{name}'; `uproar --help` lists them");
    };
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(boolean) => Ok(boolean.to_string()),
        _ => bail!("{path}: '{name}' must be a text, a whole number, true or false, or a list of these"),
    };
    let values: Vec<String> = match value {
        Value::Array(values) => values.iter().map(scalar).collect::<Result<_>>()?,
        // [limit] with a line for each.
        Value::Table(table) if name == "limit" => {
            table.iter().map(|(name, value)| Ok(format!("{name}={}", scalar(value)?))).collect::<Result<_>>()?
        }
        value => vec![scalar(value)?],
    };
    Ok(command.mut_arg(id, |argument| argument.default_values(values)))
}

impl Options {
    /// The limits in force.
    pub fn limits(&self) -> Result<Limits> {
        let mut limits = Limits::default();
        for assignment in &self.limit {
            limits.set(assignment).map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        }
        limits.check().map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        Ok(limits)
    }

    /// The addresses to listen on. A name such as `localhost` stands for all of its addresses.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for text in &self.listen {
            for address in resolve("--listen", text)? {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(addresses)
    }

    /// The address of the operators' own port.
    pub fn admin_address(&self) -> Result<Option<SocketAddr>> {
        let Some(text) = &self.admin_listen else { return Ok(None) };
        Ok(resolve("--admin-listen", text)?.next())
    }

    /// The database, in this data folder where nothing else is said.
    pub fn database_url(&self) -> Result<DatabaseUrl> {
        match &self.database {
            Some(text) => DatabaseUrl::from_str(text).map_err(|error| anyhow::anyhow!("--database: {error}")),
            None => Ok(DatabaseUrl::Sqlite(self.data.join(DataFolder::DATABASE_FILE))),
        }
    }

    /// Where the signing key is.
    pub fn key_path(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data.join("signing.key"))
    }
}

fn resolve(option: &str, text: &str) -> Result<std::vec::IntoIter<SocketAddr>> {
    text.trim().to_socket_addrs().map_err(|error| {
        anyhow::anyhow!("{option}: '{text}' is no address with a port, such as 127.0.0.1:8080 ({error})")
    })
}

fn limits_help() -> String {
    let mut help = "Limits (--limit NAME=VALUE), with their defaults:\n".to_owned();
    for (name, default, text) in Limits::described() {
        help.push_str(&format!("  {name}={default}\n          {text}\n"));
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn load(file: &str, arguments: &[&str]) -> Result<Options> {
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(file.as_bytes()).unwrap();
        let mut all: Vec<OsString> = vec!["uproar".into(), "--config".into(), config.path().into()];
        all.extend(arguments.iter().map(OsString::from));
        let matches = Cli::with_file(&all)?.try_get_matches_from(&all)?;
        Ok(Cli::from_arg_matches(&matches)?.options)
    }

    #[test]
    fn the_file_gives_defaults_that_the_command_line_goes_before() {
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
    fn what_is_wrong_in_the_file_is_named() {
        let error = |file: &str| load(file, &[]).unwrap_err().to_string();
        assert!(error("shard = 3").contains("there is no option 'shard'"));
        assert!(error("config = 'other'").contains("there is no option 'config'"));
        assert!(error("a = 1\nb = = 2").contains(", line 2: "));
        assert!(error("data = 1.5").contains("'data' must be"));
        assert!(error("shards = 'many'").contains("many"));
        let missing = Cli::with_file(&["uproar".into(), "--config".into(), "/does/not/exist".into()]).unwrap_err();
        assert!(missing.to_string().contains("/does/not/exist can't be read"));
    }

    #[test]
    fn the_options_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_is_checked_and_explained() {
        let options = |listen: &str| Cli::parse_from(["uproar", "--listen", listen]).options;
        assert_eq!(options("127.0.0.1:1,[::1]:2").addresses().unwrap().len(), 2);
        let error = options("8080").addresses().unwrap_err().to_string();
        assert!(error.starts_with("--listen: '8080' is no address with a port"), "{error}");
    }
}
