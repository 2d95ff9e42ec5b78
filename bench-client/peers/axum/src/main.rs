//! Rooms as in axum's chat example: a broadcast channel for each room, and for each member one task that receives from
//! the socket and one that sends to it.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

/// How many messages a member may lag behind before it loses some. The example has 100, which is too few for a room of
/// 1,000 under load. Each costs a room about 40 bytes, used or not.
const CAPACITY: usize = 1024;

/// Rooms are kept after their last member has left.
type Rooms = Arc<Mutex<HashMap<String, Sender<Utf8Bytes>>>>;

fn main() -> ExitCode {
    peers::run("axum", serve)
}

#[tokio::main]
async fn serve() -> Result<()> {
    let listener = TcpListener::from_std(peers::listen(peers::port_argument()?)?)?.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            peers::note(format_args!("axum: cannot set TCP_NODELAY: {error}"));
        }
    });
    let app = Router::new().route("/", any(room)).route("/echo", any(echo)).with_state(Rooms::default());
    peers::print_listening();
    Ok(axum::serve(listener, app).await?)
}

async fn room(
    upgrade: WebSocketUpgrade,
    Query(mut query): Query<HashMap<String, String>>,
    State(rooms): State<Rooms>,
) -> Result<Response, StatusCode> {
    let name = query.remove("room").ok_or(StatusCode::BAD_REQUEST)?;
    let mut rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = rooms.entry(name).or_insert_with(|| Sender::new(CAPACITY)).clone();
    // Subscribed before the response, because the client counts as a member from then on.
    let receiver = sender.subscribe();
    Ok(upgrade.on_upgrade(move |socket| member(socket, sender, receiver)))
}

async fn member(socket: WebSocket, sender: Sender<Utf8Bytes>, mut receiver: Receiver<Utf8Bytes>) {
    let (mut sink, mut stream) = socket.split();
    let mut send = tokio::spawn(async move {
        loop {
            match receiver.recv().await {
                Ok(text) => {
                    if sink.send(Message::Text(text)).await.is_err() {
                        break;
                    }
                }
                Err(RecvError::Lagged(messages)) => {
                    peers::note(format_args!("axum: a client is too slow and loses {messages} messages"));
                }
                Err(RecvError::Closed) => break,
            }
        }
    });
    let mut receive = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(text) = message {
                // Sending fails only if the room has no receivers.
                let _ = sender.send(text);
            }
        }
    });
    tokio::select! {
        _ = &mut send => receive.abort(),
        _ = &mut receive => send.abort(),
    }
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(_) = message
                && socket.send(message).await.is_err()
            {
                break;
            }
        }
    })
}
