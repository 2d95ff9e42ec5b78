//! Measures how fast batches are committed, one after the other: messages of 100 bytes, with random ids, in 1,000
//! rooms.
//!
//!     cargo run --release -p uproar-store --example append_speed -- sqlite:/tmp/speed/uproar.db
//!
//! Use a new database on a disk with no other load, and with fsync on.

use std::time::{Duration, Instant};
use uproar_model::{Item, Kind, Outcome, RoomId, UserId};
use uproar_store::{DataFolder, DatabaseUrl, NewRoom, OpenOptions, RoomKind, open};

const ROOMS: usize = 1000;
const USERS: usize = 20;
const TIME_EACH: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url: DatabaseUrl = std::env::args().nth(1).unwrap_or("sqlite:append-speed/uproar.db".to_owned()).parse()?;
    let folder = DataFolder::open("append-speed")?;
    let store = open(&url, &folder, OpenOptions::default()).await?;
    let mut users = Vec::new();
    for n in 0..USERS {
        users.push(store.ensure_user(&format!("user {n}"), &format!("user {n}")).await?.id);
    }
    let mut rooms = Vec::new();
    let mut wanted = Vec::new();
    for n in 0..ROOMS {
        let (name, title) = (format!("room {n}"), String::new());
        let room = NewRoom { name: name.clone(), title, kind: RoomKind::Public, size: 100, owner: users[0] };
        rooms.push(store.create_room(room).await?.id);
        wanted.extend(users.iter().map(|user| (name.clone(), *user)));
    }
    let started = Instant::now();
    store.admit(&wanted).await?;
    println!("{url}: {} joins in {:.2?}", wanted.len(), started.elapsed());
    for (size, of) in [(1, ROOMS), (16, ROOMS), (128, ROOMS), (512, ROOMS), (512, 10)] {
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < TIME_EACH {
            let batch: Vec<_> = (0..size).map(|_| item(&rooms[..of], &users)).collect::<Result<_, _>>()?;
            let sent = Instant::now();
            let outcomes = store.append(&batch).await?;
            times.push(sent.elapsed());
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::New(_))));
        }
        times.sort();
        let busy: Duration = times.iter().sum();
        println!(
            "batches of {size:3} in {of:4} rooms: {:7.0}/s, p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
            (size * times.len()) as f64 / busy.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            times[times.len() - 1],
        );
    }
    store.close().await;
    Ok(())
}

fn item(rooms: &[RoomId], users: &[UserId]) -> Result<Item, getrandom::Error> {
    let (a, b) = (getrandom::u64()?, getrandom::u64()?);
    Ok(Item {
        room: rooms[a as usize % rooms.len()],
        user: users[b as usize % users.len()],
        id: format!("{a:016x}{b:016x}").into(),
        kind: Kind::Message,
        target: None,
        body: Some("x".repeat(100).into()),
        meta: None,
    })
}
