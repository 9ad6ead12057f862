//! The `sweep` command: arguments, printing and exit codes. Everything else lives in the other crates.

mod cli;
mod commands;
mod cost;
mod devices;
mod disk;
mod download;
mod executor;
mod exit;
mod files;
mod hub;
mod latex;
mod printer;
mod progress;
mod signals;
mod size;
mod sources;
mod support;
mod sweeps;
mod table;
mod tally;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use sweep_core::home::Home;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::exit::{BadInput, Exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("SWEEP_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            printer::error(&error);
            let exit = if error.chain().any(<dyn std::error::Error>::is::<BadInput>) {
                Exit::BadInput
            } else {
                Exit::Unexpected
            };
            exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<Exit> {
    let home = Home::new(cli.home).with_database(cli.database);
    match cli.command {
        Command::Run(arguments) => commands::run::run(&home, &arguments),
        Command::Fetch(arguments) => commands::fetch::run(&home, &arguments),
        Command::Data(cli::DataCommand::Show(arguments)) => commands::data::show(&home, &arguments),
        Command::Doctor(arguments) => commands::doctor::run(&home, &arguments),
        Command::Plan(arguments) => commands::plan::run(&home, &arguments),
        Command::Status(arguments) => commands::status::run(&home, &arguments),
        Command::Show(arguments) => commands::show::run(&home, &arguments),
        Command::Logs(arguments) => commands::logs::run(&home, &arguments),
        Command::Explain(arguments) => commands::explain::run(&home, &arguments),
        Command::Retry(arguments) => commands::select::retry(&home, &arguments),
        Command::Cancel(arguments) => commands::select::cancel(&home, &arguments),
        Command::Gc(arguments) => commands::gc::run(&home, &arguments),
        Command::Query(arguments) => commands::query::run(&home, &arguments),
        Command::Compare(arguments) => commands::compare::run(&home, &arguments),
        Command::Evaluate(arguments) => commands::evaluate::run(&home, &arguments),
        Command::Report(arguments) => commands::report::run(&home, &arguments),
        Command::Serve(arguments) => commands::serve::run(&home, &arguments),
        Command::Export(arguments) => commands::export::run(&home, &arguments),
        Command::Rebuild => commands::rebuild::run(&home),
        Command::Schema => commands::schema::run(),
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Worker(arguments) => commands::worker::run(&home, &arguments),
        Command::Task(arguments) => commands::task::run(&home, &arguments),
    }
}
