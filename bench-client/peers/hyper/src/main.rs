//! fastwebsockets on hyper: each member has a task that reads and one that writes what it receives from a channel.

mod room;

use std::future::ready;
use std::process::ExitCode;

use anyhow::Result;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task;

use crate::room::{Member, Rooms};

fn main() -> ExitCode {
    peers::run("hyper", serve)
}

#[tokio::main(flavor = "current_thread")]
async fn serve() -> Result<()> {
    let listener = TcpListener::from_std(peers::listen(peers::port_argument()?)?)?;
    let rooms = Rooms::default();
    peers::print_listening();
    loop {
        let (socket, _) = listener.accept().await?;
        task::spawn(serve_connection(socket, rooms.clone()));
    }
}

async fn serve_connection(socket: TcpStream, rooms: Rooms) {
    let served = async {
        socket.set_nodelay(true)?;
        let service = service_fn(|request| answer(request, rooms.clone()));
        anyhow::Ok(http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await?)
    };
    if let Err(error) = served.await {
        peers::note(format_args!("hyper: a client's connection failed: {error:#}"));
    }
}

async fn answer(mut request: Request<Incoming>, rooms: Rooms) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let room = form_urlencoded::parse(query).find_map(|(name, value)| (name == "room").then(|| value.into_owned()));
    let (response, upgraded) = upgrade(&mut request)?;
    match (request.uri().path(), room) {
        ("/echo", _) => {
            task::spawn(task::unconstrained(echo(upgraded)));
        }
        ("/", Some(room)) => {
            // Joined before the response, because the client counts as a member from then on.
            let member = rooms.join(room);
            task::spawn(serve_member(upgraded, member));
        }
        _ => {
            let mut refusal = Response::new(Empty::new());
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            return Ok(refusal);
        }
    }
    Ok(response)
}

/// Reads a member's messages until it leaves. Read errors are not printed, because they are not the server's fault.
async fn serve_member(upgraded: UpgradeFut, mut member: Member) -> Result<(), WebSocketError> {
    let (read, mut write) = upgraded.await?.split(tokio::io::split);
    let mut receiver = member.take_receiver();
    task::spawn(async move {
        while let Some((opcode, bytes)) = receiver.recv().await {
            write.write_frame(Frame::new(true, opcode, None, Payload::Borrowed(&bytes))).await?;
        }
        Ok::<_, WebSocketError>(())
    });

    let mut read = FragmentCollectorRead::new(read);
    loop {
        let frame = read.read_frame(&mut |reply| ready(member.send((reply.opcode, into_bytes(reply.payload))))).await?;
        match frame.opcode {
            OpCode::Text => member.broadcast((OpCode::Text, into_bytes(frame.payload))),
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}

fn into_bytes(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        other => Bytes::from(Vec::from(other)),
    }
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Text => socket.write_frame(frame).await?,
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}
