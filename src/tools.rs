//! The tools of the command line.

use crate::config::Options;
use crate::{driver, output};
use anyhow::{Context, Result, anyhow, bail};
use std::io::{IsTerminal, Read};
use std::path::Path;
use uproar_http::{Tokens, passwords};
use uproar_model::fold_name;
use uproar_model::text::normalize_password;
use uproar_store::{DataFolder, OpenOptions};

/// Prints a new token. It reads only the key, so it works while a server runs.
pub fn token(options: &Options, user: &str, lifetime: u64) -> Result<()> {
    check_name(user)?;
    let tokens = Tokens::read_key_file(&options.key_path())?;
    output::print(format!("{}\n", tokens.mint(user, driver::now().unix_ms / 1000, lifetime)).as_bytes())
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

/// Sets a user's password and invalidates the user's tokens.
pub fn password(options: &Options, user: &str) -> Result<()> {
    let key = check_name(user)?;
    let url = options.database_url()?;
    let folder = DataFolder::open(&options.data)?;
    let password = normalize_password(&read_password(user)?);
    let hash = passwords::hash_new(&password).map_err(anyhow::Error::msg)?;
    block_on(async {
        let store = uproar_store::open(&url, &folder, OpenOptions::default()).await?;
        let result = async {
            let Some(account) = store.account_named(&key).await? else {
                bail!("there is no user '{user}'");
            };
            store.set_password(account.id, None, &hash).await?;
            Ok(())
        };
        let result = result.await;
        store.close().await;
        result
    })??;
    output::note(format_args!("{user} has a new password; tokens issued before are no longer valid"));
    Ok(())
}

/// Checks a user's name and returns its key.
fn check_name(user: &str) -> Result<String> {
    fold_name(user).map_err(|error| anyhow!("--user: '{}' is not a valid user name: it {error}", user.escape_debug()))
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
    Ok(runtime.context("can't start a thread")?.block_on(future))
}
