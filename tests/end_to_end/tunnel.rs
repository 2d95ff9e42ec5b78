//! TLS for tests: certificates, clients that trust them, and a tunnel through which clients without TLS reach a server
//! that speaks it. With the tunnel, any test can run over TLS: `UPROAR_TEST_TLS=1` does so for all of them.

use rcgen::{CertificateParams, KeyPair};
use socket2::SockRef;
use std::cell::Cell;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

/// The kernel's buffers of a tunnel. They are small, so that a slow reader is slow for the server too.
pub const BUFFER_BYTES: u32 = 32 * 1024;

const TLS_VARIABLE: &str = "UPROAR_TEST_TLS";

thread_local! {
    static IS_WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the servers of this test are reached through tunnels.
pub fn is_wanted() -> bool {
    IS_WANTED.get() || std::env::var_os(TLS_VARIABLE).is_some()
}

/// Runs a test whose servers are reached through tunnels.
pub async fn over_tls(test: impl Future<Output = ()>) {
    // Each test has a thread of its own, or at least does not share it while it runs.
    struct Wanted;
    impl Drop for Wanted {
        fn drop(&mut self) {
            IS_WANTED.set(false);
        }
    }
    let _wanted = Wanted;
    IS_WANTED.set(true);
    test.await;
}

/// A certificate for `localhost` that signs itself, and its key, in files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Creates a pair in this folder, in place of an earlier one.
    pub fn create(folder: &Path) -> Pair {
        Pair::create_until(folder, 2100)
    }

    /// A certificate that expires at the beginning of this year.
    pub fn create_until(folder: &Path, year: i32) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a valid name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate");
        let pair = Pair::read(folder);
        fs::write(&pair.key, key.serialize_pem()).expect("the key is written");
        fs::write(&pair.certificate, certificate.pem()).expect("the certificate is written");
        pair
    }

    /// The pair that was created in this folder.
    pub fn read(folder: &Path) -> Pair {
        Pair { certificate: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    /// The options of a server that uses it on a free port.
    pub fn options(&self) -> [String; 6] {
        let text = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
        let [certificate, key] = [text(&self.certificate), text(&self.key)];
        ["--listen-tls".into(), "127.0.0.1:0".into(), "--tls-cert".into(), certificate, "--tls-key".into(), key]
    }

    /// A client that trusts only this certificate, and speaks these versions of TLS (none: all).
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_of(ring::default_provider(), versions)
    }

    /// The same with this cryptography.
    pub fn client_of(&self, provider: CryptoProvider, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let versions = if versions.is_empty() { &[&version::TLS12, &version::TLS13][..] } else { versions };
        let certificate = CertificateDer::from_pem_file(&self.certificate).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate that can be trusted");
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions that the provider knows")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

/// Connects to a port that speaks TLS.
pub async fn connect(port: u16, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a valid name");
    TlsConnector::from(Arc::new(client)).connect(name, stream).await
}

/// Opens a tunnel to a port that speaks TLS. Returns the port of the end that does not. It exists as long as the test.
pub async fn open(tls_port: u16, client: ClientConfig) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let client = client.clone();
            tokio::spawn(async move {
                let _ = plain.set_nodelay(true);
                let _ = SockRef::from(&plain).set_send_buffer_size(BUFFER_BYTES as usize);
                // Without a server, the connection is closed.
                if let Ok(mut encrypted) = connect(tls_port, client).await {
                    let _ = copy_bidirectional(&mut plain, &mut encrypted).await;
                }
            });
        }
    });
    port
}
