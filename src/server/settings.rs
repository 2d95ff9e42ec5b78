//! Translates the options into the settings of the HTTP service.

use crate::config::Options;
use anyhow::Result;
use std::str::FromStr;
use std::time::Duration;
use uproar_core::limits::Limits;
use uproar_http::addresses::Network;
use uproar_http::{Origins, Settings};

/// # Errors
/// If an origin or a network is invalid.
pub(super) fn from_options(options: &Options, limits: &Limits) -> Result<Settings> {
    let origins = Origins::parse(&options.allow_origin).map_err(|error| anyhow::anyhow!("--allow-origin: {error}"))?;
    let trusted_proxies = options.trusted_proxy.iter().map(|network| Network::from_str(network.trim()));
    let trusted_proxies: Result<Vec<Network>, _> = trusted_proxies.collect();
    let ms = Duration::from_millis;
    Ok(Settings {
        origins,
        own_admin_port: options.admin_listen.is_some(),
        trusted_proxies: trusted_proxies.map_err(|error| anyhow::anyhow!("--trusted-proxy: {error}"))?,
        limits: uproar_http::Limits {
            head_limit_bytes: limits.head_limit_bytes as usize,
            body_limit_bytes: limits.body_limit_bytes as usize,
            text_limit_bytes: limits.text_limit_bytes as usize,
            room_size_limit: limits.room_size_limit as u32,
            history_page_limit: limits.history_page_limit as usize,
            publish_rate_per_second: limits.publish_rate_per_second as u32,
            publish_burst_limit: limits.publish_burst_limit as u32,
            write_timeout: ms(limits.write_timeout_ms),
            ..uproar_http::Limits::default()
        },
        token_lifetime: ms(limits.token_lifetime_ms),
        session_lifetime: ms(limits.session_lifetime_ms),
        expired_grace: ms(limits.expired_grace_ms),
        token_in_query: !options.no_query_token,
        echo: options.echo,
        ..Settings::default()
    })
}
