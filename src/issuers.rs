//! Whose tokens the server accepts besides its own: the options, and the task that fetches an identity provider's keys.

use crate::config::Options;
use crate::outgoing::{Bounds, Client, Url};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use uproar_http::{
    Fetch, FetchRequest, Fetched, Issuers, KeyLocation, OidcSettings, Provider, SharedFetch, Tokens, keep_keys,
    read_secret,
};
use uproar_model::{Clock, Identity};

/// The longest key of `--auth-hmac-key-file`.
const HMAC_KEY_LIMIT_BYTES: usize = 4096;

/// The longest secret of `--oidc-client-secret-file`.
const CLIENT_SECRET_LIMIT_BYTES: usize = 4096;

/// How long a provider may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the options say about other systems. Nothing has been fetched. A clone shares the keys.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// The key that a backend shares with this server.
    hmac_key: Option<Vec<u8>>,
    provider: Option<Trusted>,
    /// With which users sign in on the page.
    oidc: Option<Oidc>,
    username_claim: Option<String>,
}

/// An identity provider with which users sign in on the page.
#[derive(Clone)]
struct Oidc {
    provider: Arc<Provider>,
    client_id: String,
    client_secret: Option<String>,
    name: String,
}

/// An identity provider whose tokens are accepted.
#[derive(Clone)]
struct Trusted {
    provider: Arc<Provider>,
    location: KeyLocation,
    audience: String,
}

impl Settings {
    /// Reads the options and the files that they name.
    ///
    /// # Errors
    /// If an option has no effect, if a URL is none, or if a file can't be used.
    pub(crate) fn from_options(options: &Options) -> Result<Settings> {
        let hmac_key = options.auth_hmac_key_file.as_deref().map(|path| read_secret(path, HMAC_KEY_LIMIT_BYTES));
        let hmac_key = hmac_key.transpose().map_err(|error| anyhow!("--auth-hmac-key-file: {error}"))?;
        let provider = Trusted::from_options(options)?;
        let oidc = Oidc::from_options(options, provider.as_ref())?;
        let username_claim = options.auth_username_claim.clone();
        if username_claim.is_some() && hmac_key.is_none() && provider.is_none() {
            bail!("--auth-username-claim has no effect without --auth-issuer or --auth-hmac-key-file; set one of them");
        }
        let settings = Settings { hmac_key, provider, oidc, username_claim };
        settings.issuers()?;
        Ok(settings)
    }

    /// Fails if a backend would be given the key of the server's own tokens: it could then sign in as anybody.
    pub(crate) fn require_other_key(&self, tokens: &Tokens) -> Result<()> {
        let is_own = |key: &Vec<u8>| Tokens::from_key(key).is_ok_and(|other| other.key_id() == tokens.key_id());
        if self.hmac_key.as_ref().is_some_and(is_own) {
            bail!("--auth-hmac-key-file names the server's own signing key; use another key for your backend");
        }
        Ok(())
    }

    /// What verifies the tokens of these systems.
    pub(crate) fn issuers(&self) -> Result<Issuers> {
        let mut issuers = Issuers::new();
        if let Some(key) = &self.hmac_key {
            issuers = issuers.with_hmac_key(key).map_err(|error| anyhow!("--auth-hmac-key-file: {error}"))?;
        }
        if let Some(Trusted { provider, audience, .. }) = &self.provider {
            issuers = issuers.with_provider(Arc::clone(provider), audience.clone());
        }
        if let Some(claim) = &self.username_claim {
            issuers = issuers.with_username_claim(claim.clone());
        }
        Ok(issuers)
    }

    /// How users sign in on the page with an identity provider, if they do. `public_url`: where users find this server.
    pub(crate) fn oidc(&self, client: Client, public_url: String) -> Option<OidcSettings> {
        let Oidc { provider, client_id, client_secret, name } = self.oidc.clone()?;
        Some(OidcSettings { provider, client: Arc::new(client), client_id, client_secret, name, public_url })
    }

    /// The system whose ids of users the keys of the server API may use: the backend that shares a key, else the
    /// provider whose tokens are accepted, else the one with which users sign in on the page.
    pub(crate) fn subject_issuer(&self) -> Option<String> {
        let issuer = |provider: &Arc<Provider>| provider.issuer().to_owned();
        self.hmac_key
            .as_ref()
            .map(|_| Identity::HMAC_ISSUER.to_owned())
            .or_else(|| self.provider.as_ref().map(|trusted| issuer(&trusted.provider)))
            .or_else(|| self.oidc.as_ref().map(|oidc| issuer(&oidc.provider)))
    }

    /// The providers, each one once, and where their keys are.
    fn providers(&self) -> Vec<(Arc<Provider>, KeyLocation)> {
        let trusted = self.provider.as_ref().map(|trusted| (Arc::clone(&trusted.provider), trusted.location.clone()));
        let oidc = self.oidc.as_ref().map(|oidc| (Arc::clone(&oidc.provider), KeyLocation::Discovered));
        let is_other = |(provider, _): &(Arc<Provider>, _)| {
            trusted.as_ref().is_none_or(|(trusted, _)| !Arc::ptr_eq(trusted, provider))
        };
        let oidc = oidc.filter(is_other);
        trusted.into_iter().chain(oidc).collect()
    }

    /// Fetches the keys of the providers once. Returns the URL of each and how many keys it has.
    pub(crate) async fn reach_providers(&self, client: Client) -> Vec<(String, Result<usize>)> {
        let client: SharedFetch = Arc::new(client);
        let mut reached = Vec::new();
        for (provider, location) in self.providers() {
            let fetched = provider.fetch(&location, &client, &Clock::of_machine()).await;
            reached.push((provider.issuer().to_owned(), fetched.map_err(|error| anyhow!(error))));
        }
        reached
    }

    /// Keeps the keys of the providers up to date. `interval`: the shortest time between two fetches because of unknown
    /// keys. Runs until it is dropped.
    pub(crate) async fn keep_keys(self, client: Client, clock: Clock, interval: Duration) {
        let client: SharedFetch = Arc::new(client);
        let mut tasks = JoinSet::new();
        for (provider, location) in self.providers() {
            tasks.spawn(keep_keys(provider, location, Arc::clone(&client), clock.clone(), interval));
        }
        match tasks.join_next().await {
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

pub(crate) fn parse_url(option: &str, text: &str) -> Result<Url> {
    Url::parse(text).map_err(|error| anyhow!("{option}: the value {error}"))
}

impl Oidc {
    /// `trusted`: the provider whose tokens are accepted. If it is the same one, its keys are fetched only once.
    fn from_options(options: &Options, trusted: Option<&Trusted>) -> Result<Option<Oidc>> {
        let Some(issuer) = &options.oidc_issuer else {
            let others = [
                ("--oidc-client-id", options.oidc_client_id.is_some()),
                ("--oidc-client-secret-file", options.oidc_client_secret_file.is_some()),
                ("--oidc-name", options.oidc_name.is_some()),
            ];
            return match others.into_iter().find(|(_, is_set)| *is_set) {
                Some((option, _)) => bail!("{option} has no effect without --oidc-issuer; name the provider with it"),
                None => Ok(None),
            };
        };
        let url = parse_url("--oidc-issuer", issuer)?;
        let Some(client_id) = options.oidc_client_id.clone().filter(|id| !id.is_empty()) else {
            bail!("--oidc-issuer needs --oidc-client-id: what the provider calls this server");
        };
        if options.public_url.is_none() {
            bail!("--oidc-issuer needs --public-url: where the provider sends users back to");
        }
        let secret = options.oidc_client_secret_file.as_deref();
        let secret = secret.map(|path| read_secret(path, CLIENT_SECRET_LIMIT_BYTES)).transpose();
        let secret = secret.map_err(|error| anyhow!("--oidc-client-secret-file: {error}"))?;
        let client_secret = secret.map(String::from_utf8).transpose();
        let provider = match trusted {
            Some(Trusted { provider, location: KeyLocation::Discovered, .. }) if provider.issuer() == issuer => {
                Arc::clone(provider)
            }
            _ => Arc::new(Provider::new(issuer.clone())),
        };
        Ok(Some(Oidc {
            provider,
            client_id,
            client_secret: client_secret.context("--oidc-client-secret-file: the secret is not a text")?,
            name: options.oidc_name.clone().unwrap_or_else(|| host_of(&url)),
        }))
    }
}

/// The host in a URL.
fn host_of(url: &Url) -> String {
    let authority = url.origin().split("://").nth(1).unwrap_or_default();
    authority.to_owned()
}

impl Trusted {
    fn from_options(options: &Options) -> Result<Option<Trusted>> {
        let Some(issuer) = &options.auth_issuer else {
            let others = [("--auth-jwks", &options.auth_jwks), ("--auth-audience", &options.auth_audience)];
            return match others.into_iter().find(|(_, value)| value.is_some()) {
                Some((option, _)) => {
                    bail!("{option} has no effect without --auth-issuer; name the provider as its tokens do in `iss`")
                }
                None => Ok(None),
            };
        };
        parse_url("--auth-issuer", issuer)?;
        let location = match &options.auth_jwks {
            Some(url) => {
                parse_url("--auth-jwks", url)?;
                KeyLocation::Url(url.clone())
            }
            None => KeyLocation::Discovered,
        };
        // Otherwise every application of the provider could use its users' tokens here.
        let Some(audience) = options.auth_audience.clone().filter(|audience| !audience.is_empty()) else {
            bail!("--auth-issuer needs --auth-audience: what the tokens for this server have in their claim `aud`");
        };
        Ok(Some(Trusted { provider: Arc::new(Provider::new(issuer.clone())), location, audience }))
    }
}

#[async_trait::async_trait]
impl Fetch for Client {
    async fn send(&self, request: FetchRequest<'_>) -> Result<Fetched, String> {
        let FetchRequest { url, authorization, form, limit_bytes } = request;
        let shown = url.escape_debug();
        let url = Url::parse(url).map_err(|error| format!("'{shown}' {error}"))?;
        let bounds = Bounds { timeout: TIMEOUT, body_limit_bytes: limit_bytes };
        let mut headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|error| format!("{shown}: {error}"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let (method, body) = match form {
            None => (Method::GET, Bytes::new()),
            Some(form) => {
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, kind);
                (Method::POST, form.into())
            }
        };
        let answer = Client::send(self, method, &url, headers, body, bounds).await;
        let answer = answer.map_err(|error| format!("{shown}: {error}"))?;
        let incomplete = || format!("{shown}: the answer is incomplete or has over {limit_bytes} bytes");
        let body = answer.body.ok_or_else(incomplete)?;
        Ok(Fetched { status: answer.status.as_u16(), body: body.to_vec() })
    }
}
