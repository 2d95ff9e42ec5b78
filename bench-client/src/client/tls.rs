//! TLS of a connection, without I/O: ciphertext in, plaintext out, and the reverse.
//!
//! No session is resumed, so every connection costs the server a full handshake.

use super::connection::CloseReason;
use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// The most plaintext in one record (RFC 8446, 5.1).
const RECORD_LIMIT_BYTES: usize = 16 * 1024;
/// What encryption adds to a record at most: header, explicit nonce, content type, tag.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// What the connections of a run share. A clone is the same configuration.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Trusts a server that has exactly the first certificate in this file, whatever names the certificate is for.
    pub fn trusting(certificate: &Path) -> Result<TlsClient> {
        let name = || format!("{} is not a certificate in PEM format", certificate.display());
        let trusted = CertificateDer::from_pem_file(certificate).with_context(name)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(OneCertificate { trusted, provider: Arc::clone(&provider) });
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(TlsClient(Arc::new(config)))
    }

    /// A blocking connection. The handshake happens at the first write.
    pub fn blocking(&self, socket: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), server_name())?, socket))
    }
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a valid name")
}

/// Accepts one certificate, if the server proves that it has the key.
#[derive(Debug)]
struct OneCertificate {
    trusted: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity != self.trusted {
            return Err(Error::General("the server has another certificate than the expected one".into()));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The session of one connection. Idle, it holds no buffer.
pub(super) struct Session {
    connection: UnbufferedClientConnection,
    /// Received bytes that are not a whole record or handshake message yet.
    incoming: Vec<u8>,
    /// Ciphertext to be written to the socket.
    pub outgoing: Vec<u8>,
}

impl Session {
    /// The beginning of the handshake is then in [`Session::outgoing`].
    pub fn new(client: &TlsClient) -> Result<Session, CloseReason> {
        let connection = UnbufferedClientConnection::new(Arc::clone(&client.0), server_name()).map_err(failed)?;
        let mut session = Session { connection, incoming: Vec::new(), outgoing: Vec::new() };
        session.process(&mut [], &mut [])?;
        Ok(session)
    }

    /// Whether the handshake is complete, so that plaintext can be sent.
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// The length of an incomplete record or message. [`Session::receive`] puts it before the new bytes.
    pub fn incomplete_bytes(&self) -> usize {
        self.incoming.len()
    }

    /// Takes received bytes, which begin at `incomplete_bytes` in `ciphertext`, and writes what they contain to
    /// `plaintext`, which must be as long as `ciphertext`. Returns the number of bytes written.
    pub fn receive(&mut self, ciphertext: &mut [u8], plaintext: &mut [u8]) -> Result<usize, CloseReason> {
        ciphertext[..self.incoming.len()].copy_from_slice(&self.incoming);
        let (used, length) = self.process(ciphertext, plaintext)?;
        self.incoming.clear();
        self.incoming.extend_from_slice(&ciphertext[used..]);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        Ok(length)
    }

    /// Returns how much of `ciphertext` is used up, and how much of `plaintext` is filled.
    fn process(&mut self, ciphertext: &mut [u8], plaintext: &mut [u8]) -> Result<(usize, usize), CloseReason> {
        let (mut used, mut length) = (0, 0);
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut ciphertext[used..]);
            let is_done = match state.map_err(failed)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(failed)?;
                        discard += record.discard;
                        plaintext[length..][..record.payload.len()].copy_from_slice(record.payload);
                        length += record.payload.len();
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut data, &mut self.outgoing)?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                // The end of the socket follows.
                ConnectionState::PeerClosed => false,
                _ => true,
            };
            used += discard;
            if is_done {
                return Ok((used, length));
            }
        }
    }

    /// Encrypts plaintext and appends it to [`Session::outgoing`].
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<(), CloseReason> {
        loop {
            match self.connection.process_tls_records(&mut self.incoming).state.map_err(failed)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let begin = self.outgoing.len();
                    let records = plaintext.len().div_ceil(RECORD_LIMIT_BYTES);
                    self.outgoing.resize(begin + plaintext.len() + records * RECORD_OVERHEAD_BYTES, 0);
                    let sealed = traffic.encrypt(plaintext, &mut self.outgoing[begin..]).map_err(failed)?;
                    self.outgoing.truncate(begin + sealed);
                    return Ok(());
                }
                // An answer to what the server sent comes first.
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, &mut self.outgoing)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                other => return Err(failed(format!("can't send in the state {other:?}"))),
            }
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("is_established", &self.is_established()).finish_non_exhaustive()
    }
}

/// Appends a record of the session itself to the ciphertext.
fn encode(data: &mut EncodeTlsData<'_, ClientConnectionData>, out: &mut Vec<u8>) -> Result<(), CloseReason> {
    let begin = out.len();
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        out.resize(begin + size.required_size, 0);
    }
    data.encode(&mut out[begin..]).map(drop).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> CloseReason {
    CloseReason(format!("TLS: {error}"))
}
