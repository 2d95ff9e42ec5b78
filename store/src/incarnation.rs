//! The file `incarnation` in the data folder, by which a start on SQLite notices that the database is a restored copy.
//!
//! Each start, and each orderly stop, writes a new random word, the incarnation, both into the database and into this
//! file. A restored copy of the database has an older word. `sqlite/generation.rs` compares the two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file's name. It holds one word on a line or, while the word changes, the next word and the previous one.
const FILE_NAME: &str = "incarnation";

/// Where the file is in one data folder.
#[derive(Clone, Debug)]
pub(crate) struct IncarnationFile(PathBuf);

impl IncarnationFile {
    pub fn in_folder(folder: &Path) -> IncarnationFile {
        IncarnationFile(folder.join(FILE_NAME))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The words that the database may have if it is the one that the last process left. No file: no words.
    pub fn read(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(&self.0) {
            Ok(words) => Ok(words.split_whitespace().map(ToOwned::to_owned).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the words. After a power cut the file holds either the old words or the new ones, whole.
    pub fn write(&self, words: &[String]) -> io::Result<()> {
        let temporary = self.0.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", words.join("\n"))?;
        file.sync_all()?;
        fs::rename(&temporary, &self.0)?;
        match self.0.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes the file, so that the next start takes the database for a restored copy.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
