//! Whose tokens the server accepts besides its own: the options, and what they mean to the HTTP service.

use crate::config::Options;
use anyhow::{Result, anyhow, bail};
use uproar_http::{Issuers, Tokens, read_secret};

/// The longest key of `--auth-hmac-key-file`.
const HMAC_KEY_LIMIT_BYTES: usize = 4096;

/// What the options say about other systems. Nothing has been fetched.
pub(crate) struct Settings {
    /// The key that a backend shares with this server.
    hmac_key: Option<Vec<u8>>,
    username_claim: Option<String>,
}

impl Settings {
    /// Reads the options and the files that they name.
    ///
    /// # Errors
    /// If an option has no effect, or if a file can't be used.
    pub(crate) fn from_options(options: &Options) -> Result<Settings> {
        let hmac_key = options.auth_hmac_key_file.as_deref().map(|path| read_secret(path, HMAC_KEY_LIMIT_BYTES));
        let hmac_key = hmac_key.transpose().map_err(|error| anyhow!("--auth-hmac-key-file: {error}"))?;
        let username_claim = options.auth_username_claim.clone();
        if username_claim.is_some() && hmac_key.is_none() {
            bail!("--auth-username-claim has no effect without --auth-hmac-key-file; name the key with it");
        }
        let settings = Settings { hmac_key, username_claim };
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
        if let Some(claim) = &self.username_claim {
            issuers = issuers.with_username_claim(claim.clone());
        }
        Ok(issuers)
    }
}
