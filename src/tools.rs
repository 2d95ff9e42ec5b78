//! The small tools of the command line: what is done without a server, or beside one.

use crate::config::Options;
use crate::driver;
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read};
use std::path::Path;
use uproar_http::{Tokens, passwords};
use uproar_model::fold_name;
use uproar_store::{DataFolder, OpenOptions};

/// Mints a token: reads the key, and nothing else.
pub fn token(options: &Options, user: &str, lifetime: u64) -> Result<()> {
    fold_name(user).map_err(|error| anyhow::anyhow!("--user: '{user}' is no user's name: it {error}"))?;
    let tokens = Tokens::read_key_file(&options.key_path())?;
    println!("{}", tokens.mint(user, driver::now().unix_ms / 1000, lifetime));
    Ok(())
}

/// Copies the SQLite database, beside a running server.
pub fn backup(options: &Options, file: &Path) -> Result<()> {
    let url = options.database_url()?;
    block_on(uproar_store::tools::backup(&url, file))??;
    eprintln!("copied the database to {}", file.display());
    Ok(())
}

/// Makes clients start over.
pub fn restored(options: &Options) -> Result<()> {
    let url = options.database_url()?;
    let folder = DataFolder::open(&options.data)?;
    block_on(uproar_store::tools::restored(&url, &folder, OpenOptions::default()))??;
    eprintln!("from the next start on all rooms have a new epoch: clients read their history again");
    Ok(())
}

/// Sets a password.
pub fn password(options: &Options, user: &str) -> Result<()> {
    let key = fold_name(user).map_err(|error| anyhow::anyhow!("--user: '{user}' is no user's name: it {error}"))?;
    let url = options.database_url()?;
    let folder = DataFolder::open(&options.data)?;
    let hash = passwords::hash_new(&read_password(user)?).map_err(anyhow::Error::msg)?;
    block_on(async {
        let store = uproar_store::open(&url, &folder, OpenOptions::default()).await?;
        let result = async {
            let Some((account, _)) = store.login(uproar_store::Login::UsernameKey(&key)).await? else {
                bail!("there is no user '{user}'");
            };
            store.set_password(account.id, None, &hash).await?;
            Ok(())
        };
        let result = result.await;
        store.close().await;
        result
    })??;
    eprintln!("{user} has a new password; tokens issued before are no longer good");
    Ok(())
}

/// From the terminal without showing it, or a line of standard input.
fn read_password(user: &str) -> Result<String> {
    if std::io::stdin().is_terminal() {
        return rpassword::prompt_password(format!("New password for {user}: ")).context("the terminal can't be read");
    }
    let mut text = String::new();
    std::io::stdin().take(4096).read_to_string(&mut text).context("standard input can't be read")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    Ok(runtime.context("no thread can be started")?.block_on(future))
}
