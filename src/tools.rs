//! The tools of the command line.

use crate::config::{KeyAction, Options};
use crate::operator::{self, InviteRequest, KeyRequest, Request, client};
use crate::output;
use crate::server::settings;
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read};
use std::path::Path;
use uproar_http::Tokens;
use uproar_model::Clock;
use uproar_store::{DataFolder, OpenOptions, Scopes, Store, UsersBy, inspect};

/// What a new key may do if nobody says otherwise: everything but speaking for others.
const DEFAULT_SCOPES: Scopes = Scopes { impersonate: false, ..Scopes::ALL };

/// Prints a new token. A running server makes it, or else this process, which reads only the key.
pub fn token(options: &Options, user: &str, lifetime_s: u64) -> Result<()> {
    operator::check_name(user)?;
    let request = Request::Token { user: user.to_owned(), lifetime_s };
    let token = match client::ask(&options.data, &request)? {
        Some(token) => token,
        None => operator::mint(&Tokens::read_key_file(&options.key_path())?, &Clock::of_machine(), user, lifetime_s)?,
    };
    output::print(format!("{token}\n").as_bytes())
}

/// Copies the SQLite database, even while a server runs.
pub fn backup(options: &Options, file: &Path) -> Result<()> {
    let url = options.database_url()?;
    block_on(uproar_store::tools::backup(&url, file))??;
    output::note(format_args!("copied the database to {}", file.display()));
    Ok(())
}

/// Makes clients start over: at the next start, all rooms get a new epoch.
pub fn restored(options: &Options) -> Result<()> {
    let url = options.database_url()?;
    let folder = DataFolder::open(&options.data)?;
    block_on(uproar_store::tools::restored(&url, &folder, OpenOptions::default()))??;
    output::note(format_args!("all rooms get a new epoch at the next start; clients then load their history again"));
    Ok(())
}

/// Replaces the signing key, which makes all tokens invalid.
pub fn new_key(options: &Options) -> Result<()> {
    let url = options.database_url()?;
    let folder = DataFolder::open(&options.data)?;
    let path = options.key_path();
    let change = || Ok::<_, anyhow::Error>(Tokens::replace_key_file(&path)?.key_id().to_owned());
    block_on(uproar_store::tools::change_key(&url, &folder, OpenOptions::default(), change))??;
    output::note(format_args!("{} has a new key; all users have to sign in again", path.display()));
    Ok(())
}

/// Moves everything from SQLite to PostgreSQL.
pub fn migrate(options: &Options, from: Option<&Path>) -> Result<()> {
    let url = options.database_url()?;
    let from = from.map_or_else(|| options.data.join(DataFolder::DATABASE_FILE), Path::to_path_buf);
    let moved =
        uproar_store::tools::migrate(&from, &options.data, &url, OpenOptions::default(), &|line| output::note(line));
    block_on(moved)??;
    output::note(format_args!(
        "everything is in {url} now: start the server with the same --data and --database; keep {} until you have a \
         backup of the new database",
        from.display()
    ));
    Ok(())
}

/// Lists the nodes that use the database.
pub fn nodes(options: &Options) -> Result<()> {
    let nodes = block_on(inspect::nodes(&options.database_url()?, &OpenOptions::default()))??;
    if nodes.is_empty() {
        output::note(format_args!("there are no nodes: no server with --bus uses this database"));
        return Ok(());
    }
    let heading = ["NAME", "STATE", "VERSION", "STARTED (UTC)", "LAST BEAT"].map(str::to_owned);
    let rows = nodes.into_iter().map(|node| {
        [
            node.name,
            if node.is_silent { "silent" } else { "alive" }.to_owned(),
            node.version,
            node.started,
            format!("{} s ago", node.beat_age_ms / 1000),
        ]
    });
    output::print(output::table(heading, rows).as_bytes())
}

/// Sets a user's password and invalidates the user's tokens. A running server does it, or else this process, which then
/// keeps servers from starting.
pub fn password(options: &Options, user: &str) -> Result<()> {
    operator::check_name(user)?;
    options.database_url()?;
    // Before the password is asked for, so that nobody types it in vain.
    let folder = match client::is_served(&options.data)? {
        true => None,
        false => Some(DataFolder::open(&options.data)?),
    };
    let password = read_password(user)?;
    match folder {
        None => {
            let request = Request::Password { user: user.to_owned(), password };
            client::ask(&options.data, &request)?.context("the server has stopped meanwhile; try again")?;
        }
        Some(folder) => {
            in_store(options, &folder, async |store| operator::set_password(store, user, &password).await).map(drop)?;
        }
    }
    output::note(format_args!("{user} has a new password; tokens issued before are no longer valid"));
    Ok(())
}

/// Does something with the keys of the server API. A running server does it, or else this process, which then keeps
/// servers from starting.
pub fn api_key(
    options: &Options,
    action: KeyAction,
    name: Option<&str>,
    user: Option<&str>,
    scope: Option<Scopes>,
    users: Option<UsersBy>,
    last: Option<u16>,
) -> Result<()> {
    let is_adding = action == KeyAction::Add;
    if !is_adding && (user.is_some() || scope.is_some() || users.is_some()) {
        bail!("--user, --scope and --users belong to `uproar api-key add`");
    }
    if action != KeyAction::Log && last.is_some() {
        bail!("--last belongs to `uproar api-key log`");
    }
    let named = |what: &str| name.map(ToOwned::to_owned).with_context(|| format!("name the key to {what}"));
    if matches!(action, KeyAction::List | KeyAction::Log)
        && let Some(name) = name
    {
        bail!("'{}' has no meaning here: this command takes no name", name.escape_debug());
    }
    let request = match action {
        KeyAction::Add => KeyRequest::Add {
            name: named("add")?,
            user: user.context("name the user whose messages the key publishes: --user BOT")?.to_owned(),
            scopes: scope.unwrap_or(DEFAULT_SCOPES).to_string(),
            users: users.unwrap_or_default().to_string(),
        },
        KeyAction::List => KeyRequest::List,
        KeyAction::Remove => KeyRequest::Remove { name: named("remove")? },
        KeyAction::Log => KeyRequest::Log { last: last.unwrap_or(100) },
    };
    let request = Request::ApiKey(request);
    let printed = match client::ask(&options.data, &request)? {
        Some(printed) => printed,
        None => {
            let Request::ApiKey(request) = &request else { bail!("another request") };
            let folder = DataFolder::open(&options.data)?;
            in_store(options, &folder, async |store| operator::manage_keys(store, request).await)?
        }
    };
    output::print(printed.as_bytes())?;
    match action {
        KeyAction::Add => output::note(format_args!("this is the key; it can't be shown again")),
        KeyAction::Remove => output::note(format_args!("the key is removed")),
        KeyAction::List if printed.is_empty() => output::note(format_args!("there are no API keys")),
        KeyAction::Log if printed.is_empty() => output::note(format_args!("the audit log is empty")),
        KeyAction::List | KeyAction::Log => {}
    }
    Ok(())
}

/// Makes an invite. A running server does it, or else this process, which then keeps servers from starting.
pub fn invite(
    options: &Options,
    room: Option<&str>,
    uses: Option<u32>,
    lifetime_s: u64,
    url: Option<&str>,
) -> Result<()> {
    room.map(operator::check_room).transpose()?;
    let address = settings::address_for_users(options, url)?;
    let request = InviteRequest { room: room.map(ToOwned::to_owned), uses, lifetime_s };
    let request = Request::Invite(request);
    let code = match client::ask(&options.data, &request)? {
        Some(code) => code,
        None => {
            let Request::Invite(request) = &request else { bail!("another request") };
            let folder = DataFolder::open(&options.data)?;
            in_store(options, &folder, async |store| operator::invite(store, request).await)?
        }
    };
    output::print(format!("{}\n", uproar_http::invites::link(&address, &code)).as_bytes())
}

/// Runs `work` on the database, which no server of this data folder uses.
fn in_store<T>(options: &Options, folder: &DataFolder, work: impl AsyncFnOnce(&dyn Store) -> Result<T>) -> Result<T> {
    let url = options.database_url()?;
    // Nodes on other machines may use the database.
    let open = OpenOptions { node: options.node()?, ..OpenOptions::default() };
    block_on(async {
        let store = uproar_store::open(&url, folder, open).await?;
        let result = work(&*store).await;
        store.close().await;
        result
    })?
}

/// Reads a password from the terminal without showing it, or the first line of standard input.
fn read_password(user: &str) -> Result<String> {
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(format!("New password for {user}: "))
            .context("can't read from the terminal");
    }
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("can't read standard input")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("can't start a thread")?;
    let output = runtime.block_on(future);
    // A name server that does not answer must not keep the process: lookups can't be interrupted.
    runtime.shutdown_background();
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};
    use tokio::task::spawn_blocking;

    #[test]
    fn a_lookup_that_does_not_end_does_not_keep_a_tool() {
        let (begun, begins) = std::sync::mpsc::channel();
        let start = Instant::now();
        let stuck = async {
            spawn_blocking(move || {
                begun.send(()).unwrap();
                std::thread::sleep(Duration::from_secs(60));
            });
            begins.recv().unwrap();
        };
        block_on(stuck).unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
