//! `sweep serve`: a local page on a running grid.

use anyhow::{Context as _, Result};
use sweep_core::home::Home;
use sweep_dashboard::{Access, Error, Server, Settings, Token};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServeArgs;
use crate::exit::{Exit, bad_input};
use crate::{printer, sweeps};

/// Threads that answer; what takes long has threads of its own.
const THREADS: usize = 2;

pub(crate) fn run(home: &Home, arguments: &ServeArgs) -> Result<Exit> {
    let token = arguments.token.as_deref().map(Token::new).transpose().map_err(bad_input)?;
    let names = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let names: Vec<String> = names.into_iter().collect();
    let access = Access::new(arguments.address, names, token).map_err(bad_input)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.context("failed to start the asynchronous runtime")?;
    let exit = runtime.block_on(serve(home, arguments, access));
    // A page that is being written is not waited for.
    runtime.shutdown_background();
    exit
}

async fn serve(home: &Home, arguments: &ServeArgs, access: Access) -> Result<Exit> {
    let reader = sweeps::open(home).await?;
    let sweep = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
    let settings = Settings { sweep, home: home.clone() };
    let server = Server::bind(&reader, settings, access).await.map_err(explained)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    printer::data(&format!("{}\n", server.url()))?;
    tokio::select! {
        served = server.serve() => served.map(|()| Exit::Success).map_err(anyhow::Error::new),
        // It is meant to be stopped so: nothing is left undone.
        _ = interrupt.recv() => Ok(Exit::Success),
        _ = terminate.recv() => Ok(Exit::Success),
    }
}

/// Says what to do about an address that cannot be had.
fn explained(error: Error) -> anyhow::Error {
    match error {
        Error::Bind { address, source } => {
            let hint = if source.kind() == std::io::ErrorKind::AddrInUse {
                format!("another program has it; --address {}:0 takes a free port", address.ip())
            } else {
                "--address 127.0.0.1:0 takes a free port of this machine".to_owned()
            };
            bad_input(format!("cannot listen at `{address}`: {source}\n  hint: {hint}"))
        }
        error => anyhow::Error::new(error),
    }
}
