//! The schema of each database, as migrations that are built into the program and applied at every start.

use crate::error::{OpenError, one_line};
use sqlx::SqlSafeStr;
use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};
use std::time::Duration;

/// One migration: its number, from 1; its name; its SQL. A released migration is never changed, because its checksum
/// is compared with the one that the database recorded.
pub(crate) type Migration = (i64, &'static str, &'static str);

pub(crate) const SQLITE: &[Migration] = &[
    (1, "first", include_str!("../../migrations/sqlite/0001_first.sql")),
    (2, "reserved names", include_str!("../../migrations/sqlite/0002_reserved_names.sql")),
    (3, "skeletons", include_str!("../../migrations/sqlite/0003_skeletons.sql")),
    (4, "rooms", include_str!("../../migrations/sqlite/0004_rooms.sql")),
    (5, "user rooms", include_str!("../../migrations/sqlite/0005_user_rooms.sql")),
    (6, "reactions", include_str!("../../migrations/sqlite/0006_reactions.sql")),
    (7, "reserved skeletons", include_str!("../../migrations/sqlite/0007_reserved_skeletons.sql")),
    (8, "memberships", include_str!("../../migrations/sqlite/0008_memberships.sql")),
    (9, "usable since", include_str!("../../migrations/sqlite/0009_usable_since.sql")),
    (10, "positions", include_str!("../../migrations/sqlite/0010_positions.sql")),
    (11, "API keys", include_str!("../../migrations/sqlite/0011_api_keys.sql")),
    (12, "identities", include_str!("../../migrations/sqlite/0012_identities.sql")),
    (13, "blocked", include_str!("../../migrations/sqlite/0013_blocked.sql")),
    (14, "hooks", include_str!("../../migrations/sqlite/0014_hooks.sql")),
    (15, "meta", include_str!("../../migrations/sqlite/0015_meta.sql")),
    (16, "batches", include_str!("../../migrations/sqlite/0016_batches.sql")),
    (17, "silences", include_str!("../../migrations/sqlite/0017_silences.sql")),
    (18, "moderation", include_str!("../../migrations/sqlite/0018_moderation.sql")),
    (19, "direct", include_str!("../../migrations/sqlite/0019_direct.sql")),
    (20, "invites", include_str!("../../migrations/sqlite/0020_invites.sql")),
];

pub(crate) const POSTGRES: &[Migration] = &[
    (1, "first", include_str!("../../migrations/postgres/0001_first.sql")),
    (2, "append", include_str!("../../migrations/postgres/0002_append.sql")),
    (3, "reserved names", include_str!("../../migrations/postgres/0003_reserved_names.sql")),
    (4, "skeletons", include_str!("../../migrations/postgres/0004_skeletons.sql")),
    (5, "rooms", include_str!("../../migrations/postgres/0005_rooms.sql")),
    (6, "user rooms", include_str!("../../migrations/postgres/0006_user_rooms.sql")),
    (7, "reactions", include_str!("../../migrations/postgres/0007_reactions.sql")),
    (8, "void reactions", include_str!("../../migrations/postgres/0008_void_reactions.sql")),
    (9, "reserved skeletons", include_str!("../../migrations/postgres/0009_reserved_skeletons.sql")),
    (10, "memberships", include_str!("../../migrations/postgres/0010_memberships.sql")),
    (11, "functions", include_str!("../../migrations/postgres/0011_functions.sql")),
    (12, "nodes", include_str!("../../migrations/postgres/0012_nodes.sql")),
    (13, "rights", include_str!("../../migrations/postgres/0013_rights.sql")),
    (14, "positions", include_str!("../../migrations/postgres/0014_positions.sql")),
    (15, "API keys", include_str!("../../migrations/postgres/0015_api_keys.sql")),
    (16, "identities", include_str!("../../migrations/postgres/0016_identities.sql")),
    (17, "blocked", include_str!("../../migrations/postgres/0017_blocked.sql")),
    (18, "hooks", include_str!("../../migrations/postgres/0018_hooks.sql")),
    (19, "meta", include_str!("../../migrations/postgres/0019_meta.sql")),
    (20, "outbox", include_str!("../../migrations/postgres/0020_outbox.sql")),
    (21, "batches", include_str!("../../migrations/postgres/0021_batches.sql")),
    (22, "expel", include_str!("../../migrations/postgres/0022_expel.sql")),
    (23, "node loads", include_str!("../../migrations/postgres/0023_node_loads.sql")),
    (24, "silences", include_str!("../../migrations/postgres/0024_silences.sql")),
    (25, "judgement", include_str!("../../migrations/postgres/0025_judgement.sql")),
    (26, "moderation", include_str!("../../migrations/postgres/0026_moderation.sql")),
    (27, "direct", include_str!("../../migrations/postgres/0027_direct.sql")),
    (28, "invites", include_str!("../../migrations/postgres/0028_invites.sql")),
    (29, "blocks", include_str!("../../migrations/postgres/0029_blocks.sql")),
];

/// Changing the schema of a large database takes long, and an administrator can see that the database is at work.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3600);

/// The error after [`TIMEOUT`].
pub(crate) fn took_too_long(address: &str) -> OpenError {
    let seconds = TIMEOUT.as_secs();
    OpenError::Lasting(format!(
        "the schema of the database {address} was not updated within {seconds} s; start uproar again to retry"
    ))
}

/// The row of `meta` that says which programs can use a database: those that know the schema version with this number.
/// Without the row it is usable only with the version that it has. A program may therefore find a newer schema than it
/// knows, and only reads and writes what it knows of it.
pub(crate) const USABLE_SINCE: &str = "SELECT value FROM meta WHERE name = 'usable_since'";

/// Where a database records its migrations.
pub(crate) const TABLE: &str = "_sqlx_migrations";

/// The last migration that was applied, if this build can use the schema: it is its own, or that of a newer release
/// which says so. `None`: none was applied. `usable_since`: what the database says.
pub(crate) fn check(
    applied: &[AppliedMigration],
    usable_since: Option<&str>,
    migrations: &[Migration],
) -> Result<Option<i64>, MigrateError> {
    let (known, newest) = (migrator(migrations), newest(migrations));
    let last = applied.last().map(|applied| applied.version);
    let is_usable = usable_since.and_then(|since| since.parse::<i64>().ok()).is_some_and(|since| since <= newest);
    for applied in applied {
        match known.iter().find(|known| known.version == applied.version) {
            Some(known) if known.checksum == applied.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(applied.version)),
            None if is_usable && applied.version > newest => {}
            None => return Err(MigrateError::VersionMissing(last.unwrap_or(applied.version))),
        }
    }
    Ok(last)
}

/// A migrator for a schema that was checked. It takes no lock, and accepts the migrations of newer releases.
pub(crate) fn updater(migrations: &[Migration]) -> Migrator {
    let mut migrator = migrator(migrations);
    migrator.set_ignore_missing(true).set_locking(false);
    migrator
}

pub(crate) fn migrator(migrations: &[Migration]) -> Migrator {
    let migration = |&(version, name, sql): &Migration| {
        let kind = sqlx::migrate::MigrationType::Simple;
        sqlx::migrate::Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

/// Fails unless exactly the migrations of this build have been applied: then it knows all tables and columns, and can
/// copy them. `applied`: their versions and checksums.
pub(crate) fn require_current(
    applied: &[(i64, Vec<u8>)],
    address: &str,
    migrations: &[Migration],
) -> Result<(), OpenError> {
    let known = migrator(migrations);
    for (version, checksum) in applied {
        let error = match known.iter().find(|migration| migration.version == *version) {
            Some(migration) if *migration.checksum == **checksum => continue,
            Some(_) => MigrateError::VersionMismatch(*version),
            None => MigrateError::VersionMissing(*version),
        };
        return Err(migration_failed(&error, address, migrations));
    }
    if applied.len() < migrations.len() {
        let (version, newest) = (applied.last().map_or(0, |(version, _)| *version), newest(migrations));
        return Err(OpenError::Lasting(format!(
            "the database {address} has schema version {version}, but this uproar needs version {newest}: start its \
             server once on that database, which updates it"
        )));
    }
    Ok(())
}

/// The schema version that these migrations lead to.
pub(crate) fn newest(migrations: &[Migration]) -> i64 {
    migrations.last().map_or(0, |(version, ..)| *version)
}

/// The error that the database reported, if that is why migrating failed.
pub(crate) fn database_error(error: &MigrateError) -> Option<&sqlx::Error> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(error),
        _ => None,
    }
}

/// Why the schema of the database at `address` can't be used. `migrations`: those that this build knows.
pub(crate) fn migration_failed(error: &MigrateError, address: &str, migrations: &[Migration]) -> OpenError {
    let newest = newest(migrations);
    OpenError::Lasting(match error {
        MigrateError::VersionMissing(version) => format!(
            "the database {address} has schema version {version}, but this uproar knows only versions up to \
             {newest}: start the newer uproar that changed the schema, or restore a backup from before the change"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema version {version} of the database {address} was created by another build of uproar: \
             start that build, or use a new database"
        ),
        error => {
            let cause = database_error(error).map_or_else(|| one_line(error), |error| one_line(error));
            format!("can't update the schema of the database {address}: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A migration that forgot the question would let older programs start on a schema that they can't use.
    #[test]
    fn each_migration_says_whether_older_programs_can_use_the_schema() {
        for (version, name, sql) in SQLITE[8..].iter().chain(&POSTGRES[10..]) {
            assert!(sql.contains("usable_since"), "migration {version}, {name}");
        }
    }
}
