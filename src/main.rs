//! The `uproar` binary: runs the server or a tool. An error is printed in one line, and the exit status is then 1.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use uproar::config::{Cli, Tool};
use uproar::{check, health, help, output, server, tools};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages of 2 MiB, which more than doubled the memory of an idle connection and made
    // nothing faster. A failure here only costs memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let result = Cli::load().and_then(|cli| run(&cli));
    if let Err(error) = &result {
        output::note(format_args!("uproar: {}", output::one_line(error)));
    }
    output::flush();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        None => output::start_log(&cli.options.log).and_then(|()| server::run(&cli.options)),
        Some(Tool::Token { user, lifetime }) => tools::token(&cli.options, user, *lifetime),
        Some(Tool::Backup { file }) => tools::backup(&cli.options, file),
        Some(Tool::Restored) => tools::restored(&cli.options),
        Some(Tool::NewKey) => tools::new_key(&cli.options),
        Some(Tool::Password { user }) => tools::password(&cli.options, user),
        Some(Tool::Migrate { from }) => tools::migrate(&cli.options, from.as_deref()),
        Some(Tool::Nodes) => tools::nodes(&cli.options),
        Some(Tool::ApiKey { action, name, user, scope, users, last }) => {
            let (name, user) = (name.as_deref(), user.as_deref());
            tools::api_key(&cli.options, *action, name, user, *scope, *users, *last)
        }
        Some(Tool::Invite { room, uses, lifetime, url }) => {
            tools::invite(&cli.options, room.as_deref(), *uses, *lifetime, url.as_deref())
        }
        Some(Tool::Check) => check::check(&cli.options),
        Some(Tool::Health { url }) => health::health(&cli.options, url.as_deref()),
        Some(Tool::Completions { shell }) => output::print(&help::completions(*shell)),
        Some(Tool::Man) => output::print(&help::manual()?),
    }
}
