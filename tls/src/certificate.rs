//! The certificate and its key, from two files in PEM. They can be loaded again while sessions use the old pair.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use x509_cert::der::Decode;

/// The longest file that is read. A chain of a few certificates has some kilobytes.
const FILE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Why a certificate and its key can't be used. The text names the option and the file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{option}: can't read {}: {source}", path.display())]
    Unreadable { option: &'static str, path: PathBuf, source: io::Error },
    #[error("{option}: {} is not a file of at most 1 MiB", path.display())]
    NotAFile { option: &'static str, path: PathBuf },
    #[error(
        "--tls-cert: {} contains no certificate; it must hold the certificate and then its chain, in PEM \
         (-----BEGIN CERTIFICATE-----)",
        .0.display()
    )]
    NoCertificate(PathBuf),
    #[error("--tls-cert: {} is damaged: {reason}; copy it again from where it was issued", path.display())]
    DamagedCertificate { path: PathBuf, reason: String },
    #[error(
        "--tls-key: {} contains no private key; it must hold the key of the certificate, unencrypted, in PEM \
         (-----BEGIN PRIVATE KEY-----)",
        .0.display()
    )]
    NoKey(PathBuf),
    #[error(
        "--tls-key: the key in {} can't be used: {reason}; use an RSA, ECDSA (P-256, P-384) or Ed25519 key",
        path.display()
    )]
    UnusableKey { path: PathBuf, reason: String },
    #[error(
        "--tls-key: the key in {} does not belong to the certificate in {}; name the key that it was issued for, or \
         put the certificate before its chain",
        key.display(), certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
}

/// The pair of files, and what was last loaded from them.
#[derive(Debug)]
pub struct Certificate {
    certificate_path: PathBuf,
    key_path: PathBuf,
    current: RwLock<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    expires_unix_s: u64,
    versions: Versions,
}

/// What distinguishes two versions of the files, without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions([Option<Version>; 2]);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Also changes with the owner and the mode, so that a file which could not be read is tried again.
    changed: (i64, i64),
}

impl Versions {
    fn of(certificate: &Path, key: &Path) -> Versions {
        Versions([certificate, key].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some(Version {
                inode: file.ino(),
                bytes: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            })
        }))
    }
}

impl Certificate {
    /// Loads the pair.
    ///
    /// # Errors
    /// If one of the files can't be read or used, or they don't belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Certificate, CertificateError> {
        let current = RwLock::new(load(certificate, key)?);
        Ok(Certificate { certificate_path: certificate.to_owned(), key_path: key.to_owned(), current })
    }

    /// Loads the files again. New sessions use the new pair; those that exist keep the old one.
    ///
    /// # Errors
    /// As for [`Certificate::load`]. The pair loaded before then stays in use.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let loaded = load(&self.certificate_path, &self.key_path)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// When the certificate expires, in seconds since the Unix epoch.
    pub fn expires_unix_s(&self) -> u64 {
        self.loaded().expires_unix_s
    }

    /// The present versions of the files. They change when one of the files is written or replaced.
    pub fn versions(&self) -> Versions {
        Versions::of(&self.certificate_path, &self.key_path)
    }

    /// The versions that are in use.
    pub fn loaded_versions(&self) -> Versions {
        self.loaded().versions
    }

    fn loaded(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.loaded().key)
    }
}

fn load(certificate_path: &Path, key_path: &Path) -> Result<Loaded, CertificateError> {
    // Before the files are read, so that a change in the meantime is noticed.
    let versions = Versions::of(certificate_path, key_path);
    let chain = read("--tls-cert", certificate_path)?;
    let damaged = |reason: String| CertificateError::DamagedCertificate { path: certificate_path.to_owned(), reason };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))?;
    let first = chain.first().ok_or_else(|| CertificateError::NoCertificate(certificate_path.to_owned()))?;
    let parsed = x509_cert::Certificate::from_der(first).map_err(|error| damaged(error.to_string()))?;
    let expires_unix_s = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();

    let key = read("--tls-key", key_path)?;
    let unusable = |reason: String| CertificateError::UnusableKey { path: key_path.to_owned(), reason };
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey(key_path.to_owned()),
        error => unusable(error.to_string()),
    })?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::Mismatch { certificate: certificate_path.to_owned(), key: key_path.to_owned() }
        }
        rustls::Error::InvalidCertificate(error) => damaged(format!("{error:?}")),
        error => unusable(error.to_string()),
    })?;
    Ok(Loaded { key: Arc::new(key), expires_unix_s, versions })
}

/// Reads a file. Opening a named pipe would wait until something writes to it.
fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { option, path: path.to_owned(), source };
    let file = fs::metadata(path).map_err(unreadable)?;
    if !file.is_file() || file.len() > FILE_LIMIT_BYTES {
        return Err(CertificateError::NotAFile { option, path: path.to_owned() });
    }
    fs::read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;
    use tempfile::TempDir;

    /// A folder with `cert.pem` and `key.pem`.
    fn folder() -> (TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let (certificate, key) = pair(2100);
        fs::write(&paths[0], certificate).unwrap();
        fs::write(&paths[1], key).unwrap();
        let [certificate, key] = paths;
        (folder, certificate, key)
    }

    /// A certificate that expires at the beginning of this year, and its key, in PEM.
    fn pair(expires: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(expires, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_loaded_with_its_time_of_expiry() {
        let (_folder, certificate, key) = folder();
        let loaded = Certificate::load(&certificate, &key).unwrap();
        assert_eq!(loaded.expires_unix_s(), 4_102_444_800, "the beginning of 2100");
    }

    #[test]
    fn errors_name_the_option_the_file_and_what_to_do() {
        let (folder, certificate, key) = folder();
        let load = || Certificate::load(&certificate, &key).unwrap_err().to_string();
        let (good_certificate, good_key) = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
        let (_, other_key) = pair(2100);

        fs::write(&key, &other_key).unwrap();
        let error = load();
        assert!(error.starts_with("--tls-key: the key in ") && error.contains("does not belong"), "{error}");
        fs::write(&key, &good_certificate).unwrap();
        assert!(load().contains("contains no private key; it must hold"));
        fs::write(&key, &good_key).unwrap();
        fs::write(&certificate, &good_key).unwrap();
        assert!(load().starts_with("--tls-cert: ") && load().contains("contains no certificate"));
        let text = String::from_utf8(good_certificate).unwrap();
        fs::write(&certificate, &text[..text.len() / 2]).unwrap();
        assert!(load().contains("is damaged"), "{}", load());
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(&certificate, junk).unwrap();
        assert!(load().contains("is damaged"), "{}", load());
        fs::remove_file(&certificate).unwrap();
        assert!(load().starts_with("--tls-cert: can't read "));
        let error = Certificate::load(folder.path(), &key).unwrap_err().to_string();
        assert!(error.ends_with("is not a file of at most 1 MiB"), "{error}");
    }

    /// Regression: a key that could not be read was not tried again when it could be.
    #[test]
    fn a_change_of_the_mode_makes_a_new_version() {
        let (_folder, certificate, key) = folder();
        let before = Certificate::load(&certificate, &key).unwrap().loaded_versions();
        // The kernel's clock of files is coarse.
        let has_changed = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
            Versions::of(&certificate, &key) != before
        });
        assert!(has_changed);
    }

    #[test]
    fn a_bad_pair_leaves_the_old_one_in_use() {
        let (_folder, certificate, key) = folder();
        let loaded = Certificate::load(&certificate, &key).unwrap();
        let (versions, before) = (loaded.versions(), loaded.expires_unix_s());
        let (new_certificate, new_key) = pair(2200);
        fs::write(&certificate, new_certificate).unwrap();
        assert_ne!(loaded.versions(), versions);
        assert!(matches!(loaded.reload(), Err(CertificateError::Mismatch { .. })));
        assert_eq!(loaded.expires_unix_s(), before);
        fs::write(&key, new_key).unwrap();
        loaded.reload().unwrap();
        assert!(loaded.expires_unix_s() > before);
    }
}
