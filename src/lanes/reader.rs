//! The store's readers: answers what shards ask. What waits together is read together: memberships and heads of all
//! in one query each, equal pages once.

use crate::core::mesh::{Answer, Ask, Asker, Endpoint, Message};
use crate::mesh::Port;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinSet;
use uproar_model::{RoomId, User, UserId, fold_name};
use uproar_store::{JoinError, PageRequest, SharedStore};

/// Queries under way at once. Further ones wait, and are joined with what comes meanwhile.
const QUERIES_LIMIT: usize = 16;

/// Most memberships, or heads, in one query.
const JOINED_LIMIT: usize = 512;

type Question = (Endpoint, Asker);

/// Everything that waits for one answer.
enum Query {
    Admit(Vec<(String, UserId, Question)>),
    Heads(Vec<(RoomId, Question)>),
    Page(RoomId, PageRequest, Vec<Question>),
    User(Arc<str>, Vec<Question>),
}

/// Runs until its task is dropped.
pub async fn run_reader(mut port: Port<Message>, store: SharedStore) {
    let mut waiting: Vec<(Question, Ask)> = Vec::new();
    let mut running: JoinSet<Vec<(Question, Answer)>> = JoinSet::new();
    loop {
        let more = port.inbox.pop_each(|from, message| match message {
            Message::Ask { asker, ask } => waiting.push(((from, asker), ask)),
            other => debug_assert!(false, "{from:?} sent the reader {other:?}"),
        });
        if running.len() < QUERIES_LIMIT && !waiting.is_empty() {
            for query in join(std::mem::take(&mut waiting)) {
                running.spawn(run(Arc::clone(&store), query));
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            () = port.inbox.woken() => {}
            Some(answers) = running.join_next(), if !running.is_empty() => {
                // A query that panicked is a bug that the panic hook has reported; its askers run into their deadlines.
                for ((to, asker), answer) in answers.unwrap_or_default() {
                    let pushed = port.outbox.push(to, Message::Answer { asker, answer });
                    debug_assert!(pushed.is_ok(), "each answer has a place reserved");
                }
                port.outbox.flush();
            }
        }
    }
}

/// Joins questions into as few queries as can be.
fn join(questions: Vec<(Question, Ask)>) -> Vec<Query> {
    let mut admits = Vec::new();
    let mut heads = Vec::new();
    let mut pages: HashMap<(RoomId, PageRequest), Vec<Question>> = HashMap::new();
    let mut users: HashMap<Arc<str>, Vec<Question>> = HashMap::new();
    for (question, ask) in questions {
        match ask {
            Ask::Admit { room, user } => admits.push((room, user, question)),
            Ask::Head { room } => heads.push((room, question)),
            Ask::Page { room, request } => pages.entry((room, request)).or_default().push(question),
            Ask::User { username } => users.entry(username).or_default().push(question),
            Ask::MarkRead { .. } | Ask::Rooms { .. } => todo!("read markers"),
        }
    }
    let mut queries = Vec::new();
    while !admits.is_empty() {
        queries.push(Query::Admit(admits.split_off(admits.len().saturating_sub(JOINED_LIMIT))));
    }
    while !heads.is_empty() {
        queries.push(Query::Heads(heads.split_off(heads.len().saturating_sub(JOINED_LIMIT))));
    }
    queries.extend(pages.into_iter().map(|((room, request), questions)| Query::Page(room, request, questions)));
    queries.extend(users.into_iter().map(|(username, questions)| Query::User(username, questions)));
    queries
}

async fn run(store: SharedStore, query: Query) -> Vec<(Question, Answer)> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "the store did not answer");
        Answer::Failed
    };
    match query {
        Query::Admit(wanted) => {
            let pairs: Vec<_> = wanted.iter().map(|(room, user, _)| (room.clone(), *user)).collect();
            let questions = wanted.into_iter().map(|(.., question)| question);
            match store.admit(&pairs).await {
                Ok(admissions) => questions.zip(admissions.into_iter().map(Answer::Admitted)).collect(),
                Err(error) => questions.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Heads(wanted) => {
            let rooms: Vec<RoomId> = wanted.iter().map(|(room, _)| *room).collect();
            let questions = wanted.into_iter().map(|(_, question)| question);
            match store.heads(&rooms).await {
                Ok(heads) => questions.zip(heads.into_iter().map(Answer::Head)).collect(),
                Err(error) => questions.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Page(room, request, questions) => {
            let answer = match store.page(room, request).await {
                Ok(page) => Answer::Page(page.map(Arc::new)),
                Err(error) => failed(&error),
            };
            questions.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::User(username, questions) => {
            let answer = match fold_name(&username) {
                // Nobody can have such a name, whatever the token says.
                Err(_) => Answer::Admitted(Err(JoinError::NoUser)),
                Ok(key) => match store.ensure_user(&username, &key).await {
                    Ok(account) => Answer::User { user: User::from(&account), revoked_at: account.revoked_at },
                    Err(error) => failed(&error),
                },
            };
            questions.into_iter().zip(std::iter::repeat(answer)).collect()
        }
    }
}
