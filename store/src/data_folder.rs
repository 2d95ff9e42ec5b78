//! The folder in which a server keeps its files: the SQLite database, keys, and the lock that keeps others out.

use crate::error::OpenError;
use crate::incarnation::IncarnationFile;
use crate::inspect::FolderState;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The lock file also marks a folder as a data folder: it is created there first and never removed.
const LOCK_FILE: &str = "uproar.lock";

/// A data folder. No other process can open it while this value lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    _lock: LockFile,
}

impl DataFolder {
    /// The name of the SQLite file that is used unless an option names another database.
    pub const DATABASE_FILE: &str = "uproar.db";
    /// The name of the file with the signing key, unless an option names another.
    pub const KEY_FILE: &str = "signing.key";

    /// Locks the folder. A missing one is created (mode 0700), and an empty one becomes a data folder. Fails if the
    /// folder holds other files, can't be written to, or is in use by another process.
    pub fn open(path: impl AsRef<Path>) -> Result<DataFolder, OpenError> {
        let path = path.as_ref();
        let failed = |what: &str, error: io::Error| failed(path, what, error);
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(|error| failed("create", error))?;
            }
            Err(error) => return Err(failed("use", error)),
            Ok(_) => {}
        }
        if is_empty(path)? {
            // Keys will be kept here. A process that can't set the mode does not own the folder.
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| failed("protect", error))?;
        }
        let lock = LockFile::take(&path.join(LOCK_FILE))?;
        let path = fs::canonicalize(path).map_err(|error| failed("use", error))?;
        Ok(DataFolder { path, _lock: lock })
    }

    /// What the folder is, without locking or changing it. Fails if it can't be used as a data folder.
    pub fn inspect(path: impl AsRef<Path>) -> Result<FolderState, OpenError> {
        let path = path.as_ref();
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(FolderState::New),
            Err(error) => return Err(failed(path, "use", error)),
            Ok(_) if is_empty(path)? => return Ok(FolderState::New),
            Ok(_) => {}
        }
        Ok(LockFile::holder(&path.join(LOCK_FILE))?.map_or(FolderState::Free, FolderState::InUse))
    }

    /// The folder, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the SQLite file that is used unless an option names another database.
    pub fn database_path(&self) -> PathBuf {
        self.path.join(DataFolder::DATABASE_FILE)
    }

    pub(crate) fn incarnation_file(&self) -> IncarnationFile {
        IncarnationFile::in_folder(&self.path)
    }
}

fn failed(path: &Path, what: &str, error: io::Error) -> OpenError {
    let path = path.display();
    OpenError::Lasting(format!("can't {what} the data folder {path}: {error}; name another folder with --data"))
}

/// Whether a folder is yet to become a data folder. Fails if it holds other files.
fn is_empty(path: &Path) -> Result<bool, OpenError> {
    let entries = fs::read_dir(path).map_err(|error| failed(path, "read", error))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(|error| failed(path, "read", error))?.file_name());
    }
    // The root of a new ext4 volume counts as empty, and so does a folder into which somebody has copied the signing
    // key of the other nodes.
    names.retain(|name| name != "lost+found" && name != DataFolder::KEY_FILE);
    if !names.is_empty() && !names.iter().any(|name| name == LOCK_FILE) {
        return Err(OpenError::Lasting(format!(
            "{} is not a data folder of uproar (it holds files, but no {LOCK_FILE}); \
             name a new or empty folder with --data",
            path.display()
        )));
    }
    Ok(names.is_empty())
}

/// A file with an exclusive lock. The kernel releases the lock when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct LockFile {
    _file: File,
}

impl LockFile {
    /// Locks a database file outside our own data folder. If the file lies in another data folder, this takes that
    /// folder's lock, which a server there holds; otherwise the file gets a lock of its own, `FILE.lock`.
    pub fn take_for(file: &Path) -> Result<LockFile, OpenError> {
        LockFile::take(&LockFile::path_for(file))
    }

    fn path_for(file: &Path) -> PathBuf {
        let folder_lock = file.with_file_name(LOCK_FILE);
        if folder_lock.exists() {
            return folder_lock;
        }
        let mut file_lock = file.to_path_buf().into_os_string();
        file_lock.push(".lock");
        PathBuf::from(file_lock)
    }

    /// Who has the lock that [`LockFile::take_for`] takes, such as "process 12". `None`: nobody.
    pub fn holder_for(file: &Path) -> Result<Option<String>, OpenError> {
        LockFile::holder(&LockFile::path_for(file))
    }

    /// Who has this lock.
    fn holder(path: &Path) -> Result<Option<String>, OpenError> {
        let failed = |error: io::Error| OpenError::Lasting(format!("can't read {}: {error}", path.display()));
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // It is released when the file is closed. A start that meets it tries again.
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
            Err(TryLockError::WouldBlock) => Ok(Some(read_process(&mut file).unwrap_or("a process".to_owned()))),
        }
    }

    /// Takes the lock, and creates the file (mode 0600) if it is missing. The file holds the process id of the holder.
    pub fn take(path: &Path) -> Result<LockFile, OpenError> {
        let failed = |error: io::Error| OpenError::Lasting(format!("can't lock {}: {error}", path.display()));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let holder = read_process(&mut file).map_or(String::new(), |process| format!(" ({process})"));
                let folder = path.parent().unwrap_or(path).display();
                return Err(OpenError::Taken(format!(
                    "another uproar{holder} is using {folder}; stop it, or use another data folder and database"
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

/// The process that the lock file names, such as "process 12".
fn read_process(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let id: u32 = text.trim().parse().ok()?;
    Some(format!("process {id}"))
}
