//! Files with secrets, which nobody else may read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a file with a secret can't be used. Each message is one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("can't read {path}: {error}", path = path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("other users can access {path} (mode {mode:04o}); run `chmod 600 {path}`", path = path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{path} is longer than {limit_bytes} bytes, so it is surely another file", path = path.display())]
    TooLong { path: PathBuf, limit_bytes: usize },
}

/// Reads a secret, without the line end that editors and tools add to a text.
///
/// # Errors
/// If it can't be read, if others can, or if it is longer than `limit_bytes`.
pub fn read_secret(path: &Path, limit_bytes: usize) -> Result<Vec<u8>, PrivateFileError> {
    let unreadable = |error: io::Error| PrivateFileError::Unreadable { path: path.to_owned(), error };
    // Checked before the file is opened: opening a named pipe would block until something writes to it.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    // Containers mount secrets read-only, with modes that nobody can change there.
    let is_ours = || std::fs::set_permissions(path, metadata.permissions()).is_ok();
    if mode & 0o022 != 0 || mode & 0o055 != 0 && is_ours() {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode });
    }
    let mut secret = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit_bytes as u64 + 1).read_to_end(&mut secret).map_err(unreadable)?;
    if secret.len() > limit_bytes {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), limit_bytes });
    }
    // In a secret of random bytes, the last one may look like a line end.
    if secret.trim_ascii().iter().all(u8::is_ascii_graphic) {
        secret.truncate(secret.trim_ascii_end().len());
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn only_a_file_of_ones_own_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(read_secret(&path, 9).unwrap_err().to_string().starts_with("can't read /"));
        fs::write(&path, "12345678\n").unwrap();
        for mode in [0o644, 0o620, 0o602, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_secret(&path, 9).unwrap_err().to_string();
            assert!(error.contains(&format!("(mode {mode:04o}); run `chmod 600 /")), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_secret(&path, 9).unwrap(), b"12345678");
        assert!(read_secret(&path, 8).unwrap_err().to_string().contains("is longer than 8 bytes"));
        assert!(read_secret(folder.path(), 8).unwrap_err().to_string().ends_with("is not a regular file"));
    }
}
