//! Everything about a connection that only time changes: deadlines, pings, expired tokens.

use crate::connections::Phase;
use crate::host::Host;
use crate::ids::Slot;
use crate::protocol::{CloseReason, centrifuge};
use crate::shard::Shard;
use crate::websocket::{Refusal, frame};

impl Shard {
    /// The timer of a connection is due.
    pub(crate) fn on_timer(&mut self, slot: Slot, host: &mut impl Host) {
        let now = self.cx.now;
        let limits = &self.cx.config.limits;
        let connection = &mut self.connections[slot];
        let mut next_ms = u64::MAX;
        if connection.outbound.is_empty() {
            connection.progress_ms = now.ms;
        } else {
            let until = connection.progress_ms + limits.write_timeout_ms;
            if now.ms >= until {
                return self.abort(slot, host);
            }
            next_ms = until;
        }
        match &mut connection.phase {
            Phase::Vacant | Phase::Aborted => return,
            Phase::Head => {
                let until = connection.opened_ms + limits.handshake_timeout_ms;
                if now.ms >= until {
                    return self.abort(slot, host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Handshake(_) => {
                let until = connection.opened_ms + limits.handshake_timeout_ms;
                if now.ms >= until {
                    let why = "the server could not accept this connection in time; try again";
                    return self.reject(slot, &Refusal::new(503, "unavailable", why), host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Closing { until_ms, .. } => {
                if now.ms >= *until_ms {
                    return self.abort(slot, host);
                }
                next_ms = next_ms.min(*until_ms);
            }
            Phase::Connecting(connecting) => {
                // After `connect` has arrived, it is the server that is late.
                let until = match &connecting.authenticating {
                    None => connection.opened_ms + limits.handshake_timeout_ms,
                    Some(authenticating) => authenticating.deadline_ms,
                };
                if now.ms >= until {
                    return self.on_connect_timeout(slot, host);
                }
                next_ms = next_ms.min(until);
            }
            Phase::Open(_) | Phase::Echo => {
                if let Phase::Open(session) = &connection.phase {
                    if now.unix_ms >= session.expires_unix_ms {
                        return self.close(slot, CloseReason::EXPIRED, host);
                    }
                    next_ms = next_ms.min(now.ms + (session.expires_unix_ms - now.unix_ms));
                }
                let is_sdk = connection.encoding().is_some();
                // A pong cannot be heard while the connection is not read.
                if connection.is_paused {
                    connection.pinged_ms = None;
                    if !is_sdk {
                        connection.ping_ms = connection.ping_ms.max(now.ms + 1);
                    }
                }
                if connection.unfinished_bytes > 0 {
                    // While the connection is not read, nothing can arrive.
                    if connection.is_paused {
                        connection.unfinished_ms = now.ms;
                    }
                    let until = connection.unfinished_ms + limits.message_timeout_ms;
                    if now.ms >= until {
                        return self.close(slot, CloseReason::SLOW, host);
                    }
                    next_ms = next_ms.min(until);
                }
                if let Some(pinged) = connection.pinged_ms {
                    if now.ms >= pinged + limits.pong_timeout_ms {
                        return self.close(slot, CloseReason::NO_PONG, host);
                    }
                    next_ms = next_ms.min(pinged + limits.pong_timeout_ms);
                }
                if connection.pinged_ms.is_none() || is_sdk {
                    if now.ms < connection.ping_ms {
                        next_ms = next_ms.min(connection.ping_ms);
                    } else if self.pings_left == 0 {
                        next_ms = now.ms + 1;
                    } else {
                        self.pings_left -= 1;
                        if !connection.is_paused {
                            connection.pinged_ms.get_or_insert(now.ms);
                            next_ms = next_ms.min(now.ms + limits.pong_timeout_ms);
                        }
                        connection.ping_ms = now.ms + limits.ping_interval_ms;
                        next_ms = next_ms.min(connection.ping_ms);
                        self.ping(slot, host);
                    }
                }
                next_ms = next_ms.min(self.expire_calls(slot, host));
            }
        }
        self.catch_up(slot, host);
        self.connections.arm_timer(slot, next_ms);
    }

    /// Sends a ping of the connection's protocol.
    fn ping(&mut self, slot: Slot, host: &mut impl Host) {
        // The answer to a WebSocket ping repeats its number.
        let mut number = None;
        if let Some(session) = self.connections[slot].session_mut() {
            number = Some(session.failures.on_ping()).filter(|_| !session.failures.is_empty());
        }
        match self.connections[slot].client_mut() {
            Some(client) if !client.uses_frame_pings => {
                self.connections.add_push(&self.cx, slot, centrifuge::push_ping);
            }
            _ => self.push(slot, frame::ping(number), host),
        }
    }

    /// The client has answered a ping: a WebSocket ping with this payload, or one of the Centrifugo protocol, whose
    /// pings clients answer one by one.
    pub(crate) fn on_pong(&mut self, slot: Slot, payload: Option<&[u8]>) {
        let number = match payload {
            None => None,
            Some(payload) => match payload.try_into() {
                Ok(number) => Some(u32::from_be_bytes(number)),
                Err(_) => return,
            },
        };
        let now_ms = self.cx.now.ms;
        if self.connections[slot].session_mut().is_some_and(|session| session.failures.on_pong(number, now_ms)) {
            self.ping_soon(slot);
        }
    }
}
