//! The workloads, and the servers that are measured in each.

use crate::result::{Channel, Load, Scenario, Shape, Wire};

/// The servers that Uproar's CPU per delivery has to beat.
pub const PEERS: [&str; 4] = ["bun", "node ws", "axum", "fastwebsockets"];

/// A load that several servers handle in turn.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Identifies the workload in `--only` and in results.
    pub name: String,
    /// Describes the workload in reports.
    pub title: String,
    pub scenario: Scenario,
    pub entrants: Vec<Entrant>,
    pub part: Part,
    /// The workload whose results in the same round determine the load of this one.
    pub load_source: Option<&'static str>,
    /// The measurement lasts this many times as long as usual.
    pub duration_factor: u32,
}

/// What a workload is measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// For a bar.
    Bars,
    /// For a point of a growth curve.
    Curve { curve: Curve, size: u32 },
    /// Only for the report.
    ReportOnly,
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

/// A server in a workload.
#[derive(Clone, Debug)]
pub struct Entrant {
    /// The server's name in results, unique within a workload.
    pub server: String,
    pub subject: Subject,
    /// The load in it is `Load::None` if `pace` determines it only at the run.
    pub shape: Shape,
    pub pace: Pace,
}

/// A program to start and measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Uproar {
        driver: Driver,
        shards: u32,
    },
    /// A bare epoll loop, the least that a server can do.
    Floor {
        /// Whether its frames are padded to the length of Uproar's in the same workload.
        frames_of_uproar: bool,
    },
    Bun,
    NodeWs,
    Axum,
    FastWebsockets,
    /// Uproar's store alone, without a server, with the same batches that a server would commit.
    Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    Auto,
    Uring,
    Epoll,
}

/// How the load of an entrant is determined.
#[derive(Clone, Debug, PartialEq)]
pub enum Pace {
    Fixed(Load),
    /// Half of the messages per second that the slowest of these servers reached in another workload of the same round.
    HalfCapacity {
        workload: &'static str,
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
    fn new(rooms: u32, members: u32, senders: u32) -> Self {
        Self {
            rooms,
            members,
            senders,
            payload_bytes: 128,
            load: Load::Window(1),
            wire: Wire::Raw,
            channel: Channel::Live,
            tls: false,
        }
    }

    fn with_wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    fn with_channel(self, channel: Channel) -> Self {
        Self { channel, ..self }
    }

    fn with_window(self, messages: u32) -> Self {
        Self { load: Load::Window(messages), ..self }
    }

    fn idle(self) -> Self {
        Self { senders: 0, load: Load::None, ..self }
    }

    fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }
}

fn workload(name: &str, title: &str, scenario: Scenario, entrants: Vec<Entrant>) -> Workload {
    Workload {
        name: name.into(),
        title: title.into(),
        scenario,
        entrants,
        part: Part::Bars,
        load_source: None,
        duration_factor: 1,
    }
}

fn peers(shape: Shape) -> [Entrant; 4] {
    [
        Entrant::new("bun", Subject::Bun, shape),
        Entrant::new("node ws", Subject::NodeWs, shape),
        Entrant::new("axum", Subject::Axum, shape),
        Entrant::new("fastwebsockets", Subject::FastWebsockets, shape),
    ]
}

fn uproar_and_peers(shape: Shape) -> Vec<Entrant> {
    let mut entrants = vec![Entrant::new("uproar", UPROAR, shape), Entrant::new("floor", FLOOR, shape)];
    entrants.extend(peers(shape));
    entrants
}

fn uproar_and_floor(shape: Shape) -> Vec<Entrant> {
    vec![Entrant::new("uproar", UPROAR, shape), Entrant::new("floor", FLOOR, shape)]
}

fn over_tls_and_plain(shape: Shape) -> Vec<Entrant> {
    let tls = shape.over_tls();
    vec![
        Entrant::new("uproar tls", UPROAR, tls),
        Entrant::new("uproar", UPROAR, shape),
        Entrant::new("bun tls", Subject::Bun, tls),
        Entrant::new("node ws tls", Subject::NodeWs, tls),
    ]
}

fn stored(shape: Shape) -> Vec<Entrant> {
    vec![
        Entrant::new("uproar live", UPROAR, shape),
        Entrant::new("uproar sqlite", UPROAR, shape.with_channel(Channel::Sqlite)),
        Entrant::new("uproar postgres", UPROAR, shape.with_channel(Channel::Postgres)),
    ]
}

/// The default size of a scenario.
pub fn default_shape(scenario: Scenario) -> Shape {
    let stored = Shape::new(100, 10, 1).with_wire(Wire::Centrifugo).with_channel(Channel::Sqlite);
    match scenario {
        Scenario::Fanout => Shape::new(1, 1000, 10),
        Scenario::Echo => Shape::new(1000, 1, 1),
        Scenario::Idle => Shape::new(100, 100, 0).with_wire(Wire::Plain).with_channel(Channel::Sqlite).idle(),
        Scenario::Durable => {
            Shape::new(100, 10, 10).with_wire(Wire::Plain).with_channel(Channel::Sqlite).with_window(10)
        }
        Scenario::Connect => stored.with_wire(Wire::Plain).idle(),
        // One member of each room sends and stays connected; ten drop their connections.
        Scenario::Storm => Shape { members: 11, load: Load::Rate(1000.0), ..stored },
        Scenario::Mix => Shape { load: Load::Rate(1000.0), ..stored },
    }
}

/// The workloads that the bars need. A workload comes after the one that determines its load.
pub fn for_bars() -> Vec<Workload> {
    let room = Shape::new(1, 1000, 10);
    let rooms = Shape::new(100, 10, 1);
    let mut workloads = vec![
        workload("fanout-room", "One room of 1000, 10 senders", Scenario::Fanout, uproar_and_peers(room)),
        workload("fanout-rooms", "100 rooms of 10, 1 sender each", Scenario::Fanout, uproar_and_peers(rooms)),
    ];

    let echo = Shape::new(1000, 1, 1);
    let mut echoes = vec![
        Entrant::new("uproar uring", Subject::Uproar { driver: Driver::Uring, shards: 1 }, echo),
        Entrant::new("uproar epoll", Subject::Uproar { driver: Driver::Epoll, shards: 1 }, echo),
        Entrant::new("floor", FLOOR, echo),
    ];
    echoes.extend(peers(echo));
    workloads.push(workload("echo", "Echo, 1000 connections", Scenario::Echo, echoes));

    for (name, title, shape) in [
        ("centrifugo-room", "One room of 1000, 10 senders, Centrifugo protocol", room),
        ("centrifugo-rooms", "100 rooms of 10, 1 sender each, Centrifugo protocol", rooms),
    ] {
        // Uproar comes first, because in the first round the length of its frames is known only after its run.
        let entrants = vec![
            Entrant::new("uproar", UPROAR, shape.with_wire(Wire::Centrifugo)),
            Entrant::new("floor", Subject::Floor { frames_of_uproar: true }, shape),
        ];
        workloads.push(workload(name, title, Scenario::Fanout, entrants));
    }

    let window = 10;
    workloads.push(workload(
        "stored-room",
        "One stored room of 1000, 10 senders, window 10",
        Scenario::Fanout,
        stored(room.with_wire(Wire::Plain).with_window(window)),
    ));
    let in_rooms = rooms.with_wire(Wire::Plain).with_window(window);
    let mut entrants = stored(in_rooms);
    entrants.push(Entrant::new("store sqlite", Subject::Store, in_rooms.with_channel(Channel::Sqlite)));
    entrants.push(Entrant::new("store postgres", Subject::Store, in_rooms.with_channel(Channel::Postgres)));
    workloads.push(workload(
        "stored-rooms",
        "100 stored rooms of 10, 1 sender each, window 10",
        Scenario::Fanout,
        entrants,
    ));

    let durable = Shape::new(100, 10, 10).with_wire(Wire::Plain).with_window(window);
    let on_each = |shape: Shape| {
        vec![
            Entrant::new("uproar sqlite", UPROAR, shape.with_channel(Channel::Sqlite)),
            Entrant::new("uproar postgres", UPROAR, shape.with_channel(Channel::Postgres)),
        ]
    };
    workloads.push(workload(
        "durable",
        "Durable, 100 rooms of 10, all send, window 10",
        Scenario::Durable,
        on_each(durable),
    ));
    let mut half = workload(
        "durable-half",
        "Durable, 100 rooms of 10, all send, at half of the rate reached",
        Scenario::Durable,
        on_each(Shape { load: Load::None, ..durable }),
    );
    half.load_source = Some("durable");
    for (entrant, servers) in half.entrants.iter_mut().zip([["uproar sqlite"], ["uproar postgres"]]) {
        entrant.pace = Pace::HalfCapacity { workload: "durable", servers: servers.to_vec() };
    }
    workloads.push(half);
    let lone = Shape::new(1, 1, 1).with_wire(Wire::Plain).with_channel(Channel::Sqlite);
    let entrants =
        vec![Entrant::new("uproar sqlite", UPROAR, lone), Entrant::new("store sqlite", Subject::Store, lone)];
    workloads.push(workload(
        "durable-lone",
        "Durable, a single sender, one message at a time",
        Scenario::Durable,
        entrants,
    ));

    let mut open = workload(
        "open-room",
        "One room of 1000 at half of the lower capacity",
        Scenario::Fanout,
        uproar_and_floor(room),
    );
    open.load_source = Some("fanout-room");
    for entrant in &mut open.entrants {
        entrant.shape.load = Load::None;
        entrant.pace = Pace::HalfCapacity { workload: "fanout-room", servers: vec!["uproar", "floor"] };
    }
    workloads.push(open);

    // The plain protocol, because raw connections to live: channels don't need a signed-in user.
    let idle = vec![Entrant::new("uproar", UPROAR, default_shape(Scenario::Idle))];
    workloads.push(workload("idle", "10,000 idle connections", Scenario::Idle, idle));

    for (name, title, shape) in [
        ("tls-room", "One room of 1000, 10 senders, over TLS", room),
        ("tls-rooms", "100 rooms of 10, 1 sender each, over TLS", rooms),
    ] {
        workloads.push(workload(name, title, Scenario::Fanout, over_tls_and_plain(shape)));
    }
    let idle = vec![Entrant::new("uproar tls", UPROAR, default_shape(Scenario::Idle).over_tls())];
    workloads.push(workload("tls-idle", "10,000 idle connections over TLS", Scenario::Idle, idle));

    let entrants = vec![
        Entrant::new("uproar", UPROAR, rooms),
        Entrant::new("uproar 2 shards", Subject::Uproar { driver: Driver::Auto, shards: 2 }, rooms),
    ];
    workloads.push(workload("shards", "100 rooms of 10 on two shards", Scenario::Fanout, entrants));
    workloads
}

/// The other workloads: growth curves and scenarios without bars.
pub fn additional() -> Vec<Workload> {
    let mut workloads = Vec::new();
    for members in [10, 100, 1000, 10_000] {
        let mut workload = workload(
            &format!("members-{members}"),
            &format!("One room of {}", super::metric::thousands(f64::from(members))),
            Scenario::Fanout,
            uproar_and_floor(Shape::new(1, members, 10)),
        );
        workload.part = Part::Curve { curve: Curve::Members, size: members };
        workloads.push(workload);
    }
    for (rooms, members) in [(1, 10), (10, 10), (100, 10), (1000, 10), (10_000, 1)] {
        let mut workload = workload(
            &format!("rooms-{rooms}"),
            &format!("{} rooms of {members}", super::metric::thousands(f64::from(rooms))),
            Scenario::Fanout,
            uproar_and_floor(Shape::new(rooms, members, 1)),
        );
        workload.part = Part::Curve { curve: Curve::Rooms, size: rooms };
        workloads.push(workload);
    }
    for connections in [1000, 2500, 5000, 10_000] {
        let shape = Shape::new(connections / 100, 100, 0).idle();
        let mut entrants = vec![
            Entrant::new("uproar", UPROAR, shape.with_wire(Wire::Plain).with_channel(Channel::Sqlite)),
            Entrant::new("floor", FLOOR, shape),
        ];
        entrants.extend(peers(shape));
        let mut workload = workload(
            &format!("connections-{connections}"),
            &format!("{} idle connections", super::metric::thousands(f64::from(connections))),
            Scenario::Idle,
            entrants,
        );
        workload.part = Part::Curve { curve: Curve::Connections, size: connections };
        workloads.push(workload);
    }

    let uproar = |scenario| vec![Entrant::new("uproar", UPROAR, default_shape(scenario))];
    let title = "1000 connections drop, reconnect and recover while 100 others send";
    workloads.push(workload("storm", title, Scenario::Storm, uproar(Scenario::Storm)));
    let title = "Clients read histories, switch rooms, send and reconnect";
    let mut mix = workload("mix", title, Scenario::Mix, uproar(Scenario::Mix));
    mix.duration_factor = 4;
    workloads.push(mix);
    workloads.push(workload("connect", "Connecting, with tokens", Scenario::Connect, uproar(Scenario::Connect)));
    // A hundred clients stay and send 100 messages per second; the others come back at the same time.
    let back = Shape { members: 151, load: Load::Rate(100.0), ..default_shape(Scenario::Storm) };
    let entrants = vec![Entrant::new("uproar tls", UPROAR, back.over_tls()), Entrant::new("uproar", UPROAR, back)];
    let title = "15,000 connections drop, reconnect over TLS and recover";
    let mut back = workload("tls-storm", title, Scenario::Storm, entrants);
    back.duration_factor = 4;
    workloads.push(back);
    let mut signup = uproar(Scenario::Connect);
    signup[0].shape.rooms = 1;
    workloads.push(workload("connect-signup", "Signing up, then connecting", Scenario::Connect, signup));
    for workload in &mut workloads {
        if workload.part == Part::Bars {
            workload.part = Part::ReportOnly;
        }
    }
    workloads
}

/// Selects the workloads with these names and those that determine their load, in the original order. Without names,
/// all of them.
///
/// Fails if a name is unknown.
pub fn select(workloads: Vec<Workload>, names: &[String]) -> anyhow::Result<Vec<Workload>> {
    if names.is_empty() {
        return Ok(workloads);
    }
    if let Some(unknown) = names.iter().find(|name| workloads.iter().all(|workload| workload.name != **name)) {
        let known: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        anyhow::bail!("there is no workload {unknown:?}; --only accepts {}", known.join(", "));
    }
    let mut wanted: Vec<String> = names.to_vec();
    wanted.extend(
        workloads
            .iter()
            .filter(|workload| names.contains(&workload.name))
            .filter_map(|workload| Some(workload.load_source?.to_owned())),
    );
    Ok(workloads.into_iter().filter(|workload| wanted.contains(&workload.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> Vec<Workload> {
        for_bars().into_iter().chain(additional()).collect()
    }

    #[test]
    fn names_of_workloads_and_of_their_servers_are_unique() {
        let names: BTreeSet<String> = all().into_iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), all().len());
        for workload in all() {
            let servers: BTreeSet<&str> = workload.entrants.iter().map(|entrant| entrant.server.as_str()).collect();
            assert_eq!(servers.len(), workload.entrants.len(), "{}", workload.name);
        }
    }

    #[test]
    fn a_workload_comes_after_the_one_that_determines_its_load() {
        let workloads = for_bars();
        for (at, workload) in workloads.iter().enumerate() {
            for entrant in &workload.entrants {
                let Pace::HalfCapacity { workload: source, servers } = &entrant.pace else { continue };
                assert_eq!(workload.load_source, Some(*source));
                let source = workloads[..at].iter().find(|earlier| earlier.name == *source).expect("measured before");
                for server in servers {
                    assert!(source.entrants.iter().any(|entrant| entrant.server == *server), "{server}");
                }
            }
        }
    }

    #[test]
    fn selecting_a_workload_also_selects_the_one_that_determines_its_load() {
        let names = |workloads: Vec<Workload>| workloads.into_iter().map(|workload| workload.name).collect::<Vec<_>>();
        let chosen = select(for_bars(), &["open-room".into()]).unwrap();
        assert_eq!(names(chosen), ["fanout-room", "open-room"]);
        let error = select(for_bars(), &["fan-out".into()]).unwrap_err().to_string();
        assert!(error.contains("\"fan-out\"") && error.contains("fanout-room"), "{error}");
    }

    #[test]
    fn no_workload_has_more_senders_than_members() {
        for workload in all() {
            for entrant in workload.entrants {
                assert!(entrant.shape.senders <= entrant.shape.members, "{}", workload.name);
            }
        }
    }
}
