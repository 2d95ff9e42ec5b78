//! Every option, once: name, default, environment variable, help.

use crate::limits::Limits;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

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
}

/// The server's options.
#[derive(Clone, Debug, Args)]
pub struct Options {
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

    /// Folder for the signing key, the SQLite database and the lock file; made when it is missing
    #[arg(long, global = true, value_name = "FOLDER", env = "UPROAR_DATA", default_value = "./data")]
    pub data: PathBuf,

    /// sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/NAME [default: SQLite in the data folder]
    #[arg(long, global = true, value_name = "URL", env = "UPROAR_DATABASE", hide_env_values = true)]
    pub database: Option<String>,

    /// Threads that serve connections, each with a ring of its own [default: one a core]
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
    /// io_uring, the only one so far
    Auto,
    /// io_uring
    Uring,
}

impl Options {
    /// The limits in force.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let mut limits = Limits::default();
        for assignment in &self.limit {
            limits.set(assignment).map_err(|error| anyhow::anyhow!("--limit: {error}"))?;
        }
        Ok(limits)
    }

    /// The addresses to listen on. A name such as `localhost` stands for all of its addresses.
    pub fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for text in &self.listen {
            let found = text.trim().to_socket_addrs().map_err(|error| {
                anyhow::anyhow!("--listen: '{text}' is no address with a port, such as 127.0.0.1:8080 ({error})")
            })?;
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(addresses)
    }

    /// Where the signing key is.
    pub fn key_path(&self) -> PathBuf {
        self.key_file.clone().unwrap_or_else(|| self.data.join("signing.key"))
    }
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
    use clap::CommandFactory;

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
