//! The command `check`: looks at everything that a start needs, without starting and without changing anything.

use crate::acme;
use crate::config::{self, Options, TlsSource};
use crate::driver::{Driver, listen};
use crate::issuers;
use crate::outgoing::{Client, Unusable};
use crate::server::{holder, settings};
use crate::tools::block_on;
use crate::traces::Collector;
use crate::webhooks;
use crate::{outbox, outgoing, output};
use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::fs::{Access, access};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::{KeyError, Tokens};
use uproar_store::inspect::{self, DatabaseState, FolderState};
use uproar_store::{DataFolder, DatabaseUrl, OpenOptions};
use uproar_tls::Pair;

/// How long the database may take to answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to find the address of a webhook's receiver.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Prints what it finds, one line each: to standard output what is as it should be, to standard error each problem with
/// its remedy, and what is probably a mistake.
///
/// # Errors
/// If something would keep the server from starting.
pub fn check(options: &Options) -> Result<()> {
    let mut report = Report::default();
    check_options(options, &mut report);
    let runs = check_folder(&options.data, &mut report);
    check_addresses(options, runs, &mut report);
    check_certificate(options, &mut report);
    check_collector(options, &mut report);
    check_webhooks(options, &mut report);
    check_outbox(options, &mut report);
    check_bus(options, &mut report);
    check_providers(options, &mut report);
    check_key(options, &mut report);
    check_database(options, &mut report);
    report.result()
}

#[derive(Default)]
struct Report {
    problems: usize,
}

impl Report {
    fn good(&self, what: impl Display) {
        // Whether it can be written or not, the exit status says the same.
        let _ = output::print(format!("ok: {what}\n").as_bytes());
    }

    /// What is probably a mistake, but does not keep the server from starting.
    fn warning(&self, what: impl Display) {
        output::note(format_args!("warning: {what}"));
    }

    fn problem(&mut self, error: &Error) {
        output::note(format_args!("problem: {}", output::one_line(error)));
        self.problems += 1;
    }

    /// Returns the value. If there is none, it reports the error.
    fn get<T>(&mut self, result: Result<T>) -> Option<T> {
        result.inspect_err(|error| self.problem(error)).ok()
    }

    fn result(self) -> Result<()> {
        match self.problems {
            0 => {
                self.good("the server can start");
                Ok(())
            }
            1 => bail!("the server would not start because of this problem"),
            problems => bail!("the server would not start because of these {problems} problems"),
        }
    }
}

/// The options that don't name a place. Those that clap can judge are valid already, and so is the configuration file.
fn check_options(options: &Options, report: &mut Report) {
    let before = report.problems;
    let limits = report.get(options.limits()).unwrap_or_default();
    report.get(settings::from_options(options, &limits));
    if let Some(issuers) = report.get(issuers::Settings::from_options(options))
        && let Ok(tokens) = Tokens::read_key_file(&options.key_path())
    {
        report.get(issuers.require_other_key(&tokens));
    }
    report.get(options.node());
    report.get(outgoing::allowed_networks(options));
    report.get(output::parse_filter(&options.log));
    let driver = Driver::choose(options.driver.requested()).map_err(|error| anyhow!("--driver: {error}"));
    if let Some((driver, reason)) = report.get(driver) {
        report.good(format_args!("driver {} ({reason})", driver.name()));
    }
    let unknown = config::unknown_variables();
    if !unknown.is_empty() {
        report.warning(format_args!(
            "no option has the environment variables {}; `uproar --help` lists them",
            unknown.join(", ")
        ));
    }
    if report.problems == before {
        match &options.config {
            Some(file) => report.good(format_args!("options, with the configuration file {}", file.display())),
            None => report.good("options, without a configuration file"),
        }
    }
}

/// Returns whether a server uses the folder.
fn check_folder(path: &Path, report: &mut Report) -> bool {
    let shown = path.display();
    let Some(state) = report.get(DataFolder::inspect(path).map_err(Error::from)) else { return false };
    if report.get(require_writable(path, "--data")).is_none() {
        return false;
    }
    match state {
        FolderState::New => report.good(format_args!("data folder {shown} (new: the first start fills it)")),
        FolderState::Free => report.good(format_args!("data folder {shown}")),
        FolderState::InUse(holder) => {
            report.good(format_args!("data folder {shown}, in use by a running server ({holder})"));
            return true;
        }
    }
    false
}

/// Fails if this user can't create files in the folder, or in the closest one above it that exists.
fn require_writable(folder: &Path, option: &str) -> Result<()> {
    let existing = folder.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let existing = existing.into_iter().find(|path| path.exists()).unwrap_or(Path::new("/"));
    access(existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        anyhow!(
            "can't write to {} as this user: {error}; run uproar as the folder's owner, or name another with {option}",
            existing.display()
        )
    })
}

/// `runs`: whether a server runs, which then has the ports.
fn check_addresses(options: &Options, runs: bool, report: &mut Report) {
    let plain = report.get(options.addresses()).unwrap_or_default();
    let tls = report.get(options.tls_addresses()).unwrap_or_default();
    let admin = report.get(options.admin_address()).flatten();
    let redirect = report.get(options.redirect_address()).flatten();
    let public = [plain.as_slice(), &tls].concat();
    // The addresses are tried one by one, so two of them that exclude each other would not be noticed.
    let named = |option, addresses: &[SocketAddr]| addresses.iter().map(|a| (option, *a)).collect::<Vec<_>>();
    let all = [
        named("--listen", &plain),
        named("--listen-tls", &tls),
        named("--admin-listen", admin.as_slice()),
        named("--redirect-http", redirect.as_slice()),
    ]
    .concat();
    for (index, (option, address)) in all.iter().enumerate() {
        if let Some((other, _)) = all[..index].iter().find(|(_, earlier)| exclude_each_other(*earlier, *address)) {
            report.problem(&anyhow!("{option} {address}: {other} has this port already; choose another one"));
        }
    }
    for (option, addresses) in [("--listen", &plain), ("--listen-tls", &tls)] {
        for address in addresses {
            check_address(option, *address, listen::try_bind(&public, *address, option), runs, report);
        }
    }
    for (option, address) in [("--admin-listen", admin), ("--redirect-http", redirect)] {
        if let Some(address) = address {
            check_address(option, address, listen::try_bind(&[], address, option), runs, report);
        }
    }
}

/// Whether no program can listen on both.
fn exclude_each_other(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && overlap
}

fn check_certificate(options: &Options, report: &mut Report) {
    match report.get(options.tls_source()).flatten() {
        None => {}
        Some(TlsSource::Files(files)) => {
            let Some(pair) = report.get(files.load().map_err(Error::from)) else { return };
            check_expiry(&pair, &files.certificate, "renew it", report);
        }
        Some(TlsSource::Acme(settings)) => check_acme(&settings, &options.data, report),
    }
}

fn check_expiry(pair: &Pair, path: &Path, remedy: &str, report: &Report) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match pair.expires_unix_s().checked_sub(now) {
        Some(left) => {
            report.good(format_args!("certificate {}, valid for {} more days", path.display(), left / 86_400))
        }
        None => report.warning(format_args!(
            "the certificate {} has expired, so clients will refuse it; {remedy}",
            path.display()
        )),
    }
}

/// The stored certificate, the folder for it, and the certificate authority. A server that can't reach it starts.
fn check_acme(settings: &acme::Settings, data: &Path, report: &mut Report) {
    let files = acme::Files::new(data, settings);
    let domains = settings.domains.join(", ");
    if report.get(require_writable(files.folder(), "--data")).is_some() {
        match files.certificate() {
            Ok(Some(pair)) if acme::covers(&pair, settings) => {
                check_expiry(&pair, &files.certificate_path(), "the server orders a new one", report);
            }
            Ok(Some(_)) => report.good(format_args!(
                "certificate for {domains} (the next start orders it, as the stored one is for other domains)"
            )),
            Ok(None) => report.good(format_args!("certificate for {domains} (the first start orders it)")),
            Err(error) => report.warning(format_args!("{}; the server orders a new one", output::one_line(&error))),
        }
    }
    if report.get(acme::check_ca(settings)).is_none() {
        return;
    }
    match block_on(acme::find_authority(settings)).and_then(|found| found) {
        Ok(()) => report.good(format_args!("certificate authority {}", settings.directory)),
        Err(error) => report.warning(format_args!(
            "the certificate authority can't be asked now, and until it can, there is no new certificate: {}",
            output::one_line(&error)
        )),
    }
}

/// A server starts without its collector, too.
fn check_collector(options: &Options, report: &mut Report) {
    let Some(mut collector) = report.get(Collector::from_options(options)).flatten() else { return };
    match block_on(collector.reach()).and_then(|reached| reached) {
        Ok(()) => report.good(format_args!("collector of traces {collector}")),
        Err(error) => report.warning(format_args!(
            "the collector {collector} can't be reached, so traces would be dropped: {}",
            output::one_line(&error)
        )),
    }
}

/// A server starts without the receivers of its webhooks, too. Nothing is sent to them.
fn check_webhooks(options: &Options, report: &mut Report) {
    let hooks = report.get(webhooks::from_options(options)).unwrap_or_default();
    // What is wrong with the option has been reported.
    let Ok(client) = Client::from_options(options) else { return };
    for hook in hooks {
        let Some(checked) = report.get(block_on(client.check(&hook.url, LOOKUP_TIMEOUT))) else { return };
        match checked {
            Ok(()) => report.good(format_args!("webhook {}, to {}", hook.name, hook.url)),
            Err(Unusable::Forbidden(error)) => report.warning(format_args!(
                "the webhook {} can't send anything: {}",
                hook.name,
                output::one_line(&error)
            )),
            Err(Unusable::Unknown(error)) => report.warning(format_args!(
                "the webhook {} can't send anything now: {}",
                hook.name,
                output::one_line(&error)
            )),
        }
    }
}

fn check_outbox(options: &Options, report: &mut Report) {
    if let Some(key) = report.get(outbox::from_options(options)).flatten() {
        report.good(format_args!("outbox, with the rights of the API key {key}"));
    }
}

/// A server starts without NATS, too.
fn check_bus(options: &Options, report: &mut Report) {
    // What is wrong with the other options of a node has been reported.
    if options.node().is_err() {
        return;
    }
    let Some(nats) = report.get(options.nats()).flatten() else { return };
    for server in nats.servers() {
        match block_on(nats.reach(server)).and_then(|reached| reached.map_err(Error::msg)) {
            Ok(version) => report.good(format_args!("NATS {server} (version {version})")),
            Err(error) => report.warning(format_args!(
                "NATS {server} can't be used now, and while no server can, messages from other nodes come later: {}",
                output::one_line(&error)
            )),
        }
    }
}

/// A server starts without its identity providers, too.
fn check_providers(options: &Options, report: &mut Report) {
    // What is wrong with the options has been reported.
    let (Ok(issuers), Ok(client)) = (issuers::Settings::from_options(options), Client::from_options(options)) else {
        return;
    };
    for (issuer, reached) in report.get(block_on(issuers.reach_providers(client))).unwrap_or_default() {
        match reached {
            Ok(keys) => report.good(format_args!("identity provider {issuer} ({keys} keys)")),
            Err(error) => report.warning(format_args!(
                "the keys of the identity provider {issuer} can't be fetched now, and until they can, its tokens are \
                 not accepted: {}",
                output::one_line(&error)
            )),
        }
    }
}

fn check_address(
    option: &str,
    address: SocketAddr,
    bound: Result<(), listen::ListenError>,
    runs: bool,
    report: &mut Report,
) {
    match bound {
        Ok(()) => report.good(format_args!("{option} {address}")),
        Err(listen::ListenError::InUse { .. }) => {
            let holder = holder::of_port(address.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
            match runs {
                true => report.good(format_args!("{option} {address}, in use{holder}")),
                false => report
                    .problem(&anyhow!("{option}: {address} is in use{holder}; stop its user, or choose another port")),
            }
        }
        Err(error) => report.problem(&anyhow!("{option}: {error}")),
    }
}

fn check_key(options: &Options, report: &mut Report) {
    let path = options.key_path();
    match Tokens::read_key_file(&path) {
        Ok(_) => report.good(format_args!("signing key {}", path.display())),
        Err(KeyError::Missing(_)) => {
            let folder = path.parent().unwrap_or(Path::new(""));
            if report.get(require_writable(folder, "--key-file")).is_some() {
                report.good(format_args!("signing key {} (the first start creates it)", path.display()));
            }
        }
        Err(error) => report.problem(&error.into()),
    }
}

fn check_database(options: &Options, report: &mut Report) {
    let Some(url) = report.get(options.database_url()) else { return };
    let open = OpenOptions { open_timeout: DATABASE_TIMEOUT, ..OpenOptions::default() };
    let looked = block_on(inspect::database(&url, &options.data, &open)).and_then(|looked| Ok(looked?));
    let Some(DatabaseState { description, schema, used_by, key_id }) = report.get(looked) else { return };
    if let DatabaseUrl::Sqlite(path) = &url {
        // SQLite also creates files beside the database.
        let folder = path.parent().unwrap_or(Path::new(""));
        let writable = require_writable(folder, "--database").and_then(|()| match path.exists() {
            true => Ok(access(path, Access::WRITE_OK)
                .with_context(|| format!("can't write to {} as this user; change its owner", path.display()))?),
            false => Ok(()),
        });
        if report.get(writable).is_none() {
            return;
        }
    }
    let schema = match schema.version {
        None => "new: the first start creates the tables".to_owned(),
        Some(version) if version > schema.newest => {
            format!("schema version {version}, of a newer uproar, which this one can use")
        }
        Some(version) if schema.is_current() => format!("schema version {version}, up to date"),
        Some(version) => {
            let newest = schema.newest;
            format!("schema version {version}; the next start updates it to {newest}: make a backup before")
        }
    };
    let used_by = used_by.map(|holder| format!("; in use by a running server ({holder})")).unwrap_or_default();
    report.good(format_args!("{description} ({schema}){used_by}"));
    check_key_of_cluster(options, key_id, report);
}

/// Whether a node has the key that the database names.
fn check_key_of_cluster(options: &Options, key_id: Option<String>, report: &mut Report) {
    let is_node = matches!(options.node(), Ok(Some(_)));
    let Some(expected) = key_id.filter(|_| is_node) else { return };
    let path = options.key_path();
    let remedy = "copy signing.key from another node, or set --key-file";
    match Tokens::read_key_file(&path) {
        Ok(tokens) if tokens.key_id() == expected => {}
        Ok(_) => report.problem(&anyhow!("--bus: {} is not the signing key of the cluster; {remedy}", path.display())),
        Err(KeyError::Missing(_)) => {
            report.problem(&anyhow!(
                "--bus: the cluster has a signing key, but there is no {}; {remedy}",
                path.display()
            ));
        }
        // It has been reported already.
        Err(_) => {}
    }
}
