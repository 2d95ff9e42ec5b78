//! What is kept for each certificate authority, in `acme/AUTHORITY` in the data folder: the account and the certificate
//! with its key. Only the server's user can read it.

use super::Settings;
use anyhow::{Context, Result};
use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, read, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uproar_tls::Pair;

/// The folder in the data folder.
const FOLDER: &str = "acme";
const ACCOUNT_FILE: &str = "account.json";
/// The key, and then the certificate with its chain: one file, so that both are replaced at once.
const CERTIFICATE_FILE: &str = "certificate.pem";

/// The account with an authority.
#[derive(Deserialize, Serialize)]
pub(super) struct StoredAccount {
    /// The address that the authority knows.
    pub(super) email: Option<String>,
    pub(super) credentials: AccountCredentials,
}

/// The files for one authority.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    pub fn new(data: &Path, settings: &Settings) -> Files {
        Files { folder: data.join(FOLDER).join(settings.authority()) }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join(CERTIFICATE_FILE)
    }

    /// The stored certificate, if there is one.
    ///
    /// # Errors
    /// If it can't be read or used.
    pub fn certificate(&self) -> Result<Option<Pair>> {
        let path = self.certificate_path();
        let Some(text) = self.read(CERTIFICATE_FILE)? else { return Ok(None) };
        let pair = Pair::from_pem(&text, &text);
        pair.map(Some).with_context(|| format!("the stored certificate {} can't be used", path.display()))
    }

    pub(super) fn store_certificate(&self, chain: &str, key: &str) -> Result<()> {
        self.write(CERTIFICATE_FILE, format!("{}\n{}\n", key.trim_end(), chain.trim_end()).as_bytes())
    }

    pub(super) fn account(&self) -> Result<Option<StoredAccount>> {
        let Some(text) = self.read(ACCOUNT_FILE)? else { return Ok(None) };
        let path = self.folder.join(ACCOUNT_FILE);
        let account = serde_json::from_slice(&text);
        account.map(Some).with_context(|| format!("{} is damaged; remove it to get a new account", path.display()))
    }

    pub(super) fn store_account(&self, account: &StoredAccount) -> Result<()> {
        self.write(ACCOUNT_FILE, &serde_json::to_vec(account)?)
    }

    pub(super) fn forget_account(&self) -> Result<()> {
        let path = self.folder.join(ACCOUNT_FILE);
        match remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(name);
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// Replaces a file. After a power cut, it is either the old one or the new one, whole.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let write = || -> io::Result<()> {
            self.create_folder()?;
            let temporary = path.with_extension("new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| format!("can't write {}", path.display()))
    }

    fn create_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // Each folder's entry is in the one above it.
        self.folder.ancestors().skip(1).take(2).try_for_each(|folder| File::open(folder)?.sync_all())
    }
}
