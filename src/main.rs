//! The `uproar` binary: runs the server or a tool. An error is printed in one line, and the exit status is then 1.

use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use uproar::config::{Cli, Tool};
use uproar::{help, server, tools};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages of 2 MiB, which more than doubled the memory of an idle connection and made
    // nothing faster. A failure here only costs memory.
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
        Some(Tool::Token { user, lifetime }) => tools::token(&cli.options, user, *lifetime),
        Some(Tool::Backup { file }) => tools::backup(&cli.options, file),
        Some(Tool::Restored) => tools::restored(&cli.options),
        Some(Tool::Password { user }) => tools::password(&cli.options, user),
        Some(Tool::Completions { shell }) => tools::print(&help::completions(*shell)),
        Some(Tool::Man) => tools::print(&help::manual()?),
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| anyhow::anyhow!("--log: '{filter}' is not a log level or filter ({error})"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!("internal error at {place}: {text}; please report this");
    }));
    Ok(())
}
