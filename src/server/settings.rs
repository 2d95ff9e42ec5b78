//! Translates the options into the settings of the HTTP service.

use super::for_browser;
use crate::config::{self, Options};
use crate::issuers::parse_url;
use anyhow::{Context, Result, bail};
use std::str::FromStr;
use uproar_core::limits::Limits;
use uproar_http::addresses::Network;
use uproar_http::api::FileKey;
use uproar_http::{EmbedOrigins, Origins, Settings, SignUp};

/// # Errors
/// If an origin, a network, the public URL or the file with an API key is invalid.
pub(crate) fn from_options(options: &Options, limits: &Limits) -> Result<Settings> {
    let origins = Origins::parse(&options.origins()).map_err(|error| anyhow::anyhow!("--allow-origin: {error}"))?;
    let embed_origins = EmbedOrigins::parse(&options.embed_origins());
    let trusted_proxies = options.trusted_networks().into_iter().map(Network::from_str);
    let trusted_proxies: Result<Vec<Network>, _> = trusted_proxies.collect();
    Ok(Settings {
        origins,
        embed_origins: embed_origins.map_err(|error| anyhow::anyhow!("--embed-origin: {error}"))?,
        public_metrics: options.public_metrics,
        trusted_proxies: trusted_proxies.map_err(|error| anyhow::anyhow!("--trusted-proxy: {error}"))?,
        limits: limits.clone(),
        password_sign_in: options.password_sign_in,
        sign_up: match options.sign_up {
            config::SignUp::Open => SignUp::Open,
            config::SignUp::Invite => SignUp::Invite,
            config::SignUp::Closed => SignUp::Closed,
        },
        public_url: options.public_url.as_deref().map(|url| parse_origin("--public-url", url)).transpose()?,
        echo: options.echo,
        hsts: options.hsts,
        has_admin_port: options.admin_listen.is_some(),
        api_key: options.api_key_file.as_deref().map(FileKey::read).transpose()?,
        node_name: options.node()?.unwrap_or_else(|| "uproar".to_owned()),
        ..Settings::default()
    })
}

/// The URL without a slash at the end. A path would lead nowhere, as the page uses absolute ones.
fn parse_origin(option: &str, text: &str) -> Result<String> {
    let url = parse_url(option, text)?;
    if text.trim_end_matches('/').len() != url.origin().len() {
        bail!("{option}: give only scheme, host and port, such as https://chat.example.org");
    }
    Ok(url.origin().to_owned())
}

/// Where people find the server, for links that a command prints: scheme, host and port, without a slash at the end.
/// `url`: what the command line of the command says.
///
/// # Errors
/// If a URL or an address is invalid.
pub(crate) fn address_for_users(options: &Options, url: Option<&str>) -> Result<String> {
    let given = url.map(|url| ("--url", url)).or(options.public_url.as_deref().map(|url| ("--public-url", url)));
    if let Some((option, url)) = given {
        return parse_origin(option, url);
    }
    let (plain, tls) = (options.addresses()?, options.tls_addresses()?);
    let tls = tls.first().map(|address| format!("https://{}", for_browser(*address)));
    let plain = plain.first().map(|address| format!("http://{}", for_browser(*address)));
    tls.or(plain).context("no address is known: name one with --url, such as https://chat.example.org")
}
