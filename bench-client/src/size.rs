//! Measures what a machine for Uproar needs: memory by connections and rooms, disk by messages.

use crate::matrix::metric::{bytes, thousands};
use crate::matrix::runner::Job;
use crate::matrix::workloads::{self, Subject};
use crate::output::note;
use crate::result::{Channel, Run, Scenario, Shape};
use crate::scenario;
use crate::server::Environment;
use anyhow::{Context, Result, ensure};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uproar_model::{Item, Kind, Outcome, RoomId, UserId};
use uproar_store::{DataFolder, DatabaseUrl, NewRoom, OpenOptions, RoomKind, open};

/// Rooms in which idle connections are, and in which messages are stored.
const ROOMS: u32 = 100;
/// Users who take turns to send the messages.
const USERS: usize = 10;
/// The length of a message.
pub const TEXT_BYTES: usize = 100;
const BATCH_ITEMS: u64 = 512;
/// How long a server may settle before its memory is read.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// How much is measured. The results are for 1,000 connections, 1,000 rooms and a million messages nevertheless.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    pub connections: u32,
    pub rooms: u32,
    pub messages: u64,
}

/// Everything in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// RSS of a server without connections and rooms.
    pub empty: f64,
    /// RSS of an idle connection.
    pub connection: f64,
    /// Memory of the kernel for an idle connection, both ends of which are on this machine.
    pub connection_in_kernel: f64,
    /// RSS of a room that somebody is connected to, without the connection.
    pub room: f64,
    /// Disk for a message, with its share of the indexes.
    pub message_on_sqlite: f64,
    pub message_on_postgres: f64,
}

/// Starts servers and databases, one after the other.
pub fn measure(environment: &mut Environment, subject: Subject, amounts: Amounts) -> Result<Size> {
    note(format_args!("an empty server"));
    let server = environment.start(subject, Channel::Sqlite, false, None)?;
    std::thread::sleep(SETTLE_TIME);
    let empty = server.rss_bytes()? as f64;
    server.stop()?;
    note(format_args!("{} idle connections in {ROOMS} rooms", amounts.connections));
    let few_rooms = idle(environment, subject, ROOMS, amounts.connections.div_ceil(ROOMS))?;
    note(format_args!("{} idle connections, each in a room of its own", amounts.rooms));
    let many_rooms = idle(environment, subject, amounts.rooms, 1)?;
    let of = |run: &Run, name: &str| run.extra.get(name).copied().with_context(|| format!("the run has no {name}"));
    let connection = of(&few_rooms, "rss_bytes_per_connection")?;
    note(format_args!("{} messages on SQLite", amounts.messages));
    let data = environment.data_folder()?;
    let file = data.path().join("uproar.db");
    fill(&format!("sqlite:{}", file.display()), data.path(), amounts.messages)?;
    let on_sqlite = std::fs::metadata(&file).context("the database")?.len() as f64;
    note(format_args!("{} messages on PostgreSQL", amounts.messages));
    let data = environment.data_folder()?;
    let postgres = environment.postgres()?;
    let url = postgres.create_database()?;
    let before = postgres.database_bytes(&url)?;
    fill(&url, data.path(), amounts.messages)?;
    let on_postgres = (postgres.database_bytes(&url)? - before) as f64;
    Ok(Size {
        empty,
        connection,
        connection_in_kernel: of(&few_rooms, "kernel_bytes_per_connection")?,
        room: of(&many_rooms, "rss_bytes_per_connection")? - connection,
        message_on_sqlite: on_sqlite / amounts.messages as f64,
        message_on_postgres: on_postgres / amounts.messages as f64,
    })
}

/// Measures the memory of idle connections.
fn idle(environment: &mut Environment, subject: Subject, rooms: u32, members: u32) -> Result<Run> {
    let shape = Shape { rooms, members, ..workloads::default_shape(Scenario::Idle) };
    let second = Duration::from_secs(1);
    let (frame_bytes, signup) = (None, false);
    let job = Job { scenario: Scenario::Idle, subject, shape, frame_bytes, signup, warm_up: second, measured: second };
    let run = scenario::run(environment, &job)?;
    ensure!(!run.faults.any(), "the server closed connections: {}", run.first_fault.unwrap_or_default());
    Ok(run)
}

/// Stores messages in a new database, with ids as SDKs make them.
fn fill(url: &str, data: &Path, messages: u64) -> Result<()> {
    let url: DatabaseUrl = url.parse()?;
    let folder = DataFolder::open(data.join("data"))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let store = open(&url, &folder, OpenOptions::default()).await?;
        let (mut users, mut rooms): (Vec<UserId>, Vec<RoomId>) = (Vec::new(), Vec::new());
        for number in 0..USERS {
            let name = format!("user {number}");
            users.push(store.ensure_user(&name, &name).await?.id);
        }
        for number in 0..ROOMS {
            let name = format!("room {number}");
            let (kind, owner) = (RoomKind::Public, users[number as usize % USERS]);
            let room = NewRoom { name: name.clone(), title: String::new(), kind, size: 100, owner };
            rooms.push(store.create_room(room).await?.id);
            let joins: Vec<_> = users.iter().map(|user| (name.clone(), *user)).collect();
            store.admit(&joins).await?;
        }
        let (random, text): (_, Arc<str>) = (RandomState::new(), "x".repeat(TEXT_BYTES).into());
        for first in (0..messages).step_by(BATCH_ITEMS as usize) {
            let batch: Vec<Item> = (first..messages.min(first + BATCH_ITEMS))
                .map(|number| Item {
                    room: rooms[(number / USERS as u64) as usize % rooms.len()],
                    user: users[number as usize % USERS],
                    id: id(&random, number).into(),
                    kind: Kind::Message,
                    target: None,
                    body: Some(Arc::clone(&text)),
                    meta: None,
                })
                .collect();
            let outcomes = store.append(&batch).await?;
            ensure!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::New(_))), "a batch was not stored as new");
        }
        store.close().await;
        Ok(())
    })
}

/// A text with the form of a random UUID.
fn id(random: &RandomState, number: u64) -> String {
    let (high, low) = (random.hash_one(number), random.hash_one((number, number)));
    let text = format!("{high:016x}{low:016x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

impl Size {
    /// The table for docs/operations.md.
    pub fn to_markdown(&self) -> String {
        let megabytes = |bytes: f64| format!("{} MB", thousands((bytes / 1e6).round()));
        [
            ("memory of an empty server, with one shard", bytes(self.empty)),
            ("memory for 1,000 idle connections", bytes(self.connection * 1e3)),
            ("the kernel's memory for these, both ends on one machine", bytes(self.connection_in_kernel * 1e3)),
            ("memory for 1,000 rooms that somebody is connected to", bytes(self.room * 1e3)),
            ("disk for a million messages on SQLite", megabytes(self.message_on_sqlite * 1e6)),
            ("disk for a million messages on PostgreSQL", megabytes(self.message_on_postgres * 1e6)),
        ]
        .iter()
        .fold("| what | size |\n| --- | --: |\n".to_owned(), |table, (what, size)| {
            format!("{table}| {what} | {size} |\n")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_uuids_and_differ() {
        let random = RandomState::new();
        let ids: Vec<String> = (0..100).map(|number| id(&random, number)).collect();
        assert!(ids.iter().all(|id| id.len() == 36 && id.matches('-').count() == 4), "{ids:?}");
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 100);
    }
}
