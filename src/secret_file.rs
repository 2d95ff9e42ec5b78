//! Files with secrets. Other users of the machine must not be able to read them.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reads a file with a secret, of at most this many bytes.
///
/// # Errors
/// If it can't be read, is no regular file, is too long, or if others can access it. The text names the file.
pub fn read(path: &Path, limit_bytes: usize) -> Result<Vec<u8>> {
    let shown = path.display();
    // Checked before the file is opened: opening a named pipe would block until something writes to it.
    let metadata = std::fs::metadata(path).with_context(|| format!("can't read {shown}"))?;
    if !metadata.is_file() {
        bail!("{shown} is not a regular file");
    }
    let mode = metadata.permissions().mode() & 0o777;
    // Containers mount secrets read-only, with modes that nobody can change there.
    let is_ours = || std::fs::set_permissions(path, metadata.permissions()).is_ok();
    if mode & 0o022 != 0 || mode & 0o055 != 0 && is_ours() {
        bail!("other users can access {shown} (mode {mode:04o}); run `chmod 600 {shown}`");
    }
    let mut secret = Vec::new();
    let file = File::open(path).with_context(|| format!("can't read {shown}"))?;
    file.take(limit_bytes as u64 + 1).read_to_end(&mut secret).with_context(|| format!("can't read {shown}"))?;
    if secret.len() > limit_bytes {
        bail!("{shown} has more than {limit_bytes} bytes");
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
        assert!(read(&path, 9).unwrap_err().to_string().starts_with("can't read /"));
        fs::write(&path, "123456789").unwrap();
        for mode in [0o644, 0o620, 0o602, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path, 9).unwrap_err().to_string();
            assert!(error.contains(&format!("(mode {mode:04o}); run `chmod 600 /")), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path, 9).unwrap(), b"123456789");
        assert!(read(&path, 8).unwrap_err().to_string().ends_with("has more than 8 bytes"));
        assert!(read(folder.path(), 8).unwrap_err().to_string().ends_with("is not a regular file"));
    }
}
