//! One order: from the account to the certificate.

use super::Settings;
use super::client::{Client, Unreachable};
use super::files::{Files, StoredAccount};
use crate::output;
use anyhow::{Context, anyhow};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use std::fmt::Write;
use std::time::Duration;
use uproar_tls::{Certificate, Pair};

/// How long an order may take in all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the authority may take to look at the challenges, and to issue the certificate.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(120));

const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
const ACCOUNT_UNKNOWN: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
/// How often an order begins anew because the authority has forgotten a nonce or the account.
const ATTEMPTS: usize = 3;

/// Why there is no certificate, in one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The authority could not be asked, so it has not counted this attempt.
    #[error("{0}")]
    Unreachable(String),
    /// The authority has refused, or something here is wrong.
    #[error("{0}")]
    Refused(String),
}

/// A failure, or a reason to begin anew.
enum Setback {
    Failure(Failure),
    BadNonce(String),
    UnknownAccount(String),
}

impl From<anyhow::Error> for Setback {
    fn from(error: anyhow::Error) -> Setback {
        Setback::Failure(Failure::Refused(output::one_line(&error)))
    }
}

impl From<Error> for Setback {
    fn from(error: Error) -> Setback {
        match error {
            Error::Api(problem) => {
                let text = describe(&problem);
                match problem.r#type.as_deref() {
                    Some(BAD_NONCE) => Setback::BadNonce(text),
                    Some(ACCOUNT_UNKNOWN) => Setback::UnknownAccount(text),
                    _ => Setback::Failure(Failure::Refused(text)),
                }
            }
            Error::Other(error) if error.is::<Unreachable>() => {
                Setback::Failure(Failure::Unreachable(error.to_string()))
            }
            Error::Json(error) => Setback::Failure(Failure::Refused(format!(
                "the authority's answer can't be understood ({error}); is --tls-acme-directory the URL of its \
                 directory?"
            ))),
            Error::Timeout(_) => {
                Setback::Failure(Failure::Refused("the authority takes too long to decide".to_owned()))
            }
            error => Setback::Failure(Failure::Refused(error.to_string())),
        }
    }
}

/// Gets a certificate and stores it. Challenges are answered by `certificate`.
pub(super) async fn obtain(settings: &Settings, files: &Files, certificate: &Certificate) -> Result<Pair, Failure> {
    /// Also when the task is dropped.
    struct EndChallenges<'a>(&'a Certificate);
    impl Drop for EndChallenges<'_> {
        fn drop(&mut self) {
            self.0.end_challenges();
        }
    }
    let _end = EndChallenges(certificate);
    match tokio::time::timeout(ORDER_TIMEOUT, attempts(settings, files, certificate)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Refused(format!("the order was not completed within {} s", ORDER_TIMEOUT.as_secs()))),
    }
}

async fn attempts(settings: &Settings, files: &Files, certificate: &Certificate) -> Result<Pair, Failure> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match attempt(settings, files, certificate).await {
            Ok(pair) => return Ok(pair),
            Err(Setback::Failure(failure)) => return Err(failure),
            Err(Setback::BadNonce(text)) => last = text,
            Err(Setback::UnknownAccount(text)) => {
                tracing::warn!("the certificate authority does not know the account any more; a new one is created");
                files.forget_account().map_err(|error| Failure::Refused(output::one_line(&error)))?;
                last = text;
            }
        }
    }
    Err(Failure::Refused(last))
}

async fn attempt(settings: &Settings, files: &Files, certificate: &Certificate) -> Result<Pair, Setback> {
    let account = open_account(settings, files).await?;
    let identifiers: Vec<Identifier> = settings.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    prove(&mut order, certificate).await?;
    if !matches!(order.state().status, OrderStatus::Ready | OrderStatus::Valid) {
        let status = order.poll_ready(&POLL).await;
        if !matches!(status, Ok(OrderStatus::Ready)) {
            // What went wrong is known of each challenge.
            if let Some(problems) = problems(&mut order).await {
                return Err(Setback::Failure(Failure::Refused(problems)));
            }
            let status = status?;
            return Err(anyhow!("the authority has not accepted the order, which is {status:?}").into());
        }
    }
    certificate.end_challenges();
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    let pair = Pair::from_pem(chain.as_bytes(), key.as_bytes());
    let pair = pair.context("the certificate that the authority has issued can't be used")?;
    if let Err(error) = files.store_certificate(&chain, &key) {
        // It has been issued, so it is used nevertheless.
        tracing::error!("{}; until the next start, the new certificate is used anyway", output::one_line(&error));
    }
    Ok(pair)
}

/// The stored account, or a new one.
async fn open_account(settings: &Settings, files: &Files) -> Result<Account, Setback> {
    let client = {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || Client::new(&settings)).await.context("a thread has failed")??
    };
    let builder = Account::builder_with_http(Box::new(client));
    let contact: Vec<String> = settings.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    if let Some(stored) = files.account()? {
        let account = builder.from_credentials(stored.credentials).await?;
        if stored.email != settings.email {
            account.update_contacts(&contact).await?;
            if let Some(stored) = files.account()? {
                files.store_account(&StoredAccount { email: settings.email.clone(), ..stored })?;
            }
        }
        return Ok(account);
    }
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, settings.directory.clone(), None).await?;
    files.store_account(&StoredAccount { email: settings.email.clone(), credentials })?;
    Ok(account)
}

/// Answers the challenges of the domains that are not proven yet.
async fn prove(order: &mut Order, certificate: &Certificate) -> Result<(), Setback> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => return Err(anyhow!("the authority offers no proof for a domain: {status:?}").into()),
        }
        let domain = authorization.identifier().to_string();
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .with_context(|| format!("the authority does not offer the challenge tls-alpn-01 for {domain}"))?;
        let digest = challenge.key_authorization().digest();
        let digest: [u8; 32] = digest.as_ref().try_into().context("a digest has the wrong length")?;
        certificate.add_challenge(&domain, digest).map_err(anyhow::Error::from)?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the authority says about the challenges that have failed.
async fn problems(order: &mut Order) -> Option<String> {
    let mut text = String::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let domain = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        for problem in state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{domain}: {}", describe(problem));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// A problem in one line, without control characters.
fn describe(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "it does not say why".to_owned());
    for part in &problem.subproblems {
        let _ = write!(text, "; {}", part.detail.as_deref().unwrap_or_default());
    }
    if let Some(kind) = &problem.r#type {
        let _ = write!(text, " ({})", kind.trim_start_matches("urn:ietf:params:acme:error:"));
    }
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
