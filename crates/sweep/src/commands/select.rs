//! `sweep retry` and `sweep cancel`: what should run again, and what should not.

use anyhow::Result;
use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_scheduler::slurm::withdraw;
use sweep_store::{Reader, RunState, State, Store, now_ms};

use crate::cli::SelectArgs;
use crate::exit::{Exit, bad_input};
use crate::{printer, sweeps};

pub(crate) fn retry(home: &Home, arguments: &SelectArgs) -> Result<Exit> {
    sweeps::block_on(async {
        let can = |state| matches!(state, State::Failed | State::Cancelled);
        let runs = selected(home, arguments, can, "has not failed and is not cancelled").await?;
        let store = Store::open(home.database()).await?;
        let reset = store.reset(&runs, now_ms()).await?;
        store.close().await?;
        printer::note(&format!(
            "{reset} runs are pending again; their history and checkpoints stay\n  hint: `sweep run FILE` runs them"
        ));
        Ok(Exit::Success)
    })
}

pub(crate) fn cancel(home: &Home, arguments: &SelectArgs) -> Result<Exit> {
    sweeps::block_on(async {
        let can = |state: State| !state.is_final();
        let runs = selected(home, arguments, can, "is over").await?;
        let store = Store::open(home.database()).await?;
        let done = store.cancel(&runs, now_ms()).await?;
        let withdrawn = withdraw(store.reader(), home, &runs).await?;
        store.close().await?;
        printer::note(&format!("{} runs are cancelled", done.cancelled));
        if done.asked_to_stop > 0 {
            printer::note(&format!(
                "{} running ones save their work and leave within seconds",
                done.asked_to_stop
            ));
        }
        if withdrawn.runs > 0 {
            printer::note(&format!(
                "{} were with Slurm; {} tasks of it are cancelled",
                withdrawn.runs, withdrawn.tasks
            ));
        }
        if let Some(problem) = withdrawn.problem {
            printer::note(&format!(
                "{problem}\n  hint: their tasks leave by themselves when they start; `scancel` ends them sooner"
            ));
        }
        printer::note("  hint: `sweep retry` takes them in again");
        Ok(Exit::Success)
    })
}

/// Returns the runs that are meant. One that is named must be in a state that `can` names; of a sweep's runs the others are
/// left alone.
async fn selected(
    home: &Home,
    arguments: &SelectArgs,
    can: impl Fn(State) -> bool,
    otherwise: &str,
) -> Result<Vec<RunId>> {
    let reader = sweeps::open(home).await?;
    let states = match &arguments.sweep {
        Some(name) => {
            let sweep = reader.sweep_named(name).await.map_err(bad_input)?;
            reader.run_states(sweep).await?.into_iter().filter(|run| can(run.state)).collect()
        }
        None => named(&reader, &arguments.runs).await?,
    };
    if let Some(wrong) = states.iter().find(|run| !can(run.state)) {
        let (run, state) = (wrong.id.short(), wrong.state);
        return Err(bad_input(format!(
            "run {run} {otherwise}: it is {state}\n  hint: `sweep explain {run}` says more"
        )));
    }
    if states.is_empty() {
        return Err(bad_input(format!("every run of the sweep {otherwise}: there is nothing to do")));
    }
    Ok(states.into_iter().map(|run| run.id).collect())
}

async fn named(reader: &Reader, prefixes: &[String]) -> Result<Vec<RunState>> {
    let mut runs = Vec::new();
    for prefix in prefixes {
        runs.push(reader.resolve_run(prefix).await.map_err(bad_input)?);
    }
    Ok(reader.states_of(&runs).await?)
}
