//! Proves that no client can take the service from the others: beside each attack that the load generator knows,
//! everything that a well-behaved client asks for is answered correctly, before the client gives up.
//!
//! How fast the answers come is measured by `uproar-bench abuse`, not here.

use crate::databases::Kind;
use crate::server::{Server, with_limits};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_bench::abuse::{ATTACKS, Arena, Victim};
use uproar_bench::client::allow_files;
use uproar_http::Tokens;

/// How long each attack lasts.
const TIME: Duration = Duration::from_secs(3);

/// How long the victim waits for an answer. It is long because the machine may be busy with other tests; without the
/// remedies, the answers do not come at all, or are errors.
const DEADLINE: Duration = Duration::from_secs(30);

/// Small enough that an attack reaches them with a few hundred sockets, and long enough for a busy machine.
const LIMITS: &[&str] = &[
    "http_connections_limit=200",
    "shard_outbound_limit_bytes=16777216",
    "user_outbound_limit_bytes=2097152",
    "shard_unfinished_limit_bytes=4194304",
    "append_deadline_ms=30000",
    "command_deadline_ms=30000",
    "handshake_timeout_ms=30000",
    "pong_timeout_ms=60000",
];

const SOCKETS: usize = 300;

async fn nobody_suffers_from(attack: &'static str) {
    // Several attacks run at the same time.
    allow_files(4_000).expect("enough open files");
    let server = Server::start(Kind::Sqlite, &with_limits(&["--shards", "2"], LIMITS)).await;
    let tokens = Tokens::read_key_file(&server.setup.data().join("signing.key")).expect("the signing key");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
    let problems = tokio::task::spawn_blocking(move || {
        let mint = |user: &str| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
            tokens.mint(user, now, 3600)
        };
        let arena = Arena::new(address, &mint, SOCKETS, DEADLINE);
        let victim = Victim::sign_up(&arena).expect("the victim signs up");
        let attack = ATTACKS.iter().find(|known| known.name == attack).expect("an attack of this name");
        let records = arena.under(attack, || victim.live(TIME));
        assert!(records.len() > 5, "the victim asked for {} things only", records.len());
        records.into_iter().filter_map(|r| Some(format!("{}: {}", r.kind, r.problem?))).collect::<Vec<_>>()
    });
    let problems = problems.await.expect("the victim lives");
    assert!(problems.is_empty(), "{} requests failed: {:#?}", problems.len(), &problems[..problems.len().min(5)]);
}

/// Makes a test of each attack, and makes sure that there is a test for each.
macro_rules! attacks {
    ($($test:ident = $attack:literal,)+) => {
        $(#[tokio::test]
        async fn $test() {
            nobody_suffers_from($attack).await;
        })+

        #[test]
        fn every_attack_has_a_test() {
            let known: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
            assert_eq!(known, [$($attack),+]);
        }
    };
}

attacks! {
    idle_sockets_of_one_address_harm_nobody = "idle-sockets",
    silent_sockets_of_one_address_harm_nobody = "silent-sockets",
    sockets_of_one_account_harm_nobody = "account-sockets",
    sign_ups_of_one_address_harm_nobody = "sign-ups",
    guessed_passwords_harm_nobody = "passwords",
    rooms_of_one_user_harm_nobody = "rooms",
    joining_and_leaving_harms_nobody = "joins",
    adding_and_removing_a_member_harms_nobody = "members",
    lists_of_rooms_harm_nobody = "room-lists",
    commands_of_those_who_hang_up_harm_nobody = "hang-ups",
    questions_about_presence_harm_nobody = "presence",
    silent_readers_harm_nobody = "silent-readers",
    unfinished_messages_harm_nobody = "unfinished",
    reactions_harm_nobody = "reactions",
    publishes_without_a_pause_harm_nobody = "publishes",
}
