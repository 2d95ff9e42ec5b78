//! Signatures as Standard Webhooks has them: <https://github.com/standard-webhooks/standard-webhooks>.

use anyhow::{Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use std::fmt;
use std::path::Path;
use uproar_http::read_secret;

/// Lengths of a key that the specification recommends.
const KEY_MIN_BYTES: usize = 24;
const KEY_LIMIT_BYTES: usize = 64;
const PREFIX: &str = "whsec_";
/// Secrets in one file: while receivers change to a new one, each POST is signed with both.
const SECRETS_LIMIT: usize = 4;
const FILE_LIMIT_BYTES: usize = 1024;

/// The key that a receiver shares. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads the secrets in a file, one a line.
    ///
    /// # Errors
    /// If others can read the file, or a line is no secret. No error contains what is in the file.
    pub fn read_file(path: &Path) -> Result<Vec<Secret>> {
        let bytes = read_secret(path, FILE_LIMIT_BYTES)?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Option<Vec<Secret>> = lines.map(Secret::parse).collect();
        match secrets {
            Some(secrets) if (1..=SECRETS_LIMIT).contains(&secrets.len()) => Ok(secrets),
            _ => bail!(
                "{} must contain 1 to {SECRETS_LIMIT} lines of the form whsec_BASE64, of {KEY_MIN_BYTES} to \
                 {KEY_LIMIT_BYTES} bytes each; `echo whsec_$(openssl rand -base64 32)` makes one",
                path.display()
            ),
        }
    }

    fn parse(line: &str) -> Option<Secret> {
        let key = STANDARD.decode(line.strip_prefix(PREFIX)?).ok()?;
        (KEY_MIN_BYTES..=KEY_LIMIT_BYTES).contains(&key.len()).then_some(Secret(key))
    }

    fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// The header `webhook-signature`: one signature for each secret. `timestamp`: Unix seconds.
pub fn signatures(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// From the specification's own test vectors.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_file_has_a_secret_in_each_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            Secret::read_file(file.path())
        };
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(read(&format!("{secret}\n")).unwrap().len(), 1);
        let secrets = read(&format!("{secret}\r\n\n {secret} ")).unwrap();
        assert_eq!(signatures(&secrets, "a", 1, b"b").split(' ').count(), 2);
        assert_eq!(format!("{secrets:?}"), "[Secret, Secret]");
        for text in ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_%", &format!("{secret}\nother")] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("must contain 1 to 4 lines of the form whsec_BASE64"), "{error}");
            assert!(!error.contains(secret) && !error.contains("c2hvcnQ"), "{error}");
        }
    }
}
