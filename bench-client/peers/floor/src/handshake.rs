//! The HTTP request that opens a WebSocket.

use std::io::{self, ErrorKind};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// RFC 6455 appends this to every key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Takes the request off `input`. Returns its path, with the query, and the response, or `None` while the request is
/// incomplete. Fails if the request does not ask for a WebSocket.
pub fn take<'a>(input: &mut &'a mut [u8]) -> io::Result<Option<(&'a str, String)>> {
    let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return if input.len() < MAX_REQUEST_BYTES { Ok(None) } else { Err(ErrorKind::InvalidData.into()) };
    };
    let (head, rest) = std::mem::take(input).split_at_mut(end + 4);
    *input = rest;
    Ok(Some(answer(head).ok_or(ErrorKind::InvalidData)?))
}

fn answer(head: &[u8]) -> Option<(&str, String)> {
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let path = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    let key = lines
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("Sec-WebSocket-Key").then_some(value.trim()))?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Some((path, response))
}
