//! Moves everything from a SQLite database into an empty PostgreSQL database.
//!
//! PostgreSQL receives it in one transaction, so until the commit nothing has changed there. Immediately before, the
//! SQLite database is marked, and no server starts on it any more. Ids, offsets, epochs and the generation stay the
//! same, so tokens stay valid and clients resume where they were. Of two databases with the same generation, only one
//! may ever be written to: hence the mark comes first.

use crate::data_folder::DataFolder;
use crate::error::OpenError;
use crate::generation::DatabaseGeneration;
use crate::options::OpenOptions;
use crate::postgres::{Receiver, Vacancy};
use crate::sqlite::Source;
use crate::sum::Sum;
use crate::tables::{TABLES, Table, append_row};
use futures_util::TryStreamExt;
use std::fmt::Arguments;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// About how many bytes of rows one statement stores.
const CHUNK_BYTES: usize = 1 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long to find out whether a commit that was not answered has happened.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// Moves the database in the file `from` to the PostgreSQL database at `url`. `say` gets lines about the progress.
pub(crate) async fn migrate(
    from: &Path,
    folder: &DataFolder,
    url: &str,
    options: &OpenOptions,
    say: &dyn Fn(Arguments<'_>),
) -> Result<(), OpenError> {
    let mut source = Source::open(from, folder).await?;
    let mut vacancy = Vacancy::take(url, options).await?;
    let address = vacancy.address().to_owned();
    let occupant = vacancy.occupant().await?;
    if let Some(moved) = &source.moved_to {
        if moved.address == address && occupant == Some(moved.generation) {
            say(format_args!("the database {} has moved to {address} already", from.display()));
            return Ok(());
        }
        if moved.address != address {
            return Err(OpenError::Lasting(format!(
                "the database {} has moved to PostgreSQL at {} already; to move it once more, without what was stored \
                 since, run `uproar restored` on it first",
                from.display(),
                moved.address
            )));
        }
    }
    if occupant.is_some() {
        return Err(OpenError::Lasting(format!(
            "the database {address} is in use: it holds users or rooms; name an empty one with --database"
        )));
    }
    if source.is_restored {
        say(format_args!("the SQLite database was restored from a backup: clients start over"));
    }

    let mut receiver = vacancy.begin().await.map_err(nothing_was_moved)?;
    receive(&mut source, &mut receiver, say).await.map_err(nothing_was_moved)?;
    source.mark(&address).await.map_err(nothing_was_moved)?;
    let Err(error) = receiver.commit().await else { return Ok(()) };
    say(format_args!("PostgreSQL has not confirmed the commit ({error}); finding out whether it happened"));
    drop(vacancy);
    match settle(url, options, source.generation).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            source.unmark().await?;
            Err(nothing_was_moved(error))
        }
        Err(error) => Err(OpenError::Away(format!(
            "whether everything has moved to {address} is unknown ({error}); run `uproar migrate` again when that \
             database can be reached, and start no server before"
        ))),
    }
}

fn nothing_was_moved(error: OpenError) -> OpenError {
    let text = format!("{error}; nothing was moved, and both databases are as before");
    match error {
        OpenError::Lasting(_) => OpenError::Lasting(text),
        OpenError::Away(_) => OpenError::Away(text),
        OpenError::Taken(_) => OpenError::Taken(text),
    }
}

/// Copies everything, and compares it.
async fn receive(
    source: &mut Source,
    receiver: &mut Receiver<'_>,
    say: &dyn Fn(Arguments<'_>),
) -> Result<(), OpenError> {
    say(format_args!("checking the SQLite database"));
    source.check().await?;
    let mut sums = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        sums.push(copy(source, receiver, table, say).await?);
    }
    for table in ["users", "rooms", "audit", "hooks", "room_audit"] {
        receiver.continue_ids(table, source.last_id(table).await?).await?;
    }
    receiver.record(source.generation, &source.meta).await?;
    say(format_args!("comparing the two databases"));
    for (table, sum) in TABLES.iter().zip(sums) {
        let received = receiver.sum(table).await?;
        if received != sum {
            return Err(OpenError::Lasting(format!(
                "the table {} is not the same on both sides (SQLite: {sum}; PostgreSQL: {received})",
                table.name
            )));
        }
        say(format_args!("{}: {sum} on both sides", table.name));
    }
    receiver.finish().await
}

/// Copies one table, in pieces that fit into memory.
async fn copy(
    source: &mut Source,
    receiver: &mut Receiver<'_>,
    table: &Table,
    say: &dyn Fn(Arguments<'_>),
) -> Result<Sum, OpenError> {
    let total = source.count(table).await?;
    let mut rows = pin!(source.rows(table));
    let mut sum = Sum::default();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
    let mut said = Instant::now();
    loop {
        let row = rows.try_next().await?;
        if let Some(row) = &row {
            append_row(row, &mut chunk)
                .map_err(|error| OpenError::Lasting(format!("can't copy the table {}: {error}", table.name)))?;
        }
        if !chunk.is_empty() && (row.is_none() || chunk.len() >= CHUNK_BYTES) {
            receiver.store(table, &chunk).await?;
            sum.add(&chunk);
            chunk.clear();
            if said.elapsed() >= PROGRESS_INTERVAL {
                said = Instant::now();
                say(format_args!("{}: copied {} of {total} rows", table.name, sum.rows));
            }
        }
        if row.is_none() {
            say(format_args!("{}: copied {} rows", table.name, sum.rows));
            return Ok(sum);
        }
    }
}

/// Whether the database at `url` has received everything, after a commit that was not answered.
async fn settle(url: &str, options: &OpenOptions, generation: DatabaseGeneration) -> Result<bool, OpenError> {
    let started = Instant::now();
    loop {
        let occupant = async { Vacancy::take(url, options).await?.occupant().await };
        match occupant.await {
            Ok(occupant) => return Ok(occupant == Some(generation)),
            Err(OpenError::Lasting(why)) => return Err(OpenError::Lasting(why)),
            Err(error) if started.elapsed() >= SETTLE_TIMEOUT => return Err(error),
            Err(_) => sleep(SETTLE_PAUSE).await,
        }
    }
}
