//! The TLS side of one connection: ciphertext in, plaintext out, and the reverse.

use crate::Config;
use crate::certificate::CHALLENGE_PROTOCOL;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use std::fmt;

/// The most plaintext in one record (RFC 8446, 5.1).
pub const RECORD_LIMIT_BYTES: usize = 16 * 1024;

/// What encryption adds to a record at most: header, explicit nonce, content type, tag.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The most ciphertext that is kept because it is incomplete. The longest handshake message of a client has a few
/// kilobytes, and the longest record just over 16 KiB.
const INCOMPLETE_LIMIT_BYTES: usize = 64 * 1024;

/// Why a session can't go on. The alert for the client is then in [`Session::outgoing`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes are the beginning of an HTTP request. No alert is sent.
    #[error("the client speaks plain HTTP")]
    PlainHttp,
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("the client sent a message that does not end")]
    TooLong,
    #[error("the session is not open")]
    NotOpen,
    /// The rest of the handshake is in [`Session::outgoing`].
    #[error("a certificate authority has looked at a challenge")]
    Challenge,
}

/// A session of the server. Idle, it holds no buffer.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// Received bytes that are not a whole record or handshake message yet.
    incoming: Vec<u8>,
    /// Ciphertext to be written to the socket.
    outgoing: Vec<u8>,
    /// How many bytes of `outgoing` are written.
    written: usize,
    /// Something has been received.
    has_begun: bool,
    /// The client sends nothing more.
    is_peer_closed: bool,
    /// This side sends nothing more, because it has said so or the session has failed.
    is_ended: bool,
}

impl Session {
    /// # Errors
    /// If the configuration can't be used.
    pub fn new(config: &Config) -> Result<Session, Error> {
        let connection = UnbufferedServerConnection::new(config.current())?;
        Ok(Session {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            has_begun: false,
            is_peer_closed: false,
            is_ended: false,
        })
    }

    /// Whether the handshake is complete, so that plaintext can be sent.
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether the client has said that it sends nothing more.
    pub fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// The memory held for a record or message that has not arrived completely, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.incoming.capacity()
    }

    // ---- receiving ----

    /// Keeps received bytes for the next [`Session::receive`].
    ///
    /// # Errors
    /// If they are more than any client needs to send. The session has then failed.
    pub fn keep(&mut self, ciphertext: &[u8]) -> Result<(), Error> {
        self.incoming.extend_from_slice(ciphertext);
        if self.incoming.len() > INCOMPLETE_LIMIT_BYTES {
            return Err(self.fail(Error::TooLong));
        }
        Ok(())
    }

    /// Takes received bytes and appends what they contain to `plaintext`. `ciphertext` is overwritten in the process.
    /// Whatever must be answered is answered in [`Session::outgoing`].
    ///
    /// # Errors
    /// If the client violates the protocol, or there is no agreement with it. The session has then failed.
    pub fn receive(&mut self, ciphertext: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_ended {
            // Nothing could be answered any more.
            return Ok(());
        }
        if !self.has_begun {
            let Some(first) = self.incoming.first().or(ciphertext.first()) else { return Ok(()) };
            // A handshake record begins with 22.
            if first.is_ascii_alphabetic() {
                return Err(self.fail(Error::PlainHttp));
            }
            self.has_begun = true;
        }
        if self.incoming.is_empty() {
            let used = self.process(ciphertext, plaintext)?;
            self.keep(&ciphertext[used..])?;
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.extend_from_slice(ciphertext);
            let used = self.process(&mut incoming, plaintext)?;
            incoming.drain(..used);
            // Idle sessions hold no buffer.
            self.incoming = if incoming.is_empty() { Vec::new() } else { incoming };
            self.keep(&[])?;
        }
        if self.is_established() && self.connection.alpn_protocol() == Some(CHALLENGE_PROTOCOL) {
            // The handshake is all that the certificate authority wants.
            self.close();
            return Err(self.fail(Error::Challenge));
        }
        Ok(())
    }

    /// Processes complete records, and returns the number of bytes that are used up.
    fn process(&mut self, ciphertext: &mut [u8], plaintext: &mut Vec<u8>) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let step = {
                let UnbufferedStatus { mut discard, state } =
                    self.connection.process_tls_records(&mut ciphertext[used..]);
                let step = match state {
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                        match traffic.next_record() {
                            Some(Ok(record)) => {
                                discard += record.discard;
                                plaintext.extend_from_slice(record.payload);
                            }
                            Some(Err(error)) => break Step::Fail(error.into()),
                            None => break Step::GoOn,
                        }
                    },
                    Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                    Ok(ConnectionState::TransmitTlsData(data)) => {
                        data.done();
                        Step::GoOn
                    }
                    Ok(ConnectionState::PeerClosed) => {
                        self.is_peer_closed = true;
                        Step::GoOn
                    }
                    // Nobody waits for what follows the client's last word.
                    Ok(_) if self.is_peer_closed => Step::End,
                    Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Step::Wait,
                    // Early data, which is not offered.
                    Ok(_) => Step::Fail(Error::NotOpen),
                    Err(error) => Step::Fail(error.into()),
                };
                used += discard;
                step
            };
            match step {
                Step::GoOn => {}
                Step::Wait => return Ok(used),
                Step::End => return Ok(ciphertext.len()),
                Step::Fail(error) => {
                    self.encode_alert();
                    return Err(self.fail(error));
                }
            }
        }
    }

    /// After an error: what the client is told. rustls must not see the bytes again that caused it.
    fn encode_alert(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => drop(encode(&mut data, &mut self.outgoing)),
                _ => return,
            }
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.is_ended = true;
        self.incoming = Vec::new();
        error
    }

    // ---- sending ----

    /// The ciphertext that has to be written.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.written..]
    }

    /// The first bytes of [`Session::outgoing`] have been written.
    pub fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        debug_assert!(self.written <= self.outgoing.len());
        if self.written >= self.outgoing.len() {
            // Idle sessions hold no buffer.
            self.outgoing = Vec::new();
            self.written = 0;
        }
    }

    /// Takes the ciphertext that has to be written.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        outgoing.drain(..std::mem::take(&mut self.written));
        outgoing
    }

    /// Returns ciphertext that was taken and not written. It goes before what has been added since.
    pub fn put_back(&mut self, mut ciphertext: Vec<u8>, written: usize) {
        debug_assert_eq!(self.written, 0);
        ciphertext.drain(..written);
        ciphertext.append(&mut self.outgoing);
        self.outgoing = ciphertext;
    }

    /// Encrypts plaintext and appends it to [`Session::outgoing`].
    ///
    /// # Errors
    /// If the handshake is not complete, or the session has failed or ended.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<(), Error> {
        self.append(|connection, out| {
            let begin = out.len();
            let records = plaintext.len().div_ceil(RECORD_LIMIT_BYTES);
            out.resize(begin + plaintext.len() + records * RECORD_OVERHEAD_BYTES, 0);
            let sealed = connection.encrypt(plaintext, &mut out[begin..]);
            out.truncate(begin + sealed.as_ref().copied().unwrap_or(0));
            sealed.map(drop)
        })
    }

    /// Says that this side sends nothing more. Nothing happens if it can't be said any more, or was.
    pub fn close(&mut self) {
        let closed = self.append(|connection, out| {
            let begin = out.len();
            out.resize(begin + RECORD_OVERHEAD_BYTES, 0);
            let sealed = connection.queue_close_notify(&mut out[begin..]);
            out.truncate(begin + sealed.as_ref().copied().unwrap_or(0));
            sealed.map(drop)
        });
        self.is_ended |= closed.is_ok();
    }

    fn append(
        &mut self,
        mut write: impl FnMut(&mut Writer<'_>, &mut Vec<u8>) -> Result<(), EncryptError>,
    ) -> Result<(), Error> {
        if self.is_ended || !self.is_established() {
            return Err(Error::NotOpen);
        }
        loop {
            let step = match self.connection.process_tls_records(&mut self.incoming).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => match write(&mut traffic, &mut self.outgoing) {
                    Ok(()) => Step::End,
                    Err(_) => Step::Fail(Error::NotOpen),
                },
                // An answer to what the client sent comes first.
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Step::GoOn
                }
                Ok(_) => Step::Fail(Error::NotOpen),
                Err(error) => Step::Fail(error.into()),
            };
            match step {
                Step::GoOn => {}
                Step::Wait | Step::End => return Ok(()),
                Step::Fail(error) => return Err(self.fail(error)),
            }
        }
    }
}

type Writer<'c> = WriteTraffic<'c, ServerConnectionData>;

/// What follows a step of rustls.
enum Step {
    GoOn,
    /// More bytes are needed.
    Wait,
    End,
    Fail(Error),
}

/// Appends a record of the session itself to the ciphertext.
fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) -> Step {
    let begin = out.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return Step::Fail(Error::NotOpen) };
    out.resize(begin + size.required_size, 0);
    match data.encode(&mut out[begin..]) {
        Ok(_) => Step::GoOn,
        Err(_) => Step::Fail(Error::NotOpen),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_established", &self.is_established()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Certificate, Pair};
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
    use std::io::{Read, Write};
    use std::sync::Arc;

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

    /// A server's configuration, and a function that makes clients that trust it.
    fn setup() -> (Config, impl Fn(&'static SupportedProtocolVersion) -> ClientConnection) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pair = Pair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let config = Config::new(Arc::new(Certificate::new(Some(pair)))).unwrap();
        let trusted: CertificateDer<'static> = certificate.der().clone();
        let client = move |version| {
            let mut roots = RootCertStore::empty();
            roots.add(trusted.clone()).unwrap();
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
        };
        (config, client)
    }

    /// What the client has to send.
    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives the session's ciphertext to the client. Returns what the client has received.
    fn deliver(session: &mut Session, client: &mut ClientConnection) -> Vec<u8> {
        let bytes = session.take_outgoing();
        let mut rest = bytes.as_slice();
        let mut received = Vec::new();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
            // It would block after the last byte.
            let _ = client.reader().read_to_end(&mut received);
        }
        received
    }

    /// Passes bytes in both directions until nobody has more to say. `piece`: bytes that arrive at a time.
    fn exchange(session: &mut Session, client: &mut ClientConnection, piece: usize) -> Vec<u8> {
        let mut plaintext = Vec::new();
        loop {
            let mut bytes = sent(client);
            if bytes.is_empty() && session.outgoing().is_empty() {
                return plaintext;
            }
            for piece in bytes.chunks_mut(piece) {
                session.receive(piece, &mut plaintext).unwrap();
            }
            deliver(session, client);
        }
    }

    #[test]
    fn plaintext_passes_in_both_directions_however_the_ciphertext_is_cut() {
        let (config, client) = setup();
        for version in VERSIONS {
            for piece in [1, 3, 100, 5_000, usize::MAX] {
                let (mut session, mut client) = (Session::new(&config).unwrap(), client(version));
                client.writer().write_all(b"sent with the handshake").unwrap();
                assert_eq!(exchange(&mut session, &mut client, piece), b"sent with the handshake");
                assert!(session.is_established());
                for length in [1, 100, RECORD_LIMIT_BYTES, 3 * RECORD_LIMIT_BYTES + 1] {
                    let text = vec![7; length];
                    session.seal(&text).unwrap();
                    assert_eq!(deliver(&mut session, &mut client), text);
                    client.writer().write_all(&text).unwrap();
                    assert_eq!(exchange(&mut session, &mut client, piece), text);
                }
                assert_eq!(
                    (session.held_bytes(), session.outgoing.capacity()),
                    (0, 0),
                    "an idle session holds buffers"
                );
            }
        }
    }

    #[test]
    fn a_record_can_be_sealed_while_another_is_arriving() {
        let (config, client) = setup();
        for version in VERSIONS {
            let (mut session, mut client) = (Session::new(&config).unwrap(), client(version));
            exchange(&mut session, &mut client, usize::MAX);
            client.writer().write_all(b"in two parts").unwrap();
            let mut bytes = sent(&mut client);
            let (first, second) = bytes.split_at_mut(10);
            let mut plaintext = Vec::new();
            session.receive(first, &mut plaintext).unwrap();
            session.seal(b"meanwhile").unwrap();
            assert_eq!(deliver(&mut session, &mut client), b"meanwhile");
            assert!(plaintext.is_empty());
            session.receive(second, &mut plaintext).unwrap();
            assert_eq!(plaintext, b"in two parts");
        }
    }

    #[test]
    fn both_sides_can_end_the_session_first() {
        let (config, client) = setup();
        for version in VERSIONS {
            let (mut session, mut ending) = (Session::new(&config).unwrap(), client(version));
            exchange(&mut session, &mut ending, usize::MAX);
            ending.writer().write_all(b"last words").unwrap();
            ending.send_close_notify();
            let mut bytes = [sent(&mut ending), vec![1; 100]].concat();
            let mut plaintext = Vec::new();
            session.receive(&mut bytes, &mut plaintext).unwrap();
            assert_eq!((plaintext.as_slice(), session.is_peer_closed()), (&b"last words"[..], true));
            assert_eq!(session.held_bytes(), 0, "what follows the end is not kept");
            session.seal(b"an answer").unwrap();
            session.close();
            session.close();
            assert_eq!(deliver(&mut session, &mut ending), b"an answer");
            ending.reader().read_to_end(&mut Vec::new()).expect("the end is announced");
            assert!(session.seal(b"more").is_err());

            let (mut session, mut client) = (Session::new(&config).unwrap(), client(version));
            session.close();
            assert!(session.seal(b"too early").is_err() && session.outgoing().is_empty());
            exchange(&mut session, &mut client, usize::MAX);
            session.close();
            deliver(&mut session, &mut client);
            client.reader().read_to_end(&mut Vec::new()).expect("the end is announced");
        }
    }

    #[test]
    fn an_authority_is_answered_only_while_it_has_been_asked() {
        let certificate = Arc::new(Certificate::default());
        let config = Config::new(Arc::clone(&certificate)).unwrap();
        let hello = |protocols: &[&[u8]]| {
            let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            let name = ServerName::try_from("localhost").unwrap();
            sent(&mut ClientConnection::new(Arc::new(client), name).unwrap())
        };
        let receive = |protocols: &[&[u8]]| {
            let mut session = Session::new(&config).unwrap();
            session
                .receive(&mut hello(protocols), &mut Vec::new())
                .map(|()| session.connection.alpn_protocol().is_some())
        };
        // Without a certificate, nobody is answered.
        assert!(receive(&[b"http/1.1"]).is_err() && receive(&[CHALLENGE_PROTOCOL]).is_err());
        certificate.add_challenge("LocalHost", [7; 32]).unwrap();
        assert!(matches!(receive(&[CHALLENGE_PROTOCOL]), Ok(true)));
        assert!(receive(&[b"http/1.1"]).is_err() && receive(&[CHALLENGE_PROTOCOL, b"http/1.1"]).is_err());
        certificate.end_challenges();
        assert!(receive(&[CHALLENGE_PROTOCOL]).is_err());
        certificate.add_challenge("elsewhere.example", [7; 32]).unwrap();
        assert!(receive(&[CHALLENGE_PROTOCOL]).is_err());
    }

    #[test]
    fn http_is_recognised_by_its_first_byte() {
        let (config, _) = setup();
        for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"P"] {
            let mut session = Session::new(&config).unwrap();
            let error = session.receive(&mut request.to_vec(), &mut Vec::new()).unwrap_err();
            assert!(matches!(error, Error::PlainHttp) && session.outgoing().is_empty());
        }
    }

    /// Bytes that are changed, left out or repeated end the session with an error at most.
    #[test]
    fn damaged_bytes_never_panic() {
        let (config, client) = setup();
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % below
        };
        for round in 0..2_000 {
            let (mut session, mut client) = (Session::new(&config).unwrap(), client(VERSIONS[round % 2]));
            let damaged_flight = random(3);
            for flight in 0..3 {
                if !client.is_handshaking() {
                    client.writer().write_all(&[b'x'; 300]).unwrap();
                }
                let mut bytes = sent(&mut client);
                if flight == damaged_flight && !bytes.is_empty() {
                    let at = random(bytes.len());
                    match random(4) {
                        0 => bytes[at] ^= 1 << random(8),
                        1 => bytes.truncate(at),
                        2 => bytes.extend_from_within(at..),
                        _ => drop(bytes.remove(at)),
                    }
                }
                let piece = 1 + random(2_000);
                let mut plaintext = Vec::new();
                if bytes.chunks_mut(piece).try_for_each(|piece| session.receive(piece, &mut plaintext)).is_err() {
                    session.close();
                    assert!(session.seal(b"x").is_err());
                    break;
                }
                let answer = session.take_outgoing();
                let _ = client.read_tls(&mut answer.as_slice());
                if client.process_new_packets().is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_message_without_an_end_is_not_kept() {
        let (config, _) = setup();
        let mut session = Session::new(&config).unwrap();
        // A handshake message of 16 MiB, in records of 16 KiB.
        let mut message = vec![1, 0xff, 0xff, 0xff];
        message.resize(RECORD_LIMIT_BYTES, 0);
        let mut record = [&[22, 3, 3, 0x40, 0][..], &message].concat();
        let mut received = 0;
        while session.receive(&mut record.clone(), &mut Vec::new()).is_ok() {
            received += record.len();
            assert!(received < 2 * INCOMPLETE_LIMIT_BYTES);
            record[5..].fill(0);
        }
        assert_eq!(session.held_bytes(), 0);
    }
}
