//! Writing to standard output and standard error without `println!` and `eprintln!`, which panic if they fail.

use anyhow::{Context, Result};
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Writes a line to standard error. If that is impossible, nobody is there to be told.
pub fn note(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a line to standard output. It is not an error if the reader stops early.
pub fn print(line: Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}
