//! Taking stock before the work begins.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sweep_core::spec::{RunId, RunSpec};
use sweep_store::{RunState, State, Store};
use tokio::time;

use crate::error::Error;
use crate::families::Families;
use crate::queue::{Dependency, Phase};
use crate::settle::Settler;

/// Settles attempts of any sweep that are found dead twice: their own scheduler, if it lives, has had the time between
/// to settle them, and knows more about the end than we do.
pub(crate) async fn clean_up(settler: Settler<'_>, poll: Duration) -> Result<(), Error> {
    let reader = settler.store.reader();
    // Those of runs that are with Slurm are for the session that follows it: it hears how they ended.
    let with_slurm = reader.open_submissions().await?.into_iter();
    let with_slurm: HashSet<RunId> = with_slurm.map(|submission| submission.run).collect();
    let mut dead = Vec::new();
    for attempt in reader.running_attempts().await? {
        if !with_slurm.contains(&attempt.run) && settler.is_dead(attempt.run, attempt.attempt)? {
            dead.push(attempt);
        }
    }
    if !dead.is_empty() {
        time::sleep(poll).await;
    }
    for attempt in dead {
        settler.settle_if_dead(attempt.run, attempt.attempt).await?;
    }
    Ok(())
}

pub(super) async fn states(store: &Store, runs: &[(RunId, &RunSpec)]) -> Result<Vec<RunState>, Error> {
    let ids: Vec<RunId> = runs.iter().map(|(run, _)| *run).collect();
    let states = store.reader().states_of(&ids).await?;
    if states.len() < ids.len() {
        let known: HashSet<RunId> = states.iter().map(|state| state.id).collect();
        if let Some(run) = ids.into_iter().find(|run| !known.contains(run)) {
            return Err(Error::Unregistered { run });
        }
    }
    Ok(states)
}

/// Returns the dependencies that lie outside of these runs and have not succeeded.
pub(super) async fn unmet_dependencies(store: &Store, states: &[RunState]) -> Result<HashSet<RunId>, Error> {
    let inside: HashSet<RunId> = states.iter().map(|state| state.id).collect();
    let mut outside: HashSet<RunId> = states.iter().filter_map(|state| state.depends_on).collect();
    outside.retain(|run| !inside.contains(run));
    if outside.is_empty() {
        return Ok(outside);
    }
    let asked: Vec<RunId> = outside.iter().copied().collect();
    for state in store.reader().states_of(&asked).await? {
        if state.state == State::Succeeded {
            outside.remove(&state.id);
        }
    }
    Ok(outside)
}

pub(super) fn dependency(
    state: &RunState,
    unmet: &HashSet<RunId>,
    specs: &HashMap<RunId, &RunSpec>,
) -> Option<Dependency> {
    let run = state.depends_on?;
    match () {
        () if unmet.contains(&run) => Some(Dependency::Unmet(run)),
        () if specs.contains_key(&run) => Some(Dependency::Inside(run)),
        () => None,
    }
}

pub(super) const fn phase(state: State) -> Phase {
    match state {
        State::Pending | State::Interrupted => Phase::Pending,
        State::Running => Phase::Running,
        State::Succeeded => Phase::Succeeded,
        State::Failed | State::Cancelled => Phase::Failed,
    }
}

/// Returns who follows whom among the runs that are not finished, in the order of the list.
pub(super) fn families(runs: &[(RunId, &RunSpec)], states: &[RunState]) -> Families {
    let finished = states.iter().filter(|state| state.state.is_final());
    let finished: HashSet<RunId> = finished.map(|state| state.id).collect();
    let unfinished: Vec<(RunId, &RunSpec)> =
        runs.iter().copied().filter(|(run, _)| !finished.contains(run)).collect();
    Families::among(&unfinished)
}
