//! Random batches on the database and on the store in memory, which must agree on everything.

use crate::harness::*;
use uproar_model::{Item, Outcome, Refusal, RoomId, Stored, UserId};
use uproar_store::memory::MemoryStore;
use uproar_store::{Cursor, MessagePage, NewRoom, RoomKind};

const SEEDS: u64 = 6;
const BATCHES: usize = 40;
const NAMES: [&str; 4] = ["ann", "ben", "cleo", "dora"];

/// The rooms and users of one seed, with the ids that each of the two stores assigned.
struct Twins {
    model: MemoryStore,
    users: Vec<(UserId, UserId)>,
    rooms: Vec<(RoomId, RoomId)>,
    names: Vec<String>,
}

impl Twins {
    async fn new(world: &World, seed: u64) -> Twins {
        let mut twins = Twins { model: MemoryStore::new(), users: Vec::new(), rooms: Vec::new(), names: Vec::new() };
        for name in NAMES {
            twins.users.push((world.user(name).await, twins.model.ensure_user(name, name)));
        }
        for n in 0..3 {
            let name = format!("room {n} of {seed}");
            let room =
                |owner| NewRoom { name: name.clone(), title: String::new(), kind: RoomKind::Public, size: 9, owner };
            let real = world.store.create_room(room(twins.users[n].0)).await.unwrap().id;
            let model = twins.model.create_room(0, room(twins.users[n].1)).unwrap().id;
            twins.rooms.push((real, model));
            twins.names.push(name);
        }
        twins
    }

    /// An item for each store, chosen from so few rooms, users and ids that conflicts are frequent.
    fn item(&self, random: &mut Random, longest_log: usize) -> (Item, Item) {
        // Sometimes a room or a user that does not exist.
        let unknown = ((RoomId(1 << 40), RoomId(1 << 40)), (UserId(1 << 40), UserId(1 << 40)));
        let room = if random.below(30) == 0 { unknown.0 } else { random.pick(&self.rooms) };
        let user = if random.below(30) == 0 { unknown.1 } else { random.pick(&self.users) };
        let id = format!("{}", random.below(60));
        let target = random.below(longest_log + 6) as u64;
        let text = random.pick(&["a", "b", "c\0", "", "𝔘"]);
        // So many that both bounds are reached.
        let other = format!("{}", random.below(30));
        let emoji = random.pick(&["👍", "🎉", "👍\0", "", &other, &other]);
        let kind = random.below(16);
        let meta = random.pick(&[None, None, Some("1"), Some("{}"), Some("\0")]);
        let make = |room, user| match kind {
            0..=5 => with_meta(message(room, user, &id, text), meta),
            6 => reply(room, user, &id, target, text),
            7..=9 => edit(room, user, &id, target, text),
            10 => delete(room, user, &id, target),
            11..=13 => react(room, user, &id, target, emoji),
            _ => unreact(room, user, &id, target, emoji),
        };
        (make(room.0, user.0), make(room.1, user.1))
    }

    /// Changes who may post in a room, on both stores.
    async fn limit(&mut self, world: &World, random: &mut Random) {
        let ((real, model), (user, twin)) = (random.pick(&self.rooms), random.pick(&self.users));
        if random.below(2) == 0 {
            let until = random.pick(&[None, Some(NEVER)]);
            world.silence(real, user, until).await;
            self.model.silence(model, twin, until);
        } else {
            // So slow that it never ends.
            let (slow_mode_seconds, who_may_post) = (random.pick(&[0, 0, 1_000_000]), random.pick(&[0, 0, 0, 1, 2]));
            world.restrict_room(real, slow_mode_seconds, who_may_post).await;
            self.model.restrict_room(model, slow_mode_seconds, who_may_post);
        }
    }

    async fn compare(&self, world: &World) {
        for (n, (real, model)) in self.rooms.iter().enumerate() {
            let name = &self.names[n];
            let (viewer, twin) = self.users[0];
            if let Ok(page) = world.store.messages(name, viewer, Cursor::Newest, 100).await {
                let expected = self.model.messages(name, twin, Cursor::Newest, 100).unwrap();
                let reactions =
                    |page: &MessagePage| page.messages.iter().map(|m| m.reactions.clone()).collect::<Vec<_>>();
                assert_eq!(reactions(&page), reactions(&expected));
            }
            let names = |changes: Vec<uproar_model::Publication>| -> Vec<_> {
                changes.into_iter().map(|p| (p.offset, p.kind, p.user.username, p.id)).collect()
            };
            let changes = world.store.membership_changes(*real, viewer, 3, 40, 5).await;
            let expected = self.model.membership_changes(*model, twin, 3, 40, 5);
            assert_eq!(changes.map(names).ok(), expected.map(names).ok());
            for request in
                [after(0), before(u64::MAX), before(7), uproar_store::PageRequest { bytes_limit: 3, ..after(2) }]
            {
                let page = world.page(*real, request).await.unwrap();
                let expected = self.model.page(*model, request, &[]).unwrap().0;
                assert_eq!(page.more, expected.more);
                assert_eq!((page.head.offset, page.head.number), (expected.head.offset, expected.head.number));
                assert_eq!(page.publications.len(), expected.publications.len());
                for (shown, expected) in page.publications.into_iter().zip(expected.publications) {
                    // Each store has its own clock and ids.
                    let body = match expected.kind {
                        uproar_model::Kind::Added | uproar_model::Kind::Removed => {
                            let name = |p: &uproar_model::Publication| p.member()?.username.map(str::to_owned);
                            assert_eq!(name(&shown), name(&expected));
                            shown.body.clone()
                        }
                        _ => expected.body.clone(),
                    };
                    assert_eq!(shown.user.username, expected.user.username);
                    let (user, time) = (shown.user.clone(), shown.time);
                    assert_eq!(shown, uproar_model::Publication { user, time, body, ..expected });
                }
            }
            let (name, owner) = (&self.names[n], self.users[n]);
            let page = world.store.messages(name, owner.0, Cursor::Newest, 1000).await.unwrap();
            let expected = self.model.messages(name, owner.1, Cursor::Newest, 1000).unwrap();
            assert_eq!(page.messages.len(), expected.messages.len());
            for (shown, expected) in page.messages.into_iter().zip(expected.messages) {
                let (user, time) = (shown.user.clone(), shown.time);
                assert_eq!(shown, uproar_store::Message { user, time, ..expected });
            }
        }
    }
}

/// Removes the time, because each store has its own clock.
fn timeless(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let timeless = |stored: Stored| Stored { time: 0, ..stored };
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::New(stored) => Outcome::New(timeless(stored)),
            Outcome::Duplicate(stored) => Outcome::Duplicate(timeless(stored)),
            Outcome::Refused(Refusal::SlowMode { .. }) => Outcome::Refused(Refusal::SlowMode { wait_ms: 0 }),
            refused => refused,
        })
        .collect()
}

pub async fn random_batches_match_the_model(world: World) {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut twins = Twins::new(&world, seed).await;
        let mut last = (Vec::new(), Vec::new());
        for round in 0..BATCHES {
            // Members join and leave between batches.
            let (room, user) = (random.below(3), random.below(4));
            let (name, key) = (twins.names[room].clone(), NAMES[user]);
            let (real, model) = twins.users[user];
            if random.below(3) > 0 {
                let admitted = world.store.admit(&[(name.clone(), real)]).await.unwrap().remove(0);
                let expected = twins.model.admit(0, &[(name.clone(), model)]).remove(0);
                assert_eq!(
                    admitted.map(|a| (a.role, a.joined, a.offset)),
                    expected.map(|a| (a.role, a.joined, a.offset))
                );
            } else {
                let removed = world.store.remove_member(&name, real, key).await;
                let expected = twins.model.remove_member(0, &name, model, key);
                assert_eq!(
                    removed.map(|r| r.publication.offset).map_err(|e| e.to_string()),
                    expected.map(|r| r.publication.offset).map_err(|e| e.to_string())
                );
            }
            if random.below(3) == 0 {
                twins.limit(&world, &mut random).await;
            }
            // One in four batches repeats the previous one, as after an unknown outcome.
            if random.below(4) > 0 {
                let logs =
                    twins.rooms.iter().map(|(_, model)| twins.model.heads(&[*model])[0].as_ref().unwrap().offset);
                let longest = logs.max().unwrap_or(0) as usize;
                let size = 1 + random.below(25);
                last = (0..size).map(|_| twins.item(&mut random, longest)).unzip();
            }
            let expected = timeless(twins.model.append(0, &last.1));
            let outcomes = timeless(world.append(&last.0).await);
            for (n, (outcome, expected)) in outcomes.iter().zip(&expected).enumerate() {
                assert_eq!(outcome, expected, "seed {seed}, batch {round}, item {n}: {:#?}", &last.0[..=n]);
            }
        }
        twins.compare(&world).await;
    }
}

pub async fn the_division_into_batches_changes_nothing(world: World) {
    for seed in 100..100 + SEEDS {
        let mut random = Random(seed);
        let whole = Twins::new(&world, seed).await;
        let cut = Twins::new(&world, seed + 1_000_000).await;
        for twins in [&whole, &cut] {
            for (n, name) in twins.names.iter().enumerate() {
                for user in 0..=n {
                    world.store.join(name, twins.users[user].0).await.unwrap();
                }
            }
        }
        for round in 0..6 {
            for twins in [&whole, &cut] {
                // Each of the two is limited in the same way.
                let (room, user) = (twins.rooms[round % 3].0, twins.users[round % 2].0);
                world.restrict_room(room, if round > 3 { 1_000_000 } else { 0 }, u8::from(round == 1)).await;
                world.silence(room, user, (round % 2 == 0).then_some(NEVER)).await;
            }
            let longest = world.store.heads(&whole.rooms.iter().map(|r| r.0).collect::<Vec<_>>()).await.unwrap();
            let longest = longest.into_iter().flatten().map(|head| head.offset).max().unwrap_or(0) as usize;
            let batch: Vec<_> = (0..30).map(|_| whole.item(&mut random, longest).0).collect();
            let moved: Vec<_> = batch
                .iter()
                .map(|item| {
                    let room = whole.rooms.iter().position(|room| room.0 == item.room);
                    Item { room: room.map_or(item.room, |n| cut.rooms[n].0), ..item.clone() }
                })
                .collect();
            let outcomes = timeless(world.append(&batch).await);
            let mut pieces = Vec::new();
            let mut rest = &moved[..];
            while !rest.is_empty() {
                let (piece, more) = rest.split_at((1 + random.below(4)).min(rest.len()));
                pieces.extend(world.append(piece).await);
                rest = more;
            }
            assert_eq!(outcomes, timeless(pieces), "seed {seed}: {batch:#?}");
        }
    }
}
