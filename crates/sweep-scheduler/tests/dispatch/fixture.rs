//! A sweep in a temporary home, and a scheduler on it.

use std::path::Path;
use std::time::Duration;

use sweep_core::spec::{RunId, RunSpec};
use sweep_scheduler::{
    Home, RetryPolicy, Settings, Slot, SlotRequest, Stop, Summary, Update, WorkerCommand, dispatch,
};
use sweep_store::{Attempt, State, Store, now_ms};
use sweep_testkit::{Action, PATIENCE, Workspace, fake_worker, sample_run};
use tokio::sync::watch;

/// A registered sweep.
pub(crate) struct Fixture {
    pub(crate) workspace: Workspace,
    pub(crate) store: Store,
    pub(crate) runs: Vec<(RunId, RunSpec)>,
}

/// What a session did.
pub(crate) struct Session {
    pub(crate) summary: Summary,
    pub(crate) updates: Vec<Update>,
}

impl Fixture {
    /// Registers runs that differ by their seed.
    pub(crate) async fn new(count: u64) -> Self {
        Self::with((0..count).map(sample_run).collect()).await
    }

    pub(crate) async fn with(specs: Vec<RunSpec>) -> Self {
        Self::at(Workspace::new(), specs).await
    }

    async fn at(workspace: Workspace, specs: Vec<RunSpec>) -> Self {
        let (store, runs) = register(workspace.home(), specs).await;
        Self { workspace, store, runs }
    }

    pub(crate) fn id(&self, position: usize) -> RunId {
        self.runs[position].0
    }

    /// Tells the workers of the run at `position` what to do.
    pub(crate) fn script(&self, position: usize, script: &sweep_testkit::Script) {
        self.workspace.script_of(self.id(position), script);
    }

    pub(crate) fn settings(&self, devices: &str) -> Settings {
        settings(self.workspace.home(), devices)
    }

    /// Runs a session to its end.
    pub(crate) async fn session(&self, settings: &Settings) -> Session {
        self.session_until(settings, |_| None).await
    }

    /// Runs a session that is asked to stop as soon as `until` gives a level for an update.
    pub(crate) async fn session_until(
        &self,
        settings: &Settings,
        mut until: impl FnMut(&Update) -> Option<Stop> + Send,
    ) -> Session {
        let (stop, stopped) = watch::channel(Stop::None);
        let mut updates = Vec::new();
        let mut observe = |update: Update| {
            if let Some(level) = until(&update) {
                stop.send_replace(level);
            }
            updates.push(update);
        };
        let listed = listed(&self.runs);
        let session = dispatch(&self.store, &listed, settings, stopped, &mut observe);
        let summary = within_patience(session).await.unwrap();
        assert_eq!(accounted(&summary), summary.total, "{summary:?}");
        Session { summary, updates }
    }

    pub(crate) async fn states(&self) -> Vec<State> {
        let ids: Vec<RunId> = self.runs.iter().map(|(run, _)| *run).collect();
        self.store.reader().states_of(&ids).await.unwrap().iter().map(|state| state.state).collect()
    }

    pub(crate) async fn attempts(&self, position: usize) -> Vec<Attempt> {
        self.store.reader().attempts_of(self.id(position)).await.unwrap()
    }

    /// Asserts that every run has succeeded and nothing is left running.
    pub(crate) async fn assert_complete(&self) {
        assert!(self.states().await.iter().all(|state| *state == State::Succeeded));
        assert_eq!(self.store.reader().running_attempts().await.unwrap(), []);
    }
}

/// Awaits a future that must end.
pub(crate) async fn within_patience<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it ends")
}

/// Settings that never wait for the clock: no backoff, events looked at often, endless grace.
pub(crate) fn settings(home: &Path, devices: &str) -> Settings {
    let request = SlotRequest { devices, threads: None, cores: 4, visible_devices: None, gpus: None };
    let worker = WorkerCommand { program: fake_worker().to_owned(), arguments: Vec::new() };
    let settings = Settings::new(Home::new(home), worker, Slot::plan(&request).unwrap());
    Settings {
        retry: RetryPolicy { first_delay: Duration::ZERO, ..RetryPolicy::default() },
        poll: Duration::from_millis(5),
        grace: PATIENCE,
        ..settings
    }
}

/// Opens the store of a home folder and registers a sweep in it.
pub(crate) async fn register(home: &Path, specs: Vec<RunSpec>) -> (Store, Vec<(RunId, RunSpec)>) {
    let store = Store::open(Home::new(home).database()).await.unwrap();
    let runs: Vec<(RunId, RunSpec)> = specs.into_iter().map(|spec| (spec.id(), spec)).collect();
    store.register_sweep("test", "name: test", &listed(&runs), now_ms()).await.unwrap();
    (store, runs)
}

pub(crate) fn listed(runs: &[(RunId, RunSpec)]) -> Vec<(RunId, &RunSpec)> {
    runs.iter().map(|(run, spec)| (*run, spec)).collect()
}

/// Adds up the fields that every run is counted in once.
fn accounted(summary: &Summary) -> usize {
    let before = summary.already_succeeded + summary.already_failed + summary.cancelled;
    let now = summary.succeeded + summary.failed + summary.interrupted;
    before + now + summary.blocked + summary.elsewhere + summary.pending
}

/// What a worker does that trains two epochs and succeeds.
pub(crate) fn two_epochs() -> Vec<Action> {
    vec![
        Action::Start,
        Action::Progress { step: 10 },
        Action::Epoch { clean: 50, robust: 20 },
        Action::Epoch { clean: 60, robust: 30 },
        Action::Evaluate { correct: vec![60, 50, 40, 30, 20] },
        Action::Succeed,
    ]
}
