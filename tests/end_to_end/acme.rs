//! Proves that the server gets its certificate from a certificate authority, keeps it and renews it. The authority is
//! Pebble, which validates as strictly as Let's Encrypt and rejects every twentieth nonce.

use crate::client::{Http, within};
use crate::databases::Kind;
use crate::reverse_proxies::program;
use crate::server::{Server, Setup, assert_contains, run, until};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};

const DOMAIN: &str = "chat.example.org";
const OTHER_DOMAIN: &str = "other.example.org";

/// Each test has an address of its own, so all of them can use the same ports.
const DIRECTORY_PORT: u16 = 14_000;
const MANAGEMENT_PORT: u16 = 15_000;
const DNS_PORT: u16 = 8053;
/// Where the authority validates, in place of port 443.
const TLS_PORT: u16 = 5001;

const ISSUED: &str = "there is a new TLS certificate for";

/// The protocol of authorities that validate.
const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

on_each_driver! {
    a_certificate_is_issued_and_used_again_after_a_restart
    challenges_are_answered_beside_ordinary_clients
}

// ── the authority ───────────────────────────────────────────────────────────────────────────────────────────────────

/// An address of the loopback network that no other test has.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(64).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(127, 16 + a % 200, b, c)
}

/// A certificate authority, which resolves all names to one address.
pub struct Authority {
    address: Ipv4Addr,
    folder: TempDir,
    /// What the names lead to.
    leads_to: Ipv4Addr,
    variables: Vec<(&'static str, &'static str)>,
    processes: Vec<Child>,
}

impl Authority {
    /// An authority that does not run yet.
    fn new() -> Authority {
        let address = own_address();
        let folder = tempfile::tempdir().expect("a folder");
        // Its own certificate, for its directory.
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([address.to_string()]).expect("a valid name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = Authority { address, folder, leads_to: address, variables: Vec::new(), processes: Vec::new() };
        fs::write(authority.ca(), certificate.pem()).expect("written");
        fs::write(authority.path("key.pem"), key.serialize_pem()).expect("written");
        let settings = json!({"pebble": {
            "listenAddress": format!("{address}:{DIRECTORY_PORT}"),
            "managementListenAddress": format!("{address}:{MANAGEMENT_PORT}"),
            "certificate": authority.ca(),
            "privateKey": authority.path("key.pem"),
            "httpPort": 5002,
            "tlsPort": TLS_PORT,
            "certificateValidityPeriod": 90 * 24 * 3600,
        }});
        fs::write(authority.path("pebble.json"), settings.to_string()).expect("written");
        authority
    }

    pub async fn start() -> Authority {
        let mut authority = Authority::new();
        authority.run().await;
        authority
    }

    /// Starts it. It remembers nothing of an earlier run.
    async fn run(&mut self) {
        self.kill().await;
        let dns = format!("{}:{DNS_PORT}", self.address);
        let mut names = Command::new(program("pebble-challtestsrv"));
        names.args(["-dns01", &dns, "-defaultIPv4", &self.leads_to.to_string(), "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", &format!("{}:8055", self.address)]);
        let mut pebble = Command::new(program("pebble"));
        pebble.arg("-config").arg(self.path("pebble.json")).args(["-dnsserver", &dns, "-strict"]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0").envs(self.variables.iter().copied());
        for mut command in [names, pebble] {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            self.processes.push(command.spawn().expect("the authority can't be started"));
        }
        let address = self.address;
        until("the authority listens", async || {
            TcpStream::connect((address, DIRECTORY_PORT)).await.is_ok()
                && TcpStream::connect((address, 8055)).await.is_ok()
        })
        .await;
    }

    async fn kill(&mut self) {
        for mut process in self.processes.drain(..) {
            within("the authority is killed", process.kill()).await.expect("it could not be killed");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file with the certificate of its directory.
    fn ca(&self) -> PathBuf {
        self.path("cert.pem")
    }

    /// A server that gets certificates for these domains from it.
    pub async fn setup(&self, driver: &str, domains: &str) -> Setup {
        let (listen, directory) = (format!("{}:{TLS_PORT}", self.address), self.directory());
        let ca = self.ca().display().to_string();
        let options = ["--listen-tls", &listen, "--tls-acme", domains, "--tls-acme-directory", &directory];
        Setup::new(Kind::Sqlite, &[&options[..], &["--tls-acme-ca", &ca, "--driver", driver]].concat()).await
    }

    fn directory(&self) -> String {
        format!("https://{}:{DIRECTORY_PORT}/dir", self.address)
    }

    /// The folder in which a server keeps what it has from this authority.
    fn kept(&self, setup: &Setup) -> PathBuf {
        setup.data().join("acme").join(format!("{}_{DIRECTORY_PORT}_dir", self.address))
    }

    /// A client that trusts the certificates that it issues.
    async fn client(&self) -> ClientConfig {
        let own = CertificateDer::from_pem_file(self.ca()).expect("a certificate");
        let name = ServerName::from(std::net::IpAddr::V4(self.address));
        let stream = TcpStream::connect((self.address, MANAGEMENT_PORT)).await.expect("no connection");
        let mut stream = TlsConnector::from(Arc::new(client_for(own))).connect(name, stream).await.expect("no session");
        let request = format!("GET /roots/0 HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        // It does not announce the end.
        let _ = within("the root", stream.read_to_end(&mut answer)).await;
        client_for(CertificateDer::from_pem_slice(&answer).expect("a certificate in PEM"))
    }

    /// Connects to the server of this domain.
    async fn connect(&self, domain: &'static str, client: &ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((self.address, TLS_PORT)).await?;
        let name = ServerName::try_from(domain).expect("a valid name");
        within("the handshake", TlsConnector::from(Arc::new(client.clone())).connect(name, stream)).await
    }

    async fn can_connect(&self, domain: &'static str, client: &ClientConfig) -> bool {
        self.connect(domain, client).await.is_ok()
    }

    /// The certificate, with its chain, that the server presents.
    async fn chain(&self, client: &ClientConfig) -> Vec<CertificateDer<'static>> {
        let stream = self.connect(DOMAIN, client).await.expect("a session");
        stream.get_ref().1.peer_certificates().expect("a chain").to_vec()
    }
}

fn client_for(root: CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a certificate that can be trusted");
    client(&[&version::TLS12, &version::TLS13], roots)
}

fn client(versions: &[&'static SupportedProtocolVersion], roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that the provider knows")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub async fn until_issued(server: &Server, times: usize) {
    until("a certificate is issued", async || server.setup.log().matches(ISSUED).count() == times).await;
}

// ── tests ───────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn a_certificate_is_issued_and_used_again_after_a_restart(driver: &str) {
    let mut authority = Authority::start().await;
    let server = authority.setup(driver, DOMAIN).await.start().await;
    let client = authority.client().await;
    until_issued(&server, 1).await;
    let chain = authority.chain(&client).await;
    assert_eq!(chain.len(), 2, "the certificate and the one that it comes from");
    assert!(server.metric("uproar_tls_certificate_expires_seconds").await > 1_700_000_000.0);
    let mut stream = authority.connect(DOMAIN, &client).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: chat.example.org\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    // Nobody else can read the keys.
    let folder = authority.kept(&server.setup);
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o7777;
    assert_eq!([mode(&folder), mode(folder.parent().unwrap())], [0o700, 0o700]);
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["account.json", "certificate.pem"]);
    assert!(names.iter().all(|name| mode(&folder.join(name)) == 0o600));

    // After a restart it needs no authority.
    authority.kill().await;
    let mut server = server;
    server.stop().await;
    let server = server.restart().await;
    assert!(authority.chain(&client).await == chain, "another certificate");
    assert_eq!(server.setup.log().matches(ISSUED).count(), 1);

    // No challenge is under way.
    let mut validating = client.clone();
    validating.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
    let refused = authority.connect(DOMAIN, &validating).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

async fn challenges_are_answered_beside_ordinary_clients(driver: &str) {
    let mut authority = Authority::new();
    // The authority is led to this test, which can thus let it wait.
    authority.leads_to = own_address();
    let validations = TcpListener::bind((authority.leads_to, TLS_PORT)).await.expect("a free port");
    authority.run().await;
    let setup = authority.setup(driver, DOMAIN).await;
    let old = store_old_certificate(&authority.kept(&setup));
    let server = setup.start().await;
    let (mut validation, _) = within("the authority validates", validations.accept()).await.expect("a connection");

    // Ordinary clients get the certificate that is about to expire, even if they offer other protocols.
    let mut ordinary = client_for(old.clone());
    assert!(authority.chain(&ordinary).await == [old.clone()]);
    ordinary.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec(), b"http/1.1".to_vec()];
    let stream = authority.connect(DOMAIN, &ordinary).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // An authority gets the other certificate, and nothing else.
    for version in [&version::TLS12, &version::TLS13] {
        let mut validating = client(&[version], RootCertStore::empty());
        validating.dangerous().set_certificate_verifier(Arc::new(Anything));
        validating.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
        let mut stream = authority.connect(DOMAIN, &validating).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(CHALLENGE_PROTOCOL));
        let chain = session.peer_certificates().unwrap();
        assert!(chain.len() == 1 && chain[0] != old);
        // The object identifier 1.3.6.1.5.5.7.1.31.
        let extension = [6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f];
        assert!(chain[0].windows(extension.len()).any(|bytes| bytes == extension));
        let end = within("the end", stream.read_to_end(&mut Vec::new())).await;
        assert_eq!(end.expect("the end is announced"), 0);
        // Nobody has asked for this one.
        let refused = authority.connect(OTHER_DOMAIN, &validating).await.unwrap_err();
        assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    }

    let serve = async {
        let mut connection = TcpStream::connect((authority.address, TLS_PORT)).await.unwrap();
        let _ = copy_bidirectional(&mut validation, &mut connection).await;
        // It validates more than once.
        while let Ok((mut validation, _)) = validations.accept().await {
            let mut connection = TcpStream::connect((authority.address, TLS_PORT)).await.unwrap();
            let _ = copy_bidirectional(&mut validation, &mut connection).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = until_issued(&server, 1) => {}
    }
    assert!(!server.setup.log().contains("there is no certificate yet"));
    let client = authority.client().await;
    assert!(authority.can_connect(DOMAIN, &client).await);
    assert!(!authority.can_connect(DOMAIN, &ordinary).await, "the old certificate is still used");
}

/// A certificate that has a tenth of its lifetime left, as an earlier server has stored it.
fn store_old_certificate(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([DOMAIN.to_owned()]).expect("a valid name");
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    (params.not_before, params.not_after) = ((now - 81 * day).into(), (now + 9 * day).into());
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::create_dir_all(folder).expect("a folder");
    // Otherwise this would not be a data folder.
    fs::write(folder.join("../../uproar.lock"), "").expect("written");
    fs::write(folder.join("certificate.pem"), key.serialize_pem() + &certificate.pem()).expect("written");
    certificate.der().clone()
}

/// Accepts any certificate, as an authority does that looks at the challenge only.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn until_the_authority_can_be_reached_tls_is_refused_and_all_else_served() {
    let mut authority = Authority::new();
    let server = authority.setup("auto", DOMAIN).await.start().await;
    until("the attempt fails", async || server.setup.log().contains("no certificate for")).await;
    let log = server.setup.log();
    let line = log.lines().find(|line| line.contains("no certificate for")).unwrap();
    assert_contains(line, &[DOMAIN, &authority.directory(), "Connection refused", "in 2 minutes, or on SIGHUP"]);
    assert_contains(&log, &["there is no certificate yet", "TLS connections are refused"]);
    let mut http = Http::connect(server.port).await.expect("no connection");
    http.request("GET", "/healthz", &[], None).await.expect("an answer").expect(200);
    assert_eq!(server.metric("uproar_tls_certificate_expires_seconds").await, 0.0);
    // A health check must not restart such a server.
    let url = format!("https://{}:{TLS_PORT}", authority.address);
    assert!(run(&["health", &url]).await.status.success());
    let any = client_for(CertificateDer::from_pem_file(authority.ca()).unwrap());
    let refused = authority.connect(DOMAIN, &any).await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");

    authority.run().await;
    server.signal("HUP").await;
    until_issued(&server, 1).await;
    assert!(authority.can_connect(DOMAIN, &authority.client().await).await);
}

#[tokio::test]
async fn a_failed_validation_is_logged_in_one_line_and_tried_again_only_so_often() {
    let mut authority = Authority::new();
    // Nobody listens there.
    authority.leads_to = own_address();
    authority.run().await;
    let server = authority.setup("auto", DOMAIN).await.start().await;
    let failures = || server.setup.log().matches("no certificate for chat.example.org: chat.example.org: ").count();
    until("the validation fails", async || failures() == 1).await;
    let log = server.setup.log();
    let line = log.lines().find(|line| line.contains("no certificate for")).unwrap();
    assert_contains(line, &["ERROR", "Failed to connect to", "(unauthorized); the next attempt is in ", " minutes"]);
    let minutes = line.split("attempt is in ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!((60..=76).contains(&minutes.parse::<u32>().unwrap()), "{line}");
    for attempt in 2..=4 {
        server.signal("HUP").await;
        until("another attempt fails", async || failures() == attempt).await;
    }
    server.signal("HUP").await;
    until("further attempts are refused", async || server.setup.log().contains("4 attempts within an hour")).await;
    assert_eq!(failures(), 4);
}

#[tokio::test]
async fn other_domains_lead_to_another_certificate_with_the_same_account() {
    let mut authority = Authority::new();
    // It then takes several attempts.
    authority.variables = vec![("PEBBLE_WFE_NONCEREJECT", "20")];
    authority.run().await;
    let mut setup = authority.setup("auto", DOMAIN).await;
    let mut server = setup.start().await;
    until_issued(&server, 1).await;
    let client = authority.client().await;
    assert!(!authority.can_connect(OTHER_DOMAIN, &client).await);
    let account = fs::read(authority.kept(&server.setup).join("account.json")).unwrap();
    server.stop().await;
    setup = server.into_setup();
    setup.add_options(&["--tls-acme", OTHER_DOMAIN]);
    let mut server = setup.start().await;
    until_issued(&server, 2).await;
    for domain in [DOMAIN, OTHER_DOMAIN] {
        assert!(authority.can_connect(domain, &client).await, "{domain}");
    }
    assert!(fs::read(authority.kept(&server.setup).join("account.json")).unwrap() == account, "another account");

    // An authority that has forgotten the account gets a new one.
    authority.run().await;
    server.stop().await;
    let folder = authority.kept(&server.setup);
    fs::remove_file(folder.join("certificate.pem")).unwrap();
    let server = server.restart().await;
    until_issued(&server, 3).await;
    server.setup.logs(&["does not know the account any more"]).await;
    assert!(fs::read(folder.join("account.json")).unwrap() != account, "the same account");
    assert!(authority.can_connect(OTHER_DOMAIN, &authority.client().await).await);
}

#[tokio::test]
async fn uproar_check_looks_at_options_certificate_and_authority() {
    let mut authority = Authority::new();
    let setup = authority.setup("auto", DOMAIN).await;
    let check = async |setup: &Setup, more: &[&str]| {
        let arguments = setup.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let output = run(&[&["check"], &arguments[..]].concat()).await;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
        (output.status.code(), text)
    };
    let (code, text) = check(&setup, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let warning = "warning: the certificate authority can't be asked now";
    assert_contains(&text, &["ok: certificate for chat.example.org (the first start orders it)", warning, "refused"]);
    assert!(!setup.data().exists(), "the command has created the data folder");

    authority.run().await;
    let server = setup.start().await;
    until_issued(&server, 1).await;
    let (code, text) = check(&server.setup, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let found = format!("ok: certificate authority {}", authority.directory());
    assert_contains(&text, &[&found, "certificate.pem, valid for 89 more days"]);
    let (_, text) = check(&server.setup, &["--tls-acme", OTHER_DOMAIN]).await;
    assert_contains(&text, &["ok: certificate for chat.example.org, other.example.org (the next start orders it"]);
    let (code, text) = check(&server.setup, &["--tls-acme", "*.example.org"]).await;
    assert!(code == Some(1) && text.contains("problem: --tls-acme: "), "{text}");
    fs::write(authority.ca(), "").unwrap();
    let (code, text) = check(&server.setup, &[]).await;
    assert!(code == Some(1) && text.contains("problem: --tls-acme-ca: ") && text.contains("no certificate"), "{text}");
}
