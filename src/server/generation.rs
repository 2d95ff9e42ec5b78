//! Follows the database's generation, which changes while nodes run if another PostgreSQL server takes over that may
//! lack what was committed last. User ids of the earlier history may then mean somebody else.

use crate::chat::Chat;
use std::sync::Arc;
use tokio::sync::watch;
use uproar_http::Tokens;
use uproar_model::DatabaseGeneration;

/// Runs until it is dropped.
pub(super) async fn follow(mut generations: watch::Receiver<DatabaseGeneration>, tokens: Arc<Tokens>, chat: Arc<Chat>) {
    // It may have changed since the tokens were made.
    let mut generation = *generations.borrow_and_update();
    tokens.set_database(generation);
    while generations.changed().await.is_ok() {
        generation = *generations.borrow_and_update();
        // The tokens first: nobody may come back with an old one.
        tokens.set_database(generation);
        chat.start_over().await;
    }
    // It can't change any more.
    std::future::pending().await
}
