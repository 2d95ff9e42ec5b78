//! The tables that hold what a server keeps, which have the same columns on both databases, and their rows as text.

use crate::error::StoreError;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Decode, Row, Sqlite, TypeInfo, ValueRef};
use std::io::Write;

/// One table, with all its columns and its primary key.
pub(crate) struct Table {
    pub name: &'static str,
    pub columns: &'static [&'static str],
    pub key: &'static str,
}

/// All tables except `meta`, most of whose rows belong to one database. A table comes after those that it refers to.
pub(crate) const TABLES: [Table; 22] = [
    Table {
        name: "users",
        columns: &[
            "id",
            "username",
            "username_key",
            "email_key",
            "password_hash",
            "token_generation",
            "revoked_at",
            "created_at",
            "skeleton",
            "blocked_at",
        ],
        key: "id",
    },
    Table { name: "identities", columns: &["subject", "issuer", "user_id", "created_at"], key: "subject, issuer" },
    Table {
        name: "rooms",
        columns: &[
            "id",
            "name",
            "kind",
            "title",
            "title_key",
            "size",
            "members",
            "epoch",
            "created_by",
            "created_at",
            "skeleton",
            "topic",
            "who_may_invite",
            "direct_key",
        ],
        key: "id",
    },
    Table {
        name: "heads",
        columns: &["room_id", "last_offset", "last_number", "slow_mode_seconds", "who_may_post"],
        key: "room_id",
    },
    Table {
        name: "members",
        columns: &[
            "room_id",
            "user_id",
            "role",
            "joined_at",
            "read_offset",
            "read_number",
            "silenced_until",
            "last_posted_at",
        ],
        key: "room_id, user_id",
    },
    Table { name: "user_rooms", columns: &["user_id", "room_id", "room_name"], key: "user_id, room_id" },
    Table {
        name: "messages",
        columns: &[
            "room_id",
            "room_offset",
            "number",
            "kind",
            "user_id",
            "client_id",
            "target_offset",
            "body",
            "edit_offset",
            "gone_offset",
            "created_at",
            "meta",
        ],
        key: "room_id, room_offset",
    },
    Table {
        name: "reactions",
        columns: &["room_id", "room_offset", "emoji", "user_id"],
        key: "room_id, room_offset, emoji, user_id",
    },
    Table {
        name: "reaction_kinds",
        columns: &["room_id", "room_offset", "emoji", "since", "users"],
        key: "room_id, room_offset, emoji",
    },
    Table { name: "api_keys", columns: &["name", "key_hash", "user_id", "scopes", "users", "created_at"], key: "name" },
    Table { name: "audit", columns: &["id", "at", "actor", "action", "target", "outcome", "times"], key: "id" },
    Table { name: "former_names", columns: &["name_key", "username", "skeleton", "user_id"], key: "name_key" },
    Table { name: "blocks", columns: &["user_id", "blocked_id", "at"], key: "user_id, blocked_id" },
    Table { name: "reserved_names", columns: &["name", "owner_id", "until", "skeleton"], key: "name" },
    Table {
        name: "readers",
        columns: &["reader", "filter", "former_filter", "prepared_to", "prepare_until", "paused_at"],
        key: "reader",
    },
    Table {
        name: "positions",
        columns: &["reader", "room_id", "room_offset", "batch_to", "batch_epoch", "batch_at", "batch_note"],
        key: "reader, room_id",
    },
    Table {
        name: "hooks",
        columns: &["id", "room_id", "user_id", "name", "secret_hash", "created_by", "created_at"],
        key: "id",
    },
    Table {
        name: "bans",
        columns: &["room_id", "user_id", "until", "reason", "banned_by", "at"],
        key: "room_id, user_id",
    },
    Table {
        name: "silences",
        columns: &["room_id", "user_id", "until", "reason", "silenced_by", "at"],
        key: "room_id, user_id",
    },
    Table { name: "pins", columns: &["room_id", "room_offset", "pinned_by", "at"], key: "room_id, room_offset" },
    Table {
        name: "room_audit",
        columns: &["id", "room_id", "at", "actor_id", "action", "target_id", "detail"],
        key: "id",
    },
    Table {
        name: "invites",
        columns: &["code", "room_id", "created_by", "created_at", "expires_at", "uses", "uses_limit", "revoked_at"],
        key: "code",
    },
];

impl Table {
    /// A query for all rows, by their key. Both databases compare the texts in keys byte by byte, so the order is the
    /// same.
    pub fn select(&self) -> String {
        format!("SELECT {} FROM {} ORDER BY {}", self.columns.join(", "), self.name, self.key)
    }
}

/// Appends a row in the text format of PostgreSQL's `COPY`, byte for byte as PostgreSQL itself would write it.
/// <https://www.postgresql.org/docs/current/sql-copy.html>
pub(crate) fn append_row(row: &SqliteRow, to: &mut Vec<u8>) -> Result<(), StoreError> {
    for index in 0..row.len() {
        if index > 0 {
            to.push(b'\t');
        }
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            to.extend_from_slice(b"\\N");
            continue;
        }
        let is_integer = value.type_info().name() == "INTEGER";
        let decoded = match is_integer {
            true => <i64 as Decode<Sqlite>>::decode(value).map(|number| {
                let _ = write!(to, "{number}");
            }),
            false => match <&str as Decode<Sqlite>>::decode(value) {
                Ok(text) if text.contains('\0') => Err("a text contains U+0000".into()),
                text => text.map(|text| append_text(text, to)),
            },
        };
        decoded.map_err(|error| StoreError::Failed(format!("column {}: {error}", row.column(index).name())))?;
    }
    to.push(b'\n');
    Ok(())
}

fn append_text(text: &str, to: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        let escaped = match byte {
            b'\\' => b'\\',
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0b => b'v',
            0x0c => b'f',
            0x0d => b'r',
            byte => {
                to.push(byte);
                continue;
            }
        };
        to.extend_from_slice(&[b'\\', escaped]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations;
    use sqlx::{AssertSqlSafe, ConnectOptions, sqlite::SqliteConnectOptions};

    #[tokio::test]
    async fn all_tables_and_columns_are_listed() -> Result<(), Box<dyn std::error::Error>> {
        let mut connection = SqliteConnectOptions::new().filename(":memory:").connect().await?;
        migrations::migrator(migrations::SQLITE).run(&mut connection).await?;
        let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
            AND name NOT IN ('meta', '_sqlx_migrations') AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let tables: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await?;
        let mut listed: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        listed.sort_unstable();
        assert_eq!(tables, listed);
        for table in &TABLES {
            let sql = format!("SELECT name FROM pragma_table_info('{}')", table.name);
            let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
            assert_eq!(columns, table.columns, "{}", table.name);
            let sql = format!("SELECT name FROM pragma_table_info('{}') WHERE pk > 0 ORDER BY pk", table.name);
            let key: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
            assert_eq!(key.join(", "), table.key, "{}", table.name);
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_row_is_written_as_postgres_writes_it() -> Result<(), Box<dyn std::error::Error>> {
        let mut connection = SqliteConnectOptions::new().filename(":memory:").connect().await?;
        let sql = r"SELECT -5, NULL, '', 'a\b' || char(8, 9, 10, 11, 12, 13, 27, 127, 233, 0x1f600)";
        let row = sqlx::query(sql).fetch_one(&mut connection).await?;
        let mut text = Vec::new();
        append_row(&row, &mut text)?;
        assert_eq!(String::from_utf8(text)?, "-5\t\\N\t\ta\\\\b\\b\\t\\n\\v\\f\\r\u{1b}\u{7f}é😀\n");
        for sql in ["SELECT 'a' || char(0)", "SELECT CAST(x'ff' AS TEXT)"] {
            let row = sqlx::query(sql).fetch_one(&mut connection).await?;
            assert!(append_row(&row, &mut Vec::new()).is_err(), "{sql}");
        }
        Ok(())
    }
}
