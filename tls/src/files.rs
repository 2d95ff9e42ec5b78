//! The two files, in PEM, that hold a certificate and its key. They may be replaced while the server runs.

use crate::pair::{Pair, PairError};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest file that is read. A chain of a few certificates has some kilobytes.
const FILE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Why a certificate and its key can't be used. The text names the option and the file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
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

/// The paths of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and then its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
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

impl Files {
    /// Reads both files.
    ///
    /// # Errors
    /// If one of them can't be read or used, or they don't belong together.
    pub fn load(&self) -> Result<Pair, FilesError> {
        let Files { certificate, key } = self;
        let pair = Pair::from_pem(&read("--tls-cert", certificate)?, &read("--tls-key", key)?);
        pair.map_err(|error| match error {
            PairError::NoCertificate => FilesError::NoCertificate(certificate.clone()),
            PairError::DamagedCertificate(reason) => {
                FilesError::DamagedCertificate { path: certificate.clone(), reason }
            }
            PairError::NoKey => FilesError::NoKey(key.clone()),
            PairError::UnusableKey(reason) => FilesError::UnusableKey { path: key.clone(), reason },
            PairError::Mismatch => FilesError::Mismatch { certificate: certificate.clone(), key: key.clone() },
        })
    }

    /// The present versions of the files. They change when one of the files is written or replaced.
    pub fn versions(&self) -> Versions {
        Versions([&self.certificate, &self.key].map(|path| {
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

/// Reads a file. Opening a named pipe would wait until something writes to it.
fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, FilesError> {
    let unreadable = |source| FilesError::Unreadable { option, path: path.to_owned(), source };
    let file = fs::metadata(path).map_err(unreadable)?;
    if !file.is_file() || file.len() > FILE_LIMIT_BYTES {
        return Err(FilesError::NotAFile { option, path: path.to_owned() });
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
    fn folder() -> (TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let files = Files { certificate, key };
        let (certificate, key) = pair(2100);
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
        (folder, files)
    }

    /// A certificate that expires at the beginning of this year, and its key, in PEM.
    fn pair(expires: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "Chat.example.org".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(expires, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_loaded_with_its_times_and_domains() {
        let (_folder, files) = folder();
        let pair = files.load().unwrap();
        assert_eq!(pair.valid_from_unix_s(), 946_684_800, "the beginning of 2000");
        assert_eq!(pair.expires_unix_s(), 4_102_444_800, "the beginning of 2100");
        assert_eq!(pair.domains(), ["localhost", "chat.example.org"]);
    }

    #[test]
    fn errors_name_the_option_the_file_and_what_to_do() {
        let (folder, files) = folder();
        let Files { certificate, key } = &files;
        let load = || files.load().unwrap_err().to_string();
        let (good_certificate, good_key) = (fs::read(certificate).unwrap(), fs::read(key).unwrap());
        let (_, other_key) = pair(2100);

        fs::write(key, &other_key).unwrap();
        let error = load();
        assert!(error.starts_with("--tls-key: the key in ") && error.contains("does not belong"), "{error}");
        fs::write(key, &good_certificate).unwrap();
        assert!(load().contains("contains no private key; it must hold"));
        fs::write(key, &good_key).unwrap();
        fs::write(certificate, &good_key).unwrap();
        assert!(load().starts_with("--tls-cert: ") && load().contains("contains no certificate"));
        let text = String::from_utf8(good_certificate).unwrap();
        fs::write(certificate, &text[..text.len() / 2]).unwrap();
        assert!(load().contains("is damaged"), "{}", load());
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(certificate, junk).unwrap();
        assert!(load().contains("is damaged"), "{}", load());
        fs::remove_file(certificate).unwrap();
        assert!(load().starts_with("--tls-cert: can't read "));
        let error = Files { certificate: folder.path().to_owned(), key: key.clone() }.load().unwrap_err().to_string();
        assert!(error.ends_with("is not a file of at most 1 MiB"), "{error}");
    }

    /// Regression: a key that could not be read was not tried again when it could be.
    #[test]
    fn a_change_of_the_mode_makes_a_new_version() {
        let (_folder, files) = folder();
        let before = files.versions();
        // The kernel's clock of files is coarse.
        let has_changed = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
            files.versions() != before
        });
        assert!(has_changed);
    }

    #[test]
    fn versions_change_with_each_file() {
        let (_folder, files) = folder();
        let first = files.versions();
        let (new_certificate, new_key) = pair(2200);
        fs::write(&files.certificate, new_certificate).unwrap();
        let second = files.versions();
        assert_ne!(first, second);
        fs::write(&files.key, new_key).unwrap();
        assert_ne!(files.versions(), second);
    }
}
