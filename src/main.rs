//! The `uproar` binary: arguments → server or tool → exit code. An error is one line.

use clap::CommandFactory;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use uproar::config::{Cli, Command};
use uproar::{server, tools};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With huge pages, which the allocator asks for, memory comes in pieces of 2 MiB: it more than doubled what an idle
    // connection costs, and made nothing faster. Where this can't be set, it only costs memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match Cli::load().and_then(|cli| run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uproar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        None => log_to_stderr(&cli.options.log).and_then(|()| server::run(&cli.options)),
        Some(Command::Token { user, lifetime }) => tools::token(&cli.options, user, *lifetime),
        Some(Command::Backup { file }) => tools::backup(&cli.options, file),
        Some(Command::Restored) => tools::restored(&cli.options),
        Some(Command::Password { user }) => tools::password(&cli.options, user),
        Some(Command::Completions { shell }) => {
            let mut out = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "uproar", &mut out);
            tools::print(&out)
        }
        Some(Command::Man) => {
            let mut out = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut out)?;
            tools::print(&out)
        }
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| anyhow::anyhow!("--log: '{filter}' is no level or filter ({error})"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no text");
        tracing::error!("internal error at {place}: {text}; please report it");
    }));
    Ok(())
}
