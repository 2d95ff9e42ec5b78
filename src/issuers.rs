//! Whose tokens the server accepts besides its own: the options, and the task that fetches an identity provider's keys.

use crate::config::Options;
use crate::outgoing::{Bounds, Client, Url};
use anyhow::{Result, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;
use uproar_http::{Fetch, Issuers, KeyLocation, Provider, SharedFetch, Tokens, keep_keys, read_secret};
use uproar_model::Clock;

/// The longest key of `--auth-hmac-key-file`.
const HMAC_KEY_LIMIT_BYTES: usize = 4096;

/// How long a provider may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the options say about other systems. Nothing has been fetched. A clone shares the keys.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// The key that a backend shares with this server.
    hmac_key: Option<Vec<u8>>,
    provider: Option<Trusted>,
    username_claim: Option<String>,
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
        let username_claim = options.auth_username_claim.clone();
        if username_claim.is_some() && hmac_key.is_none() && provider.is_none() {
            bail!("--auth-username-claim has no effect without --auth-issuer or --auth-hmac-key-file; set one of them");
        }
        let settings = Settings { hmac_key, provider, username_claim };
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

    /// Fetches the provider's keys once, if there is a provider, and returns its URL and how many keys it has.
    pub(crate) async fn reach_provider(&self, client: Client) -> Option<(String, Result<usize>)> {
        let Trusted { provider, location, .. } = self.provider.as_ref()?;
        let client: SharedFetch = Arc::new(client);
        let fetched = provider.fetch(location, &client, &Clock::of_machine()).await;
        Some((provider.issuer().to_owned(), fetched.map_err(|error| anyhow!(error))))
    }

    /// Keeps the provider's keys up to date, if there is a provider. `interval`: the shortest time between two fetches
    /// because of unknown keys. Runs until it is dropped.
    pub(crate) async fn keep_keys(self, client: Client, clock: Clock, interval: Duration) {
        match self.provider {
            Some(Trusted { provider, location, .. }) => {
                keep_keys(provider, location, Arc::new(client), clock, interval).await;
            }
            None => std::future::pending().await,
        }
    }
}

impl Trusted {
    fn from_options(options: &Options) -> Result<Option<Trusted>> {
        let require_url = |option: &str, text: &str| match Url::parse(text) {
            Ok(_) => Ok(()),
            Err(error) => Err(anyhow!("{option}: the value {error}")),
        };
        let Some(issuer) = &options.auth_issuer else {
            let others = [("--auth-jwks", &options.auth_jwks), ("--auth-audience", &options.auth_audience)];
            return match others.into_iter().find(|(_, value)| value.is_some()) {
                Some((option, _)) => bail!(
                    "{option} has no effect without --auth-issuer; name the provider as in the claim `iss` of its tokens"
                ),
                None => Ok(None),
            };
        };
        require_url("--auth-issuer", issuer)?;
        let location = match &options.auth_jwks {
            Some(url) => {
                require_url("--auth-jwks", url)?;
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
    async fn get(&self, url: &str, limit_bytes: usize) -> Result<Vec<u8>, String> {
        let shown = url.escape_debug();
        let url = Url::parse(url).map_err(|error| format!("'{shown}' {error}"))?;
        let bounds = Bounds { timeout: TIMEOUT, body_limit_bytes: limit_bytes };
        let answer = self.get_json(&url, bounds).await.map_err(|error| format!("{shown}: {error}"))?;
        if !answer.status.is_success() {
            return Err(format!("{shown}: the answer is {}", answer.status));
        }
        let body = answer.body.ok_or_else(|| format!("{shown}: the answer is incomplete or has over {limit_bytes} bytes"))?;
        Ok(body.to_vec())
    }
}
