use clap::Parser;
use std::process::ExitCode;
use uproar_bench::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uproar-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
