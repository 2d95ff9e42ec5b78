//! Surveys and their answers as nodes send them.

use super::envelope::{WireChannel, WireClient};
use crate::survey::{Expiry, Findings, Pattern, Survey};
use serde::{Deserialize, Serialize};
use uproar_model::UserId;

#[derive(Serialize, Deserialize)]
pub(super) enum WireSurvey {
    #[serde(rename = "p")]
    Presence(WireChannel),
    #[serde(rename = "n")]
    PresenceStats(WireChannel),
    /// The pattern.
    #[serde(rename = "l")]
    Channels(Option<String>),
    /// User, channel, client.
    #[serde(rename = "u")]
    Unsubscribe(i64, String, Option<String>),
    /// User, client, clients that are spared, code, reason.
    #[serde(rename = "d")]
    Disconnect(i64, Option<String>, Vec<String>, u16, String),
    /// User, client, when: 0 means now, nothing means never.
    #[serde(rename = "r")]
    Refresh(i64, Option<String>, Option<u64>),
}

/// See [`Findings`]. What is absent is empty or 0.
#[derive(Serialize, Deserialize)]
pub(super) struct WireFindings {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    c: Vec<WireClient>,
    #[serde(default, skip_serializing_if = "is_zero")]
    n: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    u: Vec<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    o: u64,
    /// Channels, and how many subscribers each has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    l: Vec<(String, u64)>,
    /// Whether there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    m: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl WireSurvey {
    pub fn of(survey: &Survey) -> WireSurvey {
        match survey {
            Survey::Presence { channel } => WireSurvey::Presence(WireChannel::of(channel)),
            Survey::PresenceStats { channel } => WireSurvey::PresenceStats(WireChannel::of(channel)),
            Survey::Channels { pattern } => {
                WireSurvey::Channels(pattern.as_ref().map(|pattern| pattern.text().to_owned()))
            }
            Survey::Unsubscribe { user, channel, client } => {
                WireSurvey::Unsubscribe(user.0, channel.to_string(), client.as_deref().map(str::to_owned))
            }
            Survey::Disconnect { user, client, spared, code, reason } => {
                let spared = spared.iter().map(ToString::to_string).collect();
                WireSurvey::Disconnect(user.0, client.as_deref().map(str::to_owned), spared, *code, reason.to_string())
            }
            Survey::Refresh { user, client, expiry } => {
                let at = match expiry {
                    Expiry::Now => Some(0),
                    Expiry::At(time) => Some(*time),
                    Expiry::Never => None,
                };
                WireSurvey::Refresh(user.0, client.as_deref().map(str::to_owned), at)
            }
        }
    }

    /// `None`: it makes no sense.
    pub fn survey(self) -> Option<Survey> {
        Some(match self {
            WireSurvey::Presence(channel) => Survey::Presence { channel: channel.channel() },
            WireSurvey::PresenceStats(channel) => Survey::PresenceStats { channel: channel.channel() },
            WireSurvey::Channels(pattern) => {
                Survey::Channels { pattern: pattern.as_deref().map(Pattern::new).transpose().ok()? }
            }
            WireSurvey::Unsubscribe(user, channel, client) => {
                let (channel, client) = (channel.into(), client.map(Into::into));
                Survey::Unsubscribe { user: UserId(user), channel, client }
            }
            WireSurvey::Disconnect(user, client, spared, code, reason) => {
                let (client, spared) = (client.map(Into::into), spared.into_iter().map(Into::into).collect());
                Survey::Disconnect { user: UserId(user), client, spared, code, reason: reason.into() }
            }
            WireSurvey::Refresh(user, client, at) => {
                let expiry = match at {
                    Some(0) => Expiry::Now,
                    Some(time) => Expiry::At(time),
                    None => Expiry::Never,
                };
                Survey::Refresh { user: UserId(user), client: client.map(Into::into), expiry }
            }
        })
    }
}

impl WireFindings {
    pub fn of(findings: &Findings) -> WireFindings {
        let Findings { clients, client_count, users, other_users, channels, has_more } = findings;
        let users = users.iter().map(|user| user.0).collect();
        let channels = channels.iter().map(|(channel, count)| (channel.to_string(), *count)).collect();
        let (clients, has_more) = (WireClient::all_of(clients), *has_more);
        WireFindings { c: clients, n: *client_count, u: users, o: *other_users, l: channels, m: has_more }
    }

    pub fn findings(self) -> Findings {
        let WireFindings { c, n, u, o, l, m } = self;
        let users = u.into_iter().map(UserId).collect();
        let channels = l.into_iter().map(|(channel, count)| (channel.into(), count)).collect();
        let clients = WireClient::clients(c);
        Findings { clients, client_count: n, users, other_users: o, channels, has_more: m }
    }
}
