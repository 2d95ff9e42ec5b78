//! Loads over TLS. The server of these tests is behind a proxy that speaks TLS.

use crate::command_line::Program;
use crate::server::{Fault, Server};
use crate::{assert_clean, assert_first_fault, assert_void, job, shape};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::{self, Ticketer};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion, version};
use uproar_bench::client::{Cores, TlsClient};
use uproar_bench::matrix::runner::Job;
use uproar_bench::result::{Channel, Faults, Load, Run, Scenario, Shape, Wire};
use uproar_bench::server::certificate::Certificate;
use uproar_bench::{scenario, server as bench};
use uproar_http::Tokens;

/// A proxy that decrypts what it passes to a server. It runs as long as the tests do.
struct Proxy {
    address: SocketAddr,
    certificate: Certificate,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    full_handshakes: AtomicU64,
    other_handshakes: AtomicU64,
}

impl Proxy {
    fn start(server: &Server, version: &'static SupportedProtocolVersion) -> Proxy {
        let certificate = certificate();
        let chain = vec![CertificateDer::from_pem_file(&certificate.certificate).unwrap()];
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key).unwrap())
            .unwrap();
        // A client that wants to resume sessions can.
        config.ticketer = Ticketer::new().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, target) = (listener.local_addr().unwrap(), server.address);
        let counts = Arc::new(Counts::default());
        let proxy = Proxy { address, certificate, counts: Arc::clone(&counts) };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(acceptor.clone(), client, target, Arc::clone(&counts)));
                }
            });
        });
        proxy
    }

    fn measure(&self, job: &Job) -> anyhow::Result<Run> {
        let tokens = (job.shape.wire != Wire::Raw).then(|| Tokens::from_key(&[7; 32]).unwrap());
        let server = bench::Server::external(self.address, Some(self.certificate.client.clone()), tokens, None);
        scenario::measure(&server, &Cores::all()?, job)
    }

    fn handshakes(&self) -> (u64, u64) {
        let Counts { full_handshakes, other_handshakes } = &*self.counts;
        (full_handshakes.load(Ordering::SeqCst), other_handshakes.load(Ordering::SeqCst))
    }
}

async fn pass(acceptor: TlsAcceptor, client: TcpStream, target: SocketAddr, counts: Arc<Counts>) {
    client.set_nodelay(true).unwrap();
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let is_full = client.get_ref().1.handshake_kind() == Some(HandshakeKind::Full);
    (if is_full { &counts.full_handshakes } else { &counts.other_handshakes }).fetch_add(1, Ordering::SeqCst);
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    server.set_nodelay(true).unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

fn certificate() -> Certificate {
    Certificate::create(tempfile::tempdir().unwrap()).unwrap()
}

fn over_tls(shape: Shape) -> Shape {
    Shape { tls: true, ..shape }
}

#[test]
fn a_load_over_tls_is_measured_and_checked_like_any_other() {
    for version in [&version::TLS12, &version::TLS13] {
        for (wire, channel) in [(Wire::Raw, Channel::Live), (Wire::Centrifugo, Channel::Sqlite)] {
            // Messages of 16,000 bytes fill whole records, which arrive in pieces.
            for payload_bytes in [60, 16_000] {
                let server = Server::start(wire, 2, Fault::None);
                let proxy = Proxy::start(&server, version);
                let shape = over_tls(Shape { payload_bytes, wire, channel, ..shape(2, 3, 2) });
                let run = proxy.measure(&job(Scenario::Fanout, shape)).unwrap();
                assert_clean(&run);
                assert!(run.shape.tls && run.sent > 0);
                assert_eq!(run.sent, server.counts().messages);
                assert_eq!(run.delivery_latency.unwrap().count, run.sent * 3);
            }
        }
    }
}

#[test]
fn a_fault_behind_tls_is_noticed() {
    let measure = |fault| {
        let server = Server::start(Wire::Raw, 2, fault);
        let proxy = Proxy::start(&server, &version::TLS13);
        let run = proxy.measure(&job(Scenario::Fanout, over_tls(shape(1, 4, 2)))).unwrap();
        assert!(server.has_misbehaved());
        (run, server.counts().undelivered)
    };
    assert_void(&measure(Fault::Drop).0, Faults { lost: 1, ..Faults::default() });
    let (run, lost) = measure(Fault::Close(None));
    assert_void(&run, Faults { disconnected: 1, lost, ..Faults::default() });
    assert_first_fault(&run, "without a close frame");
}

#[test]
fn every_connection_makes_a_full_handshake() {
    for version in [&version::TLS12, &version::TLS13] {
        let server = Server::start(Wire::Raw, 0, Fault::None);
        let proxy = Proxy::start(&server, version);
        let shape = over_tls(Shape { load: Load::None, ..shape(2, 2, 0) });
        let run = proxy.measure(&job(Scenario::Connect, shape)).unwrap();
        assert_clean(&run);
        let (full, other) = proxy.handshakes();
        assert!(run.acknowledged > 4 && full >= run.acknowledged && other == 0, "{full} full, {other} other");
    }
}

#[test]
fn a_server_with_another_certificate_or_without_tls_is_not_measured() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let proxy = Proxy::start(&server, &version::TLS13);
    let other = certificate();
    let plain = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plain_address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in plain.incoming() {
            client.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    for (address, words) in [(proxy.address, "another certificate"), (plain_address, "TLS: ")] {
        let server = bench::Server::external(address, Some(other.client.clone()), None, None);
        let job = job(Scenario::Fanout, over_tls(shape(1, 2, 1)));
        let error = format!("{:#}", scenario::measure(&server, &Cores::all().unwrap(), &job).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    let missing = TlsClient::trusting(&other.certificate.with_file_name("none.pem")).unwrap_err();
    assert!(missing.to_string().contains("none.pem is not a certificate"), "{missing}");
}

#[test]
fn the_command_line_measures_running_servers_and_names_the_servers_that_can() {
    let server = Server::start(Wire::Raw, 1, Fault::None);
    let proxy = Proxy::start(&server, &version::TLS13);
    let (address, file) = (proxy.address.to_string(), proxy.certificate.certificate.to_str().unwrap());
    let options = ["--members", "2", "--senders", "1", "--payload-bytes", "60", "--warm-up", "0", "--seconds", "0.5"];
    let at = ["fanout", "--at", &address, "--tls-cert", file];
    let output = Program::start(&[&at[..], &options].concat()).output();
    assert!(output.succeeded && output.stdout.contains("TLS"), "{}{}", output.stdout, output.stderr);

    for server in ["floor", "axum", "fastwebsockets", "store"] {
        let output = Program::start(&["fanout", "--tls", "--server", server]).output();
        let words = format!("{server} does not speak TLS; choose --server uproar, bun or node");
        assert!(!output.succeeded && output.stderr.contains(&words), "{}", output.stderr);
    }
}
