//! Count and checksum of rows, by which two tables are compared.

use sha2::{Digest, Sha256};
use std::fmt;

/// The sum of rows in the text format of PostgreSQL's `COPY`, in which each row is a line.
#[derive(Clone, Default)]
pub(crate) struct Sum {
    pub rows: u64,
    hash: Sha256,
}

impl Sum {
    /// Adds text, which may begin and end within a row.
    pub fn add(&mut self, text: &[u8]) {
        self.rows += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.hash.update(text);
    }
}

impl PartialEq for Sum {
    fn eq(&self, other: &Sum) -> bool {
        self.rows == other.rows && self.hash.clone().finalize() == other.hash.clone().finalize()
    }
}

/// The rows and the first half of the checksum.
impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, SHA-256 ", self.rows)?;
        self.hash.clone().finalize().iter().take(16).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
