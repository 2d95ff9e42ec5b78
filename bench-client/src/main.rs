#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use std::process::ExitCode;
use uproar_bench::cli::{self, Cli};
use uproar_bench::output;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format_args!("uproar-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
