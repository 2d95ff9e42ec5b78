//! How SQLite's generation changes: a start notices a restored backup by its incarnation. See `incarnation.rs`.

use crate::connection::Arg::Text;
use crate::connection::DbConnection;
use crate::error::StoreError;
use crate::generation::{self, DatabaseGeneration, random_word};
use crate::incarnation::IncarnationFile;

/// Compares the incarnation in the database with those that the data folder knows. If it is none of them, the database
/// was restored from a backup: its history is not the one that clients have seen, so this begins a new generation. Then
/// writes a new incarnation to both places. `db` is in a transaction that may write.
pub(super) async fn start_incarnation(
    mut db: DbConnection,
    file: &IncarnationFile,
    known_words: &[String],
) -> Result<DatabaseGeneration, StoreError> {
    let rows = db.all::<(String, String)>("SELECT name, value FROM meta", &[]).await?;
    let value = |name: &str| rows.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let mut generation = generation::parse(value("generation"));
    let previous = value("incarnation");
    let is_known = previous.is_some_and(|previous| known_words.iter().any(|word| word == previous));
    let has_users = db.optional::<(i64,)>("SELECT id FROM users LIMIT 1", &[]).await?.is_some();
    if previous.is_some() && !is_known {
        generation = generation::draw()?;
        tracing::warn!(
            %generation,
            "the database was restored from a backup, or belongs to another data folder: clients start over"
        );
    } else if generation::is_unused(generation, has_users) {
        generation = generation::draw()?;
    }
    write(db, file, generation, previous.filter(|_| is_known)).await?;
    Ok(generation)
}

/// Writes a new incarnation at an orderly stop as well, so that a backup made while the server ran is noticed even if
/// it is restored before the next start.
pub(super) async fn change_incarnation(
    mut db: DbConnection,
    file: &IncarnationFile,
    generation: DatabaseGeneration,
) -> Result<(), StoreError> {
    db.begin().await?;
    let previous = db.optional::<(String,)>("SELECT value FROM meta WHERE name = 'incarnation'", &[]).await?;
    write(db, file, generation, previous.as_ref().map(|(word,)| word.as_str())).await
}

/// Writes a new incarnation to the database, whose transaction this commits, and to the file. `previous`: the current
/// one, if the database and the file agree on it.
async fn write(
    mut db: DbConnection,
    file: &IncarnationFile,
    generation: DatabaseGeneration,
    previous: Option<&str>,
) -> Result<(), StoreError> {
    let word = random_word()?;
    let sql = "INSERT INTO meta (name, value) VALUES ('generation', $1), ('incarnation', $2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    db.execute(sql, &[Text(&generation.to_string()), Text(&word)]).await?;
    // Two files can't change at the same moment. The file knows both words until the commit, so that a process that
    // dies in between does not make all clients start over.
    match previous {
        Some(previous) => {
            write_file(file, vec![word.clone(), previous.to_owned()]).await?;
            db.commit().await?;
            write_file(file, vec![word]).await
        }
        None => {
            write_file(file, vec![word]).await?;
            db.commit().await?;
            Ok(())
        }
    }
}

async fn write_file(file: &IncarnationFile, words: Vec<String>) -> Result<(), StoreError> {
    let (target, path) = (file.clone(), file.path().display());
    let written = tokio::task::spawn_blocking(move || target.write(&words)).await;
    let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| StoreError::Failed(format!("can't write {path}: {error}")))
}
