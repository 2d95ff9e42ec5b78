//! The folder in which a server keeps what is its own: the SQLite file, keys, and the lock that says whose it is.

use crate::OpenError;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The lock file is also the mark of a data folder: it is the first thing made there and never removed.
const LOCK_FILE: &str = "uproar.lock";
/// Holds the random word of the last start, which a database put back from a copy does not have; while that is being
/// changed, the next word and the one before, a line for each.
const INCARNATION_FILE: &str = "incarnation";

/// A data folder that no other process uses while this value lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: LockFile,
}

impl DataFolder {
    /// The name of the SQLite file that is used unless another database is asked for.
    pub const DATABASE_FILE: &str = "uproar.db";

    /// Takes the folder, making it (mode 0700) where it is missing; an empty one is adopted.
    /// An error where it holds something else, can't be written, or another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<DataFolder, OpenError> {
        let path = path.as_ref();
        let failed = |what: &str, error: io::Error| {
            OpenError(format!("can't {what} the data folder {}: {error}; give another with --data", path.display()))
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|error| failed("create", error))?;
            }
            Err(error) => return Err(failed("use", error)),
            Ok(_) => {}
        }
        let entries = fs::read_dir(path).map_err(|error| failed("read", error))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| failed("read", error))?.file_name());
        }
        // The root of a fresh ext4 volume is as good as empty.
        names.retain(|name| name != "lost+found");
        if !names.is_empty() && !names.iter().any(|name| name == LOCK_FILE) {
            return Err(OpenError(format!(
                "{} is not a data folder of uproar (it holds other files and no {LOCK_FILE}); give an empty or a new folder with --data",
                path.display()
            )));
        }
        if names.is_empty() {
            // Keys will be kept here. Who may not set the mode does not own the folder.
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| failed("take", error))?;
        }
        let lock = LockFile::take(&path.join(LOCK_FILE))?;
        let path = fs::canonicalize(path).map_err(|error| failed("use", error))?;
        Ok(DataFolder { path, _lock: lock })
    }

    /// The folder, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the SQLite file is unless another database is asked for.
    pub fn database_path(&self) -> PathBuf {
        self.path.join(DataFolder::DATABASE_FILE)
    }

    /// The words that the database may have if it is the one that the last start left.
    pub(crate) fn incarnation(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(self.path.join(INCARNATION_FILE)) {
            Ok(words) => Ok(words.split_whitespace().map(ToOwned::to_owned).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes the next start take the database for one that was put back from a copy.
    pub(crate) fn forget_incarnation(&self) -> Result<(), OpenError> {
        let path = self.path.join(INCARNATION_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(OpenError(format!("can't remove {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Where `incarnation` is kept, for who outlives the borrow of the folder.
    pub(crate) fn incarnation_path(&self) -> PathBuf {
        self.path.join(INCARNATION_FILE)
    }
}

/// Leaves a word that survives a power cut whole: either the old or the new is read later.
pub(crate) fn write_durably(path: &Path, word: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{word}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A file with an exclusive lock, which the kernel drops with the process however that ends.
#[derive(Debug)]
pub(crate) struct LockFile {
    _file: File,
}

impl LockFile {
    /// The lock that guards a file outside of our own data folder: that of the data folder in which it lies, for it is
    /// what a server there holds, else one of the file's own.
    pub fn take_for(file: &Path) -> Result<LockFile, OpenError> {
        let of_folder = file.with_file_name(LOCK_FILE);
        if of_folder.exists() {
            return LockFile::take(&of_folder);
        }
        let mut beside = file.to_path_buf().into_os_string();
        beside.push(".lock");
        LockFile::take(Path::new(&beside))
    }

    /// Takes the lock, making the file (mode 0600) where it is missing. It holds the process id of who has the lock.
    pub fn take(path: &Path) -> Result<LockFile, OpenError> {
        let failed = |error: io::Error| OpenError(format!("can't lock {}: {error}", path.display()));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim().parse::<u32>().map_or(String::new(), |id| format!(" (process {id})"));
                let place = path.parent().unwrap_or(path).display();
                return Err(OpenError(format!(
                    "another uproar{holder} uses {place}; stop it, or give this one a place of its own"
                )));
            }
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(LockFile { _file: file })
    }
}
