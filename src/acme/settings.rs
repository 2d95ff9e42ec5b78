//! What the options for ACME say, checked.

use anyhow::{Result, anyhow, bail};
use http::Uri;
use std::net::IpAddr;
use std::path::PathBuf;

/// The directory of Let's Encrypt.
pub const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// What a certificate is ordered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// In lower case, each one once; at least one.
    pub domains: Vec<String>,
    pub email: Option<String>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// Whom to trust with the directory's own certificate. None: the usual authorities.
    pub ca: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// If a domain, the address or the URL is invalid.
    pub fn new<'a>(
        domains: impl Iterator<Item = &'a str>,
        email: Option<&str>,
        directory: Option<&str>,
        ca: Option<PathBuf>,
    ) -> Result<Settings> {
        let mut checked: Vec<String> = Vec::new();
        for domain in domains {
            let domain = check_domain(domain)?;
            if !checked.contains(&domain) {
                checked.push(domain);
            }
        }
        if checked.is_empty() {
            bail!("--tls-acme: there is no domain; name one, such as chat.example.org");
        }
        let email = email.map(check_email).transpose()?;
        let directory = check_directory(directory.unwrap_or(DEFAULT_DIRECTORY))?;
        Ok(Settings { domains: checked, email, directory, ca })
    }

    /// A name for the directory that can be the name of a file.
    pub fn authority(&self) -> String {
        let name = self.directory.trim_start_matches("https://");
        name.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
    }
}

fn check_domain(text: &str) -> Result<String> {
    let shown = text.escape_debug();
    if text.starts_with("*.") {
        bail!(
            "--tls-acme: no certificate for all subdomains ({shown}) can be had in this way; name each domain, or get \
             a certificate elsewhere and name its files with --tls-cert and --tls-key"
        );
    }
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        bail!(
            "--tls-acme: {shown} is an address, and the certificate is for a domain; name the domain that leads here, \
             such as chat.example.org"
        );
    }
    if !text.is_ascii() {
        bail!("--tls-acme: write the domain {shown} in its ASCII form, which begins with xn--");
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if text.len() > 253 || !text.split('.').all(is_label) {
        bail!(
            "--tls-acme: '{shown}' is not a domain; name it without https://, port and path, such as chat.example.org"
        );
    }
    Ok(text.to_ascii_lowercase())
}

fn check_email(text: &str) -> Result<String> {
    let is_address = text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if !is_address || text.contains(|c: char| c.is_whitespace() || c.is_control() || "?,:".contains(c)) {
        bail!("--tls-acme-email: '{}' is not an e-mail address, such as ann@example.org", text.escape_debug());
    }
    Ok(text.to_owned())
}

fn check_directory(text: &str) -> Result<String> {
    let invalid = || {
        anyhow!(
            "--tls-acme-directory: '{}' is not the URL of a directory, such as {DEFAULT_DIRECTORY}",
            text.escape_debug()
        )
    };
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    if uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) || text.contains('@') {
        return Err(invalid());
    }
    Ok(uri.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(domain: &str) -> Result<Settings> {
        Settings::new([domain].into_iter(), None, None, None)
    }

    #[test]
    fn domains_are_put_into_their_usual_form() {
        let domains = ["Chat.Example.org", "chat.example.org", "xn--bcher-kva.example", "localhost"];
        let settings = Settings::new(domains.into_iter(), Some("ann@example.org"), None, None).unwrap();
        assert_eq!(settings.domains, ["chat.example.org", "xn--bcher-kva.example", "localhost"]);
        assert_eq!(settings.directory, DEFAULT_DIRECTORY);
        assert_eq!(settings.authority(), "acme-v02.api.letsencrypt.org_directory");
    }

    #[test]
    fn what_can_not_have_a_certificate_is_refused_with_a_remedy() {
        for (domain, remedy) in [
            ("*.example.org", "name each domain"),
            ("192.0.2.1", "name the domain that leads here"),
            ("2001:db8::1", "name the domain that leads here"),
            ("[2001:db8::1]", "name the domain that leads here"),
            ("bücher.example", "begins with xn--"),
            ("https://chat.example.org", "without https://, port and path"),
            ("chat.example.org:443", "without https://, port and path"),
            ("chat.example.org/", "without https://, port and path"),
            ("chat..example.org", "such as chat.example.org"),
            ("chat.example.org.", "such as chat.example.org"),
            ("-chat.example.org", "such as chat.example.org"),
            ("my_chat.example.org", "such as chat.example.org"),
            ("", "such as chat.example.org"),
            (&"a.".repeat(127), "such as chat.example.org"),
        ] {
            let error = settings(domain).unwrap_err().to_string();
            assert!(error.starts_with("--tls-acme: ") && error.contains(remedy), "{error}");
        }
        assert!(Settings::new([].into_iter(), None, None, None).unwrap_err().to_string().contains("no domain"));
    }

    #[test]
    fn address_and_directory_are_checked() {
        let new = |email, directory| Settings::new(["a.example"].into_iter(), email, directory, None);
        for email in ["ann", "@example.org", "ann@", "mailto:ann@example.org", "a@b.example, c@d.example"] {
            let error = new(Some(email), None).unwrap_err().to_string();
            assert!(error.starts_with("--tls-acme-email: "), "{error}");
        }
        for directory in ["http://ca.example/", "ca.example", "https://", "/dir", "https://a:b@ca.example/"] {
            let error = new(None, Some(directory)).unwrap_err().to_string();
            assert!(error.starts_with("--tls-acme-directory: "), "{error}");
        }
        let other = new(None, Some("https://ca.internal:9000/acme/acme/directory")).unwrap();
        assert_eq!(other.authority(), "ca.internal_9000_acme_acme_directory");
    }
}
