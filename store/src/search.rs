//! Finding rooms by a part of their name or title, so that a page costs no more than a page.

use crate::connection::{Arg, DbConnection};
use crate::error::StoreError;
use uproar_model::UserId;

/// SQLite's index finds parts of at least this many characters.
const INDEXED_CHARACTERS: usize = 3;

/// If more rooms than this match, a page of them is found faster by going through the rooms by name.
const CANDIDATES_LIMIT: i64 = 1_000;

/// The first `limit` rooms after the name `after` that the viewer can see and whose name or title contains `part`, a
/// folded text. In the order of their names.
pub(crate) async fn rooms(
    db: &mut DbConnection,
    viewer: UserId,
    part: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<i64>, StoreError> {
    let mut pattern = String::from("%");
    for c in part.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    // Of the rooms that only their members see, there are few per user. Direct ones are found by who else is in them.
    let sql = "SELECT r.name, r.id FROM members m JOIN rooms r ON r.id = m.room_id
        WHERE m.user_id = $1 AND r.kind <> 0 AND r.name > $2
          AND CASE r.kind WHEN 2 THEN $3 = '%%' OR EXISTS (
            SELECT 1 FROM members o JOIN users u ON u.id = o.user_id
            WHERE o.room_id = r.id AND o.user_id <> $1 AND u.username_key LIKE $3 ESCAPE '\\')
          ELSE r.name LIKE $3 ESCAPE '\\' OR r.title_key LIKE $3 ESCAPE '\\' END
        ORDER BY r.name LIMIT $4";
    let args = [Arg::Int(viewer.0), Arg::Text(after), Arg::Text(&pattern), Arg::Int(limit)];
    let mut found: Vec<(String, i64)> = db.all(sql, &args).await?;

    let args = [Arg::Text(after), Arg::Text(&pattern), Arg::Int(limit)];
    found.extend(match indexed(db, part).await? {
        Some(phrase) => {
            // The order of the tables keeps SQLite from going through all rooms.
            let sql = "SELECT r.name, r.id FROM room_search s CROSS JOIN rooms r ON r.id = s.rowid
                WHERE s.room_search MATCH $4 AND r.kind = 0 AND r.name > $1
                  AND (r.name LIKE $2 ESCAPE '\\' OR r.title_key LIKE $2 ESCAPE '\\')
                ORDER BY r.name LIMIT $3";
            let [after, pattern, limit] = args;
            db.all::<(String, i64)>(sql, &[after, pattern, limit, Arg::Text(&phrase)]).await?
        }
        None => {
            let sql = "SELECT name, id FROM rooms WHERE kind = 0 AND name > $1
                AND (name LIKE $2 ESCAPE '\\' OR title_key LIKE $2 ESCAPE '\\') ORDER BY name LIMIT $3";
            db.all(sql, &args).await?
        }
    });
    found.sort();
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// The phrase to look up in SQLite's index, if that is the fastest way. PostgreSQL chooses between its indexes itself.
async fn indexed(db: &mut DbConnection, part: &str) -> Result<Option<String>, StoreError> {
    if db.is_postgres() || part.chars().count() < INDEXED_CHARACTERS {
        return Ok(None);
    }
    let phrase = format!("\"{}\"", part.replace('"', "\"\""));
    let sql = "SELECT count(*) FROM (SELECT 1 FROM room_search WHERE room_search MATCH $1 LIMIT $2)";
    let candidates = db.optional::<(i64,)>(sql, &[Arg::Text(&phrase), Arg::Int(CANDIDATES_LIMIT)]).await?;
    Ok(candidates.is_some_and(|(count,)| count < CANDIDATES_LIMIT).then_some(phrase))
}
