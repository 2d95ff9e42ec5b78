//! The answer to an upgrade request that is accepted (RFC 6455, 4.2.2), as bytes.

use super::head::UpgradeRequest;
use bytes::Bytes;

/// `101 Switching Protocols`. `subprotocol` must be one that the request offers; otherwise a browser fails the
/// handshake.
pub fn switching_protocols(request: &UpgradeRequest, subprotocol: Option<&str>) -> Bytes {
    debug_assert!(subprotocol.is_none_or(|chosen| request.subprotocols.iter().any(|offered| offered == chosen)));
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        request.accept
    );
    if let Some(subprotocol) = subprotocol {
        response += "Sec-WebSocket-Protocol: ";
        response += subprotocol;
        response += "\r\n";
    }
    response += "\r\n";
    response.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::head::tests::{parse, upgrade_with};

    #[test]
    fn the_switch_names_a_subprotocol_only_if_one_was_chosen() {
        let request = parse(&upgrade_with("Sec-WebSocket-Protocol: chat, bearer.x\r\n")).upgrade();
        let answer = switching_protocols(&request, None);
        // The key and its answer are the example of RFC 6455, 1.3.
        let plain = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(answer, format!("{plain}\r\n"));
        let answer = switching_protocols(&request, Some("chat"));
        assert_eq!(answer, format!("{plain}Sec-WebSocket-Protocol: chat\r\n\r\n"));
    }
}
