//! What `--help` and the manual page say beyond the options: examples, exit status, files, limits.

use crate::config::Cli;
use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use std::fmt::{Display, Write};
use std::io;
use uproar_core::limits::Limits;

/// The shared options that each tool uses. The others are hidden from its help, but accepted and ignored, so that the
/// command line, the environment and the configuration file of the server also serve its tools.
const USED_OPTIONS: [(&str, &[&str]); 13] = [
    ("token", &["config", "data", "key_file"]),
    ("backup", &["config", "data", "database"]),
    ("restored", &["config", "data", "database"]),
    ("new-key", &["config", "data", "database", "key_file"]),
    ("password", &["config", "data", "database", "bus", "node"]),
    ("migrate", &["config", "data", "database"]),
    ("nodes", &["config", "database"]),
    ("api-key", &["config", "data", "database", "bus", "node"]),
    ("invite", &["config", "listen", "listen_tls", "data", "database", "bus", "node", "public_url"]),
    (
        "check",
        &[
            "config",
            "listen",
            "listen_tls",
            "tls_cert",
            "tls_key",
            "tls_acme",
            "tls_acme_email",
            "tls_acme_directory",
            "tls_acme_ca",
            "redirect_http",
            "admin_listen",
            "trusted_proxy",
            "outgoing_allow",
            "data",
            "database",
            "bus",
            "bus_credentials",
            "node",
            "driver",
            "allow_origin",
            "embed_origin",
            "key_file",
            "api_key_file",
            "outbox",
            "auth_issuer",
            "auth_jwks",
            "auth_audience",
            "auth_hmac_key_file",
            "auth_username_claim",
            "oidc_issuer",
            "oidc_client_id",
            "oidc_client_secret_file",
            "oidc_name",
            "public_url",
            "password_sign_in",
            "sign_up",
            "limit",
            "otlp",
            "otlp_headers",
            "otlp_sample",
            "log",
        ],
    ),
    ("health", &["config", "listen", "listen_tls"]),
    ("completions", &[]),
    ("man", &[]),
];

const EXAMPLES: [(&str, &str); 8] = [
    ("uproar", "Run the server on http://localhost:8080, with SQLite in ./data."),
    ("uproar --data /var/lib/uproar --trusted-proxy 127.0.0.1/32", "Run it behind a TLS proxy on the same machine."),
    (
        "uproar --listen-tls [::]:443 --tls-acme chat.example.org --redirect-http [::]:80",
        "Serve https and wss with a certificate that the server orders and renews.",
    ),
    (
        "uproar --listen-tls 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem",
        "Serve https and wss with the certificate in these files.",
    ),
    (
        "uproar --config uproar.toml --database postgres://uproar@localhost/chat",
        "Take the options from a file, except for the database.",
    ),
    (
        "uproar --admin-listen 127.0.0.1:9090 --limit ping_interval_ms=60000",
        "Serve /metrics on a separate port, and change a limit.",
    ),
    ("uproar token --user ann --lifetime 86400", "Print a token that is valid for a day."),
    ("uproar backup --data /var/lib/uproar /backup/uproar.db", "Copy the SQLite database while the server runs."),
];

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "The command succeeded, or a signal (SIGTERM or SIGINT) stopped the server."),
    ("1", "The command failed; the last line on standard error says why. Or a second signal ended the server early."),
    ("2", "The command line is invalid; the line on standard error says why."),
];

const FILES: [(&str, &str); 6] = [
    (
        "signing.key",
        "The key that signs tokens, unless --key-file names another. Anyone who has it can sign in as any user.",
    ),
    ("uproar.db", "The SQLite database, unless --database names another. It may have -wal and -shm files beside it."),
    ("uproar.lock", "Keeps a second server from using the folder."),
    ("uproar.sock", "The socket through which commands such as uproar password reach the running server."),
    ("acme", "The accounts, certificates and keys of --tls-acme, in one folder for each certificate authority."),
    ("incarnation", "Identifies the last start, to detect that the database was restored to an earlier state."),
];

const ENVIRONMENT: &str = "Each option can be set by an environment variable: UPROAR_ followed by the option's name in \
                           capitals, with underscores. Several values are separated by commas. The command line \
                           overrides the environment, which overrides the configuration file.";

/// Width of the texts below the options.
const HELP_COLUMNS: usize = 79;

/// Where the shared options begin in a tool's help: after its own.
const SHARED_OPTIONS_ORDER: usize = 100;

/// Adds everything that `--help` shows besides the options, and hides the options that a tool does not use. The tools
/// get copies of the options, so later changes would not reach them.
pub fn complete(command: Command) -> Command {
    let shared: Vec<Arg> = command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    let command = command.after_long_help(after_help());
    USED_OPTIONS.iter().fold(command, |command, (tool, used)| {
        let options = shared.iter().enumerate().map(|(index, option)| {
            let is_used = used.contains(&option.get_id().as_str());
            option.clone().hide(!is_used).display_order(SHARED_OPTIONS_ORDER + index)
        });
        command.mut_subcommand(tool, |command| command.args(options))
    })
}

fn after_help() -> String {
    let limits = Limits::described().into_iter().map(|(name, default, text)| (format!("{name}={default}"), text));
    let mut help = String::new();
    section(&mut help, "Examples", EXAMPLES);
    section(&mut help, "\nExit status", EXIT_STATUS);
    section(&mut help, "\nLimits (--limit NAME=VALUE) with their defaults", limits);
    help
}

fn section(help: &mut String, heading: &str, entries: impl IntoIterator<Item = (impl Display, impl AsRef<str>)>) {
    let _ = write!(help, "{heading}:");
    for (term, text) in entries {
        let _ = write!(help, "\n  {term}");
        wrap(help, text.as_ref());
    }
    help.push('\n');
}

/// Appends a text in indented lines. clap's own wrapping does not indent.
fn wrap(help: &mut String, text: &str) {
    const INDENT: &str = "\n         ";
    let mut column = HELP_COLUMNS;
    for word in text.split_whitespace() {
        if column + 1 + word.len() > HELP_COLUMNS {
            help.push_str(INDENT);
            column = INDENT.len() - 1;
        }
        help.push(' ');
        help.push_str(word);
        column += 1 + word.len();
    }
}

/// A completion script.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut complete(Cli::command()), "uproar", &mut out);
    out
}

/// The manual page, in roff.
///
/// # Errors
/// None in practice, as it is written into memory.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut command = complete(Cli::command());
    command.build();
    let page = Man::new(command.clone());
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    let mut roff = Roff::new();
    synopsis(&mut roff, &command);
    roff.to_writer(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    commands(&mut roff, &command);
    environment(&mut roff, &command);
    list(&mut roff, "FILES", "The data folder (--data) holds:", &FILES);
    limits(&mut roff);
    list(&mut roff, "EXIT STATUS", "", &EXIT_STATUS);
    list(&mut roff, "EXAMPLES", "", &EXAMPLES);
    roff.to_writer(&mut out)?;
    Ok(out)
}

fn synopsis(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("uproar"), roman(" ["), italic("options"), roman("]")]);
    for tool in tools(command) {
        roff.control("br", []);
        roff.text(usage(tool));
    }
}

fn commands(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["COMMANDS"]);
    for tool in tools(command) {
        roff.control("SS", [format!("uproar {}", tool.get_name()).as_str()]);
        let about = tool.get_long_about().or(tool.get_about()).map(ToString::to_string).unwrap_or_default();
        for paragraph in about.split("\n\n") {
            roff.control("PP", []);
            roff.text([roman(sentence(paragraph))]);
        }
        let (shared, own): (Vec<&Arg>, Vec<&Arg>) = visible_arguments(tool).partition(|option| option.is_global_set());
        for option in own {
            roff.control("TP", []);
            roff.text(term(option));
            roff.text([roman(description(option))]);
        }
        if !shared.is_empty() {
            let names: Vec<String> = shared.iter().filter_map(|option| option.get_long()).map(dashed).collect();
            roff.control("PP", []);
            roff.text([roman(format!("It also uses {}.", names.join(", ")))]);
        }
    }
}

fn environment(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["ENVIRONMENT"]);
    roff.text([roman(ENVIRONMENT)]);
    for option in command.get_arguments() {
        if let (Some(variable), Some(long)) = (option.get_env(), option.get_long()) {
            roff.control("TP", []);
            roff.text([bold(variable.to_string_lossy())]);
            roff.text([roman(format!("See {}.", dashed(long)))]);
        }
    }
}

fn limits(roff: &mut Roff) {
    roff.control("SH", ["LIMITS"]);
    roff.text([roman("Limits with their defaults, to be changed with --limit:")]);
    for (name, default, text) in Limits::described() {
        roff.control("TP", []);
        roff.text([bold(format!("{name}={default}"))]);
        roff.text([roman(text)]);
    }
}

fn list(roff: &mut Roff, heading: &str, introduction: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    if !introduction.is_empty() {
        roff.text([roman(introduction)]);
    }
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

fn tools(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|tool| tool.get_name() != "help")
}

/// The arguments that the tool's help shows, except for `--help` itself.
fn visible_arguments(tool: &Command) -> impl Iterator<Item = &Arg> {
    tool.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
}

/// The command with its own arguments, those that are optional in brackets.
fn usage(tool: &Command) -> Vec<Inline> {
    let mut line = vec![bold(format!("uproar {}", tool.get_name()))];
    for argument in visible_arguments(tool).filter(|argument| !argument.is_global_set()) {
        let (open, close) = if argument.is_required_set() { (" ", "") } else { (" [", "]") };
        line.push(roman(open));
        line.extend(term(argument));
        line.push(roman(close));
    }
    if visible_arguments(tool).any(Arg::is_global_set) {
        line.extend([roman(" ["), italic("options"), roman("]")]);
    }
    line
}

/// An argument as it is typed: `--name VALUE`, or the name of the value if it has no dashes.
fn term(argument: &Arg) -> Vec<Inline> {
    let value = argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
    match (argument.get_long(), value) {
        (Some(long), Some(value)) => vec![bold(dashed(long)), roman(" "), italic(value)],
        (Some(long), None) => vec![bold(dashed(long))],
        (None, value) => vec![italic(value.unwrap_or_default())],
    }
}

/// The argument's help, its values and its default.
fn description(argument: &Arg) -> String {
    let mut text = sentence(&argument.get_help().map(ToString::to_string).unwrap_or_default());
    let values: Vec<String> = argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !values.is_empty() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    for default in argument.get_default_values() {
        let _ = write!(text, " The default is {}.", default.to_string_lossy());
    }
    text
}

fn dashed(name: &str) -> String {
    format!("--{name}")
}

/// Help texts of clap have no final full stop; the manual page has.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{FromArgMatches, Parser};

    fn built() -> Command {
        let mut command = complete(Cli::command());
        command.build();
        command
    }

    /// The long options in a help text.
    fn options_in(help: &str) -> Vec<&str> {
        // Their descriptions are indented further, and may continue with the name of an option.
        let options = help.lines().filter(|line| !line.starts_with("          ") && line.trim().starts_with('-'));
        let words = options.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
        words.map(|word| word.trim_end_matches(',')).collect()
    }

    /// The manual page without formatting.
    fn plain_manual() -> String {
        let page = String::from_utf8(manual().unwrap()).unwrap();
        ["\\fB", "\\fI", "\\fR"].iter().fold(page, |page, font| page.replace(font, "")).replace("\\-", "-")
    }

    #[test]
    fn a_tool_shows_only_the_options_that_it_uses() {
        for (tool, own) in [
            ("token", &["--user", "--lifetime", "--config", "--data", "--key-file", "--help"][..]),
            ("backup", &["--config", "--data", "--database", "--help"]),
            ("restored", &["--config", "--data", "--database", "--help"]),
            ("new-key", &["--config", "--data", "--database", "--key-file", "--help"]),
            ("password", &["--user", "--config", "--data", "--database", "--bus", "--node", "--help"]),
            ("migrate", &["--from", "--config", "--data", "--database", "--help"]),
            ("nodes", &["--config", "--database", "--help"]),
            (
                "api-key",
                &[
                    "--user",
                    "--scope",
                    "--users",
                    "--last",
                    "--config",
                    "--data",
                    "--database",
                    "--bus",
                    "--node",
                    "--help",
                ],
            ),
            (
                "invite",
                &[
                    "--room",
                    "--uses",
                    "--lifetime",
                    "--url",
                    "--config",
                    "--listen",
                    "--listen-tls",
                    "--data",
                    "--database",
                    "--bus",
                    "--node",
                    "--public-url",
                    "--help",
                ],
            ),
            (
                "check",
                &[
                    "--config",
                    "--listen",
                    "--listen-tls",
                    "--tls-cert",
                    "--tls-key",
                    "--tls-acme",
                    "--tls-acme-email",
                    "--tls-acme-directory",
                    "--tls-acme-ca",
                    "--redirect-http",
                    "--admin-listen",
                    "--trusted-proxy",
                    "--outgoing-allow",
                    "--data",
                    "--database",
                    "--bus",
                    "--bus-credentials",
                    "--node",
                    "--driver",
                    "--allow-origin",
                    "--embed-origin",
                    "--key-file",
                    "--api-key-file",
                    "--outbox",
                    "--auth-issuer",
                    "--auth-jwks",
                    "--auth-audience",
                    "--auth-hmac-key-file",
                    "--auth-username-claim",
                    "--oidc-issuer",
                    "--oidc-client-id",
                    "--oidc-client-secret-file",
                    "--oidc-name",
                    "--public-url",
                    "--password-sign-in",
                    "--sign-up",
                    "--limit",
                    "--otlp",
                    "--otlp-headers",
                    "--otlp-sample",
                    "--log",
                    "--help",
                ],
            ),
            ("health", &["--config", "--listen", "--listen-tls", "--help"]),
            ("completions", &["--help"]),
            ("man", &["--help"]),
        ] {
            let help = built().find_subcommand_mut(tool).unwrap().render_long_help().to_string();
            let shown = help.split_once("Options:").unwrap().1;
            assert_eq!(options_in(shown), own, "{help}");
        }
        let tools: Vec<_> = USED_OPTIONS.iter().map(|(tool, _)| *tool).collect();
        let command = built();
        assert_eq!(super::tools(&command).map(Command::get_name).collect::<Vec<_>>(), tools);
    }

    #[test]
    fn a_tool_accepts_the_options_that_it_does_not_use() {
        for arguments in [
            &["uproar", "token", "--user", "ann", "--listen", "127.0.0.1:1", "--limit", "batch_limit_items=1"][..],
            &["uproar", "--listen", "127.0.0.1:1", "--limit", "batch_limit_items=1", "token", "--user", "ann"],
        ] {
            let matches = complete(Cli::command()).try_get_matches_from(arguments).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            assert_eq!(cli.options.listen, ["127.0.0.1:1"]);
            assert_eq!(cli.options.limit, ["batch_limit_items=1"]);
        }
    }

    #[test]
    fn the_examples_are_valid() {
        for (example, _) in EXAMPLES {
            let cli =
                Cli::try_parse_from(example.split_whitespace()).unwrap_or_else(|error| panic!("{example}: {error}"));
            cli.options.limits().unwrap();
            cli.options.database_url().unwrap();
        }
    }

    #[test]
    fn the_help_and_the_manual_page_are_complete() {
        let mut command = built();
        let (help, page) = (command.render_long_help().to_string(), plain_manual());
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for option in command.get_arguments().filter(|option| option.get_id() != "version") {
            let long = dashed(option.get_long().unwrap());
            assert!(help.contains(&long) && page.contains(&long), "{long}");
            if let Some(variable) = option.get_env().map(|variable| variable.to_string_lossy()) {
                assert!(help.contains(&format!("[env: {variable}")), "{variable}");
                assert!(page.contains(&format!("\n{variable}\nSee {long}.")), "{variable}: {page}");
            } else {
                assert_eq!(long, "--help");
            }
        }
        for (name, default, _) in Limits::described() {
            let limit = format!("{name}={default}\n");
            assert!(help.contains(&limit) && page.contains(&limit), "{limit}");
        }
        for (term, text) in EXAMPLES.iter().chain(&EXIT_STATUS) {
            assert!(words(&help).contains(&words(&format!("{term} {text}"))), "{term}");
            assert!(page.contains(&format!("\n{term}\n{text}\n")), "{term}: {page}");
        }
        for (file, text) in FILES {
            assert!(page.contains(&format!("\n{file}\n{text}\n")), "{file}");
        }
        for text in ["seconds. The default is 3600.", "shell. One of bash,"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        for usage in [
            "uproar token --user NAME [--lifetime SECONDS] [options]",
            "uproar backup FILE [options]",
            "uproar restored [options]",
            "uproar new-key [options]",
            "uproar password --user NAME [options]",
            "uproar migrate [--from FILE] [options]",
            "uproar api-key ACTION [NAME] [--user BOT] [--scope SCOPES] [--users HOW] [--last N] [options]",
            "uproar invite [--room NAME] [--uses N] [--lifetime SECONDS] [--url URL] [options]",
            "uproar check [options]",
            "uproar health [URL] [options]",
            "uproar completions SHELL",
            "uproar man",
        ] {
            assert!(page.contains(usage), "{usage}: {page}");
        }
    }
}
