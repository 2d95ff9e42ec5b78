//! What the operator decides about the service.

use crate::addresses::Network;
use crate::api::FileKey;
use crate::assets::{EMBEDDED, File};
use crate::issuers::{Provider, SharedFetch};
use crate::origins::{EmbedOrigins, Origins};
use crate::passwords::PasswordCost;
use std::fmt;
use std::sync::Arc;
use uproar_core::limits::Limits;

/// How users sign in with an identity provider.
#[derive(Clone)]
pub struct OidcSettings {
    pub provider: Arc<Provider>,
    pub client: SharedFetch,
    pub client_id: String,
    /// `None`: a public client, for which PKCE is enough.
    pub client_secret: Option<String>,
    /// What the page calls the provider.
    pub name: String,
    /// The public URL of this server, as in [`Settings`]: where the provider sends users back to.
    pub public_url: String,
}

impl fmt::Debug for OidcSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OidcSettings { client_id, name, public_url, .. } = self;
        f.debug_struct("OidcSettings")
            .field("client_id", client_id)
            .field("name", name)
            .field("public_url", public_url)
            .finish_non_exhaustive()
    }
}

/// Who may create an account with a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignUp {
    /// Everybody.
    Open,
    /// Those who have an invite.
    Invite,
    /// Nobody: the operator creates the accounts.
    Closed,
}

/// How the service runs. The default is that of a server started without options.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// The origins, besides the server's own, whose pages may use the API from a browser.
    pub origins: Origins,
    /// The origins whose pages may show a room in a frame.
    pub embed_origins: EmbedOrigins,
    pub password_cost: PasswordCost,
    /// Whether users sign in, and up, with a password.
    pub password_sign_in: bool,
    pub sign_up: SignUp,
    /// How users sign in on the page with an identity provider.
    pub oidc: Option<OidcSettings>,
    /// Where users find this server: scheme, host and port, without a slash at the end. `None`: where a request says
    /// that it was sent to.
    pub public_url: Option<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether `/metrics`, and the reasons in `/readyz`, are also given on the main port, to anyone.
    pub public_metrics: bool,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted.
    pub trusted_proxies: Vec<Network>,
    /// Whether browsers are told to use HTTPS from now on (`Strict-Transport-Security`).
    pub hsts: bool,
    /// Whether there is a port for operators. It alone then serves the server API.
    pub has_admin_port: bool,
    /// The key of the server API that is in a file.
    pub api_key: Option<FileKey>,
    /// The system by whose ids keys of the server API may name users.
    pub subject_issuer: Option<String>,
    /// What this server is called among the nodes.
    pub node_name: String,
    /// The files of the web client. If empty, `GET /` explains how to build it.
    pub assets: &'static [File],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            origins: Origins::Own,
            embed_origins: EmbedOrigins::default(),
            password_cost: PasswordCost::default(),
            password_sign_in: true,
            sign_up: SignUp::Open,
            oidc: None,
            public_url: None,
            echo: false,
            public_metrics: false,
            trusted_proxies: Vec::new(),
            hsts: false,
            has_admin_port: false,
            api_key: None,
            subject_issuer: None,
            node_name: "uproar".to_owned(),
            assets: EMBEDDED,
        }
    }
}
