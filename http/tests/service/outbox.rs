//! Rows of the outbox that are executed again.

use crate::support::server;
use serde_json::json;
use std::sync::Arc;
use uproar_http::PublishError;
use uproar_http::api::{RowAnswer, RowProgress, hash_of};
use uproar_store::{NewApiKey, NewRoom, OutboxRow, RoomKind, Scopes, UsersBy};

#[tokio::test]
async fn what_a_row_has_reached_is_not_repeated() {
    let server = server().await;
    let bot = server.store.ensure_user("Bot", "bot").await.unwrap().id;
    let key = NewApiKey { name: "k".into(), hash: hash_of("k"), user: bot, scopes: Scopes::ALL, users: UsersBy::Id };
    server.store.add_api_key(key).await.unwrap();
    let key = Arc::new(server.store.api_key_named("k").await.unwrap().unwrap());
    let room = NewRoom { name: "r".into(), title: "r".into(), kind: RoomKind::Public, size: 3, owner: bot };
    server.store.create_room(room).await.unwrap();
    let row = |method: &str, payload: &str| OutboxRow {
        id: 7,
        method: method.into(),
        payload: payload.into(),
        created_at: 1_767_225_600_000_001,
    };

    // A broadcast goes on where it failed.
    let channels = ["live:a", "room:r", &format!("user:{bot}"), "live:b"];
    let payload = json!({"channels": channels, "data": {"text": "x"}}).to_string();
    let (broadcast, progress) = (row("broadcast", &payload), Arc::new(RowProgress::default()));
    server.chat.publish_results.lock().unwrap().push(Err(PublishError::OutcomeUnknown));
    let answer = server.service.execute_row(&key, &broadcast, &progress).await;
    assert!(matches!(&answer, RowAnswer::Later(text) if text.starts_with("channel 2: error 100")), "{answer:?}");
    assert_eq!(server.service.execute_row(&key, &broadcast, &progress).await, RowAnswer::Done);
    let mut live: Vec<String> =
        server.chat.published_live.lock().unwrap().iter().map(|(channel, ..)| channel.clone()).collect();
    live.sort();
    assert_eq!(live, ["a", "b"]);
    assert_eq!(server.chat.notified.lock().unwrap().len(), 1);
    let ids: Vec<_> = server.chat.published.lock().unwrap().iter().map(|it| it.id.clone()).collect();
    assert_eq!(ids, vec![Some("outbox-7-1767225600000001".to_owned()); 2]);

    // A room that the first attempt has deleted is deleted.
    let (deletion, progress) = (row("delete_room", r#"{"channel": "room:r"}"#), Arc::new(RowProgress::default()));
    for _ in 0..2 {
        assert_eq!(server.service.execute_row(&key, &deletion, &progress).await, RowAnswer::Done);
    }
    let answer = server.service.execute_row(&key, &deletion, &Arc::default()).await;
    assert!(matches!(&answer, RowAnswer::Refused(text) if text.starts_with("error 102")), "{answer:?}");
}
