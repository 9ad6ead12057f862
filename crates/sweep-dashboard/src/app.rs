//! What all requests share: the reader, the runs that were read last, and who watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_report::Runs;
use sweep_store::{At, Gate, Metric, Reader, SweepId, SweepRow, Watch};
use tokio::sync::{Mutex, watch};

use crate::error::Failure;

/// How long one statement may read.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a page waits for what can come later.
const BRIEFLY: Duration = Duration::from_millis(300);
/// How often the database is looked at while somebody watches.
const INTERVAL: Duration = Duration::from_secs(1);
/// Readings of runs that are kept.
const KEPT: usize = 6;
/// Runs whose checks are kept.
const CHECKED: usize = 64;
/// A reading is used until it is this many times as old as it took, so that a large grid that changes all the time costs its
/// machine at most a tenth of one core.
const REST: u32 = 9;

/// The server's state.
pub(crate) struct App {
    pub(crate) reader: Reader,
    pub(crate) home: Home,
    /// The sweep that the first page shows, if one was chosen.
    pub(crate) chosen: Option<SweepId>,
    readings: Mutex<Vec<Reading>>,
    checks: Mutex<Vec<Checks>>,
    watch: Mutex<Watching>,
    /// How many changes were seen.
    changes: watch::Sender<u64>,
    clients: AtomicUsize,
    arrivals: tokio::sync::Notify,
}

struct Watching {
    watch: Watch,
    version: i64,
}

/// The runs of a sweep, as they were read.
struct Reading {
    sweep: SweepId,
    metrics: Vec<Metric>,
    runs: Arc<Runs>,
    change: u64,
    at: Instant,
    cost: Duration,
}

/// Whether somebody waits for a page, or follows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// A page is wanted soon, if need be a little old.
    Soon,
    /// It may take a while, and must be what is there.
    Fresh,
}

/// The checks of a run after so many measurements.
struct Checks {
    run: RunId,
    measurements: usize,
    gates: Vec<Gate>,
}

/// Somebody who watches; the database is looked at while there is one.
pub(crate) struct Client(Arc<App>);

impl App {
    pub(crate) async fn new(
        reader: &Reader,
        home: Home,
        chosen: Option<SweepId>,
    ) -> sweep_store::Result<Self> {
        let mut watch = reader.watch().await?;
        let version = watch.version().await?;
        Ok(Self {
            reader: reader.limited(PATIENCE),
            home,
            chosen,
            readings: Mutex::new(Vec::new()),
            checks: Mutex::new(Vec::new()),
            watch: Mutex::new(Watching { watch, version }),
            // No two servers count alike: a page that was written by the one before is not up to date by accident.
            changes: watch::Sender::new(sweep_store::now_ms().unsigned_abs()),
            clients: AtomicUsize::new(0),
            arrivals: tokio::sync::Notify::new(),
        })
    }

    /// Looks whether the database has changed and returns the number of changes seen.
    pub(crate) async fn look(&self) -> sweep_store::Result<u64> {
        let mut watching = self.watch.lock().await;
        let version = watching.watch.version().await?;
        if version != watching.version {
            watching.version = version;
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(*self.changes.borrow())
    }

    /// Looks once in a while as long as somebody watches, for ever.
    pub(crate) async fn follow(&self) {
        loop {
            if self.clients.load(Ordering::Acquire) == 0 {
                self.arrivals.notified().await;
            }
            if let Err(error) = self.look().await {
                tracing::warn!("{error}");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Returns how many changes were seen, and learns of the next ones.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns a sweep by its number.
    pub(crate) async fn sweep(&self, number: i64) -> Result<SweepRow, Failure> {
        let sweeps = self.reader.sweeps().await?;
        let found = sweeps.into_iter().find(|sweep| sweep.id.number() == number);
        found.ok_or_else(|| Failure::not_found(format!("There is no sweep {number}.")))
    }

    /// Returns the runs of a sweep with these metrics, and the change that they were read after: from the last reading, if
    /// nothing has changed since. If something has, and the reading is young for what it took, somebody in haste gets it all
    /// the same, and others wait until it may be done again.
    pub(crate) async fn runs(
        &self,
        sweep: SweepId,
        metrics: &[Metric],
        haste: Haste,
    ) -> Result<(Arc<Runs>, u64), Failure> {
        loop {
            let change = self.look().await?;
            // One reads at a time; the others find what it has read.
            let mut readings = self.readings.lock().await;
            let found = readings.iter().find(|reading| reading.sweep == sweep && reading.metrics == metrics);
            let early = found.map_or(Duration::ZERO, Reading::rest);
            match found {
                Some(reading) if reading.change == change || haste == Haste::Soon && !early.is_zero() => {
                    return Ok((Arc::clone(&reading.runs), reading.change));
                }
                _ if early.is_zero() => {
                    let reading = self.read(sweep, metrics, change).await?;
                    let runs = Arc::clone(&reading.runs);
                    readings.retain(|reading| reading.sweep != sweep || reading.metrics != metrics);
                    readings.truncate(KEPT - 1);
                    readings.insert(0, reading);
                    return Ok((runs, change));
                }
                _ => {
                    drop(readings);
                    tokio::time::sleep(early).await;
                }
            }
        }
    }

    async fn read(&self, sweep: SweepId, metrics: &[Metric], change: u64) -> Result<Reading, Failure> {
        let begin = Instant::now();
        let measured = self.reader.measured(Some(sweep), metrics, At::Last).await?;
        let metrics = metrics.to_vec();
        let wanted = metrics.clone();
        let taking_apart = move || Runs::new(measured, &wanted, At::Last);
        let runs = tokio::task::spawn_blocking(taking_apart).await.map_err(|_| stopped())??;
        let cost = begin.elapsed();
        Ok(Reading { sweep, metrics, runs: Arc::new(runs), change, at: Instant::now(), cost })
    }

    /// Returns the checks of a run that has `measurements`; to somebody in haste `None` where that takes long.
    pub(crate) async fn gates(
        &self,
        run: RunId,
        measurements: usize,
        haste: Haste,
    ) -> Result<Option<Vec<Gate>>, Failure> {
        let checking = self.checked(run, measurements);
        match haste {
            Haste::Fresh => checking.await.map(Some),
            Haste::Soon => tokio::time::timeout(BRIEFLY, checking).await.ok().transpose(),
        }
    }

    /// Looks the checks of a run up, once for each number of its measurements: the view goes through those of all runs.
    async fn checked(&self, run: RunId, measurements: usize) -> Result<Vec<Gate>, Failure> {
        if measurements == 0 {
            return Ok(Vec::new());
        }
        let mut checks = self.checks.lock().await;
        let is_same = |known: &Checks| known.run == run && known.measurements == measurements;
        if let Some(known) = checks.iter().find(|known| is_same(known)) {
            return Ok(known.gates.clone());
        }
        let gates = self.reader.gates_of(run).await?;
        checks.retain(|known| known.run != run);
        checks.truncate(CHECKED - 1);
        checks.insert(0, Checks { run, measurements, gates: gates.clone() });
        Ok(gates)
    }
}

impl Reading {
    /// Returns how long it is to be used yet, whatever has changed.
    fn rest(&self) -> Duration {
        (self.cost * REST).saturating_sub(self.at.elapsed())
    }
}

/// That work was thrown away because the server ends.
pub(crate) fn stopped() -> Failure {
    Failure::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "Stopping", "The server stops.")
}

impl Client {
    /// Counts somebody in; `None` where `most` are there already.
    pub(crate) fn new(app: &Arc<App>, most: usize) -> Option<Self> {
        let add = |count: usize| (count < most).then_some(count + 1);
        app.clients.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).ok()?;
        app.arrivals.notify_one();
        Some(Self(Arc::clone(app)))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}
