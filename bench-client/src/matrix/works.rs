//! What the matrix measures: works, and the servers that do each of them.

use crate::result::{Channel, Load, Scenario, Shape, Wire};

/// The servers whose CPU per delivery has to be above Uproar's.
pub const PEERS: [&str; 4] = ["bun", "node ws", "axum", "fastwebsockets"];

/// One work, done by several servers in turn.
#[derive(Clone, Debug)]
pub struct Work {
    pub name: String,
    /// For people.
    pub title: String,
    pub scenario: Scenario,
    pub entrants: Vec<Entrant>,
    pub part: Part,
    /// The work whose figures of the same round set the load of this one.
    pub after: Option<&'static str>,
    /// The measured window is so many times the usual one.
    pub stretch: u32,
}

/// Where a work belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It decides a bar.
    Bars,
    /// A point of a growth curve.
    Curve { curve: Curve, size: u32 },
    /// Shown, and no more.
    More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// Members of one room.
    Members,
    /// Rooms.
    Rooms,
    /// Idle connections.
    Connections,
}

/// A server in a work.
#[derive(Clone, Debug)]
pub struct Entrant {
    /// Its name in results; one of its kind in a work.
    pub server: String,
    pub subject: Subject,
    /// With `Load::None` until the run where `pace` is not fixed.
    pub shape: Shape,
    pub pace: Pace,
}

/// What is started to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Uproar {
        driver: Driver,
        shards: u32,
    },
    /// The least a server can do. With `frames_of_uproar` its frames are as long as Uproar's in the same work.
    Floor {
        frames_of_uproar: bool,
    },
    Bun,
    NodeWs,
    Axum,
    FastWebsockets,
    /// Uproar's store alone, without a server: batches as a server makes them, of as many messages.
    Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    Auto,
    Uring,
    Epoll,
}

/// How the load is found.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    Fixed(Load),
    /// Half of the messages per second that the slowest of these servers reached in another work of the same round.
    Half {
        work: &'static str,
        servers: Vec<&'static str>,
    },
}

impl Entrant {
    fn new(server: &str, subject: Subject, shape: Shape) -> Self {
        Self { server: server.into(), subject, pace: Pace::Fixed(shape.load), shape }
    }

    pub fn connections(&self) -> u32 {
        self.shape.rooms * self.shape.members
    }
}

const UPROAR: Subject = Subject::Uproar { driver: Driver::Auto, shards: 1 };
const FLOOR: Subject = Subject::Floor { frames_of_uproar: false };

impl Shape {
    fn of(rooms: u32, members: u32, senders: u32) -> Self {
        Self {
            rooms,
            members,
            senders,
            payload_bytes: 128,
            load: Load::Window(1),
            wire: Wire::Raw,
            channel: Channel::Live,
        }
    }

    fn over(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    fn on(self, channel: Channel) -> Self {
        Self { channel, ..self }
    }

    fn window(self, messages: u32) -> Self {
        Self { load: Load::Window(messages), ..self }
    }

    fn quiet(self) -> Self {
        Self { senders: 0, load: Load::None, ..self }
    }
}

fn work(name: &str, title: &str, scenario: Scenario, entrants: Vec<Entrant>) -> Work {
    Work { name: name.into(), title: title.into(), scenario, entrants, part: Part::Bars, after: None, stretch: 1 }
}

fn peers(shape: Shape) -> [Entrant; 4] {
    [
        Entrant::new("bun", Subject::Bun, shape),
        Entrant::new("node ws", Subject::NodeWs, shape),
        Entrant::new("axum", Subject::Axum, shape),
        Entrant::new("fastwebsockets", Subject::FastWebsockets, shape),
    ]
}

fn everyone(shape: Shape) -> Vec<Entrant> {
    let mut entrants = vec![Entrant::new("uproar", UPROAR, shape), Entrant::new("floor", FLOOR, shape)];
    entrants.extend(peers(shape));
    entrants
}

fn both(shape: Shape) -> Vec<Entrant> {
    vec![Entrant::new("uproar", UPROAR, shape), Entrant::new("floor", FLOOR, shape)]
}

fn stored(shape: Shape) -> Vec<Entrant> {
    vec![
        Entrant::new("uproar live", UPROAR, shape),
        Entrant::new("uproar sqlite", UPROAR, shape.on(Channel::Sqlite)),
        Entrant::new("uproar postgres", UPROAR, shape.on(Channel::Postgres)),
    ]
}

/// What a scenario is measured with where nothing else is said.
pub fn usual(scenario: Scenario) -> Shape {
    let people = Shape::of(100, 10, 1).over(Wire::Centrifugo).on(Channel::Sqlite);
    match scenario {
        Scenario::Fanout => Shape::of(1, 1000, 10),
        Scenario::Echo => Shape::of(1000, 1, 1),
        Scenario::Idle => Shape::of(100, 100, 0).over(Wire::Plain).on(Channel::Sqlite).quiet(),
        Scenario::Durable => Shape::of(100, 10, 10).over(Wire::Plain).on(Channel::Sqlite).window(10),
        Scenario::Connect => people.over(Wire::Plain).quiet(),
        // One member of each room sends and stays.
        Scenario::Storm => Shape { members: 11, load: Load::Rate(1000.0), ..people },
        Scenario::Mix => Shape { load: Load::Rate(1000.0), ..people },
    }
}

/// The works that decide the bars. A work comes after those that set its load.
pub fn of_bars() -> Vec<Work> {
    let room = Shape::of(1, 1000, 10);
    let rooms = Shape::of(100, 10, 1);
    let mut works = vec![
        work("fanout-room", "One room of 1000, 10 senders", Scenario::Fanout, everyone(room)),
        work("fanout-rooms", "100 rooms of 10, 1 sender each", Scenario::Fanout, everyone(rooms)),
    ];

    let echo = Shape::of(1000, 1, 1);
    let mut echoes = vec![
        Entrant::new("uproar uring", Subject::Uproar { driver: Driver::Uring, shards: 1 }, echo),
        Entrant::new("uproar epoll", Subject::Uproar { driver: Driver::Epoll, shards: 1 }, echo),
        Entrant::new("floor", FLOOR, echo),
    ];
    echoes.extend(peers(echo));
    works.push(work("echo", "Echo, 1000 connections", Scenario::Echo, echoes));

    for (name, title, shape) in [
        ("centrifugo-room", "One room of 1000, 10 senders, Centrifugo protocol", room),
        ("centrifugo-rooms", "100 rooms of 10, 1 sender each, Centrifugo protocol", rooms),
    ] {
        // Uproar first: in the first round its frames are not known before it ran.
        let entrants = vec![
            Entrant::new("uproar", UPROAR, shape.over(Wire::Centrifugo)),
            Entrant::new("floor", Subject::Floor { frames_of_uproar: true }, shape),
        ];
        works.push(work(name, title, Scenario::Fanout, entrants));
    }

    let window = 10;
    works.push(work(
        "stored-room",
        "One stored room of 1000, 10 senders, window 10",
        Scenario::Fanout,
        stored(room.over(Wire::Plain).window(window)),
    ));
    let in_rooms = rooms.over(Wire::Plain).window(window);
    let mut entrants = stored(in_rooms);
    entrants.push(Entrant::new("store sqlite", Subject::Store, in_rooms.on(Channel::Sqlite)));
    entrants.push(Entrant::new("store postgres", Subject::Store, in_rooms.on(Channel::Postgres)));
    works.push(work("stored-rooms", "100 stored rooms of 10, 1 sender each, window 10", Scenario::Fanout, entrants));

    let durable = Shape::of(100, 10, 10).over(Wire::Plain).window(window);
    let on_each = |shape: Shape| {
        vec![
            Entrant::new("uproar sqlite", UPROAR, shape.on(Channel::Sqlite)),
            Entrant::new("uproar postgres", UPROAR, shape.on(Channel::Postgres)),
        ]
    };
    works.push(work("durable", "Durable, 100 rooms of 10, all send, window 10", Scenario::Durable, on_each(durable)));
    let mut half = work(
        "durable-half",
        "Durable, 100 rooms of 10, all send, at half of the rate reached",
        Scenario::Durable,
        on_each(Shape { load: Load::None, ..durable }),
    );
    half.after = Some("durable");
    for (entrant, servers) in half.entrants.iter_mut().zip([["uproar sqlite"], ["uproar postgres"]]) {
        entrant.pace = Pace::Half { work: "durable", servers: servers.to_vec() };
    }
    works.push(half);
    let lone = Shape::of(1, 1, 1).over(Wire::Plain).on(Channel::Sqlite);
    let entrants =
        vec![Entrant::new("uproar sqlite", UPROAR, lone), Entrant::new("store sqlite", Subject::Store, lone)];
    works.push(work("durable-lone", "Durable, a lone sender, one message at a time", Scenario::Durable, entrants));

    let mut open = work("open-room", "One room of 1000 at half of the lower capacity", Scenario::Fanout, both(room));
    open.after = Some("fanout-room");
    for entrant in &mut open.entrants {
        entrant.shape.load = Load::None;
        entrant.pace = Pace::Half { work: "fanout-room", servers: vec!["uproar", "floor"] };
    }
    works.push(open);

    // The plain protocol: raw connections need not be signed in.
    let idle = vec![Entrant::new("uproar", UPROAR, usual(Scenario::Idle))];
    works.push(work("idle", "10,000 idle connections", Scenario::Idle, idle));

    let entrants = vec![
        Entrant::new("uproar", UPROAR, rooms),
        Entrant::new("uproar 2 shards", Subject::Uproar { driver: Driver::Auto, shards: 2 }, rooms),
    ];
    works.push(work("shards", "100 rooms of 10 on two shards", Scenario::Fanout, entrants));
    works
}

/// What is measured besides: how costs grow, and what happens seldom.
pub fn of_curves() -> Vec<Work> {
    let mut works = Vec::new();
    for members in [10, 100, 1000, 10_000] {
        let mut work = work(
            &format!("members-{members}"),
            &format!("One room of {}", super::figure::thousands(f64::from(members))),
            Scenario::Fanout,
            both(Shape::of(1, members, 10)),
        );
        work.part = Part::Curve { curve: Curve::Members, size: members };
        works.push(work);
    }
    for (rooms, members) in [(1, 10), (10, 10), (100, 10), (1000, 10), (10_000, 1)] {
        let mut work = work(
            &format!("rooms-{rooms}"),
            &format!("{} rooms of {members}", super::figure::thousands(f64::from(rooms))),
            Scenario::Fanout,
            both(Shape::of(rooms, members, 1)),
        );
        work.part = Part::Curve { curve: Curve::Rooms, size: rooms };
        works.push(work);
    }
    for connections in [1000, 2500, 5000, 10_000] {
        let shape = Shape::of(connections / 100, 100, 0).quiet();
        let mut entrants = vec![
            Entrant::new("uproar", UPROAR, shape.over(Wire::Plain).on(Channel::Sqlite)),
            Entrant::new("floor", FLOOR, shape),
        ];
        entrants.extend(peers(shape));
        let mut work = work(
            &format!("connections-{connections}"),
            &format!("{} idle connections", super::figure::thousands(f64::from(connections))),
            Scenario::Idle,
            entrants,
        );
        work.part = Part::Curve { curve: Curve::Connections, size: connections };
        works.push(work);
    }

    let uproar = |scenario| vec![Entrant::new("uproar", UPROAR, usual(scenario))];
    let title = "1000 connections drop, come back and recover while 100 others send";
    works.push(work("storm", title, Scenario::Storm, uproar(Scenario::Storm)));
    let title = "People read, switch rooms, write and reconnect";
    let mut mix = work("mix", title, Scenario::Mix, uproar(Scenario::Mix));
    mix.stretch = 4;
    works.push(mix);
    works.push(work("connect", "Connecting, with tokens", Scenario::Connect, uproar(Scenario::Connect)));
    let mut signup = uproar(Scenario::Connect);
    signup[0].shape.rooms = 1;
    works.push(work("connect-signup", "Signing up, then connecting", Scenario::Connect, signup));
    for work in &mut works {
        if work.part == Part::Bars {
            work.part = Part::More;
        }
    }
    works
}

/// The works with these names, and those that set their loads, in their order.
///
/// Fails with a line for people where a name is none of a work.
pub fn only(works: Vec<Work>, names: &[String]) -> anyhow::Result<Vec<Work>> {
    if names.is_empty() {
        return Ok(works);
    }
    if let Some(unknown) = names.iter().find(|name| works.iter().all(|work| work.name != **name)) {
        let known: Vec<&str> = works.iter().map(|work| work.name.as_str()).collect();
        anyhow::bail!("there is no work {unknown:?}: --only takes one of {}", known.join(", "));
    }
    let mut wanted: Vec<String> = names.to_vec();
    wanted
        .extend(works.iter().filter(|work| names.contains(&work.name)).filter_map(|work| Some(work.after?.to_owned())));
    Ok(works.into_iter().filter(|work| wanted.contains(&work.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> Vec<Work> {
        of_bars().into_iter().chain(of_curves()).collect()
    }

    #[test]
    fn names_are_unique_and_a_works_servers_too() {
        let names: BTreeSet<String> = all().into_iter().map(|work| work.name).collect();
        assert_eq!(names.len(), all().len());
        for work in all() {
            let servers: BTreeSet<&str> = work.entrants.iter().map(|entrant| entrant.server.as_str()).collect();
            assert_eq!(servers.len(), work.entrants.len(), "{}", work.name);
        }
    }

    #[test]
    fn a_work_comes_after_the_one_that_sets_its_load() {
        let works = of_bars();
        for (at, work) in works.iter().enumerate() {
            for entrant in &work.entrants {
                let Pace::Half { work: source, servers } = &entrant.pace else { continue };
                assert_eq!(work.after, Some(*source));
                let source = works[..at].iter().find(|earlier| earlier.name == *source).expect("measured before");
                for server in servers {
                    assert!(source.entrants.iter().any(|entrant| entrant.server == *server), "{server}");
                }
            }
        }
    }

    #[test]
    fn a_chosen_work_brings_the_one_that_sets_its_load() {
        let names = |works: Vec<Work>| works.into_iter().map(|work| work.name).collect::<Vec<_>>();
        let chosen = only(of_bars(), &["open-room".into()]).unwrap();
        assert_eq!(names(chosen), ["fanout-room", "open-room"]);
        let error = only(of_bars(), &["fan-out".into()]).unwrap_err().to_string();
        assert!(error.contains("\"fan-out\"") && error.contains("fanout-room"), "{error}");
    }

    #[test]
    fn no_more_send_than_are_members() {
        for work in all() {
            for entrant in work.entrants {
                assert!(entrant.shape.senders <= entrant.shape.members, "{}", work.name);
            }
        }
    }
}
