//! A TCP proxy in front of a database: an address that is led to another server, falls silent, or breaks off, as behind
//! a virtual address or a firewall.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// It runs in a thread of its own, so that it works while the test waits for a program. Its connections end when it is
/// dropped.
pub struct Proxy {
    pub port: u16,
    route: watch::Sender<Route>,
    /// The number of the next connection.
    next: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    /// Where new connections lead. None: they are closed.
    target: Option<u16>,
    /// Connections below this number are broken off.
    cut_below: u64,
    /// Connections below this number stay open, but nothing passes any more.
    silent_below: u64,
}

impl Proxy {
    pub async fn start(target: u16) -> Proxy {
        let (route, receiver) = watch::channel(Route { target: Some(target), cut_below: 0, silent_below: 0 });
        let next = Arc::new(AtomicU64::new(1));
        let numbers = Arc::clone(&next);
        let (port_sender, port) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
                let _ = port_sender.send(listener.local_addr().expect("an address").port());
                accept(listener, receiver, numbers).await;
            });
        });
        Proxy { port: port.await.expect("the proxy listens"), route, next }
    }

    /// The number of the next connection.
    fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Leads new connections to this server, and breaks off the others. None: there is no server.
    pub fn lead_to(&self, target: Option<u16>) {
        self.route.send_modify(|route| *route = Route { target, cut_below: self.next(), ..*route });
    }

    /// Breaks off all connections. New ones work.
    pub fn break_off(&self) {
        self.route.send_modify(|route| route.cut_below = self.next());
    }

    /// Leads new connections to this server. Nothing passes any more on the others, which stay open.
    pub fn turn_to(&self, target: Option<u16>) {
        self.route.send_modify(|route| *route = Route { target, silent_below: self.next(), ..*route });
    }

    /// Lets nothing pass any more on the connections that are open. New ones work.
    pub fn silence(&self) {
        self.route.send_modify(|route| route.silent_below = self.next());
    }

    /// Lets nothing pass at all, on new connections neither, until `turn_to` or `light_up` is called.
    pub fn black_out(&self) {
        self.route.send_modify(|route| route.silent_below = u64::MAX);
    }

    /// Ends a blackout. The connections that are open stay silent.
    pub fn light_up(&self) {
        self.route.send_modify(|route| route.silent_below = self.next());
    }
}

async fn accept(listener: TcpListener, mut route: watch::Receiver<Route>, next: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(carry(next.fetch_add(1, Ordering::SeqCst), client, route.clone()));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            changed = route.changed() => if changed.is_err() { return },
        }
    }
}

/// Carries one connection until an end closes it or it is broken off.
async fn carry(number: u64, mut client: TcpStream, mut route: watch::Receiver<Route>) {
    let Route { target, .. } = *route.borrow();
    let Some(target) = target else { return };
    let carried = async {
        let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let _ = copy_bidirectional(&mut client, &mut server).await;
    };
    tokio::pin!(carried);
    loop {
        let Route { cut_below, silent_below, .. } = *route.borrow_and_update();
        if number < cut_below {
            return;
        }
        tokio::select! {
            // What arrives after a change is not carried any more.
            biased;
            changed = route.changed() => if changed.is_err() { return },
            () = &mut carried, if number >= silent_below => return,
        }
    }
}
