//! Submitting: from runs that are ready to arrays.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use sweep_core::spec::RunId;
use sweep_store::{Submission as Row, Submitted, now_ms};
use tokio::time::{Duration, Instant};

use super::super::agent::newest_attempt;
use super::super::client::JobId;
use super::super::error::SlurmError;
use super::super::orders::{Folder, Order, Orders, Place};
use super::super::script::{Script, Submission, Token};
use super::{Array, Controller, Job, SlurmSettings};
use crate::error::Error;
use crate::families::write_sharing;
use crate::launch::write_spec;
use crate::ledger::Next;
use crate::retention::Room;
use crate::settings::Settings;
use crate::update::{Halt, Update};

/// How a submission ended.
enum Sent {
    /// Slurm has it, or may have it: which of the two is found out.
    Done,
    /// Nothing was submitted; later it may be.
    NotNow,
}

impl Controller<'_> {
    /// Returns when something may be submitted that may not be now; `None` where nothing waits for that.
    pub(super) fn next_submission(&self) -> Option<Instant> {
        if self.ledger.halted().is_some() || self.crowded || self.is_uncertain() {
            return None;
        }
        let ready = self.ledger.queue.has_ready().then_some(self.submit_at);
        let due = self.ledger.due().map(|due| due.max(self.submit_at));
        ready.into_iter().chain(due).min()
    }

    /// Returns whether it is to be found out whether an array was submitted.
    pub(super) fn is_uncertain(&self) -> bool {
        self.arrays.values().any(|array| array.job == Job::Uncertain)
    }

    /// Submits what is ready, all of it at once. Runs that become ready soon after wait for each other a little, so that a
    /// grid makes a few large arrays and not many small ones.
    pub(super) async fn submit_what_is_ready(&mut self) -> Result<(), Error> {
        let may = self.ledger.halted().is_none() && !self.crowded && !self.is_uncertain();
        if !may || Instant::now() < self.submit_at {
            return Ok(());
        }
        let ready = self.take_ready().await?;
        if ready.is_empty() {
            return Ok(());
        }
        let size = match self.largest_array().await {
            Ok(size) => size,
            Err(error) => {
                self.put_back(&ready);
                self.refused(&error);
                return Ok(());
            }
        };
        self.submit_at = Instant::now() + self.pace.shortest;
        let a_job = self.plan.options.runs_per_job.get() as usize;
        let mut arrays = ready.chunks(a_job * size.get() as usize);
        while let Some(runs) = arrays.next() {
            let tasks: Vec<Vec<RunId>> = runs.chunks(a_job).map(<[RunId]>::to_vec).collect();
            if let Sent::NotNow = self.submit(&tasks).await? {
                arrays.for_each(|runs| self.put_back(runs));
                break;
            }
        }
        Ok(())
    }

    /// Takes the runs that are ready out of the queue, as many as fit on the disk.
    async fn take_ready(&mut self) -> Result<Vec<RunId>, Error> {
        let at_once = self.most_at_once();
        let mut in_hand: Vec<RunId> = self.spots.keys().copied().collect();
        let mut ready = Vec::new();
        while let Some(run) = self.ledger.pop() {
            if let Room::Short { needed, available, .. } = self.ledger.room(run, &in_hand, at_once).await? {
                self.ledger.queue.put_back(run);
                self.crowded = true;
                if in_hand.is_empty() {
                    self.ledger.halt(Halt::DiskFull { needed, available });
                }
                break;
            }
            in_hand.push(run);
            ready.push(run);
        }
        Ok(ready)
    }

    /// Returns how many runs Slurm may let work at a time, with one more array.
    fn most_at_once(&self) -> usize {
        let limit = self.plan.options.array_limit.map_or(usize::MAX, |limit| limit.get() as usize);
        limit.saturating_mul(self.arrays.len() + 1)
    }

    fn put_back(&mut self, runs: &[RunId]) {
        for run in runs {
            self.ledger.queue.put_back(*run);
        }
    }

    async fn largest_array(&mut self) -> Result<NonZeroU32, SlurmError> {
        if let Some(size) = self.largest_array {
            return Ok(size);
        }
        let size = self.slurm.max_array_size().await?;
        self.largest_array = Some(size);
        Ok(size)
    }

    /// Takes down that an array is about to be submitted, writes its files and submits it.
    async fn submit(&mut self, tasks: &[Vec<RunId>]) -> Result<Sent, Error> {
        let store = self.ledger.settler.store;
        let token = self.new_token().await?;
        let taken = store.open_generation(token.as_str(), tasks, now_ms()).await?;
        self.leave_to_others(tasks, &taken).await?;
        let Some(count) = NonZeroU32::new(taken.len() as u32) else { return Ok(Sent::Done) };
        self.arrays.insert(
            token.as_str().to_owned(),
            Array { job: Job::Uncertain, since: Some(Instant::now()), is_known: false },
        );
        self.take_places(token.as_str(), &taken);
        let folder = self.folder(token.as_str());
        self.write_files(&folder, &taken).await?;
        let submission = Submission {
            token: &token,
            tasks: count,
            throttle: self.plan.options.array_limit,
            options: &self.plan.options,
            logs: &folder.logs(),
            folder: self.ledger.settings.home.root(),
            script: &folder.script(),
        };
        match self.slurm.submit(&submission).await {
            Ok(job) => {
                self.submitted(token.as_str(), job).await?;
                Ok(Sent::Done)
            }
            // It may have been taken: the name of the job will tell.
            Err(error @ (SlurmError::Unreachable { .. } | SlurmError::Unreadable { .. })) => {
                self.complain(error.to_string(), self.pace.uncertain);
                Ok(Sent::NotNow)
            }
            Err(error) => {
                self.void(token.as_str()).await?;
                self.refused(&error);
                Ok(Sent::NotNow)
            }
        }
    }

    /// Returns a name that no other array has, of this home folder or another.
    async fn new_token(&self) -> Result<Token, Error> {
        let home = &self.ledger.settings.home;
        let number = self.ledger.settler.store.reader().generation_count().await? + 1;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in format!("{}/{}/{}", home.root().display(), std::process::id(), now_ms()).bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(Token::new(&format!("sweep-{:08x}-g{number}", (hash ^ (hash >> 32)) & 0xffff_ffff)))
    }

    /// Runs that somebody has taken since they were ready are his.
    async fn leave_to_others(&mut self, tasks: &[Vec<RunId>], taken: &[Vec<Submitted>]) -> Result<(), Error> {
        let taken: std::collections::HashSet<RunId> =
            taken.iter().flatten().map(|submitted| submitted.run).collect();
        for run in tasks.iter().flatten().filter(|run| !taken.contains(run)) {
            if let Next::Again(delay) = self.ledger.refresh(*run).await? {
                self.ledger.again(*run, delay.max(self.pace.shortest));
            }
        }
        Ok(())
    }

    fn take_places(&mut self, token: &str, taken: &[Vec<Submitted>]) {
        for (task, runs) in taken.iter().enumerate() {
            for (place, Submitted { run, after }) in runs.iter().enumerate() {
                let row = Row {
                    generation: token.to_owned(),
                    job: None,
                    task: task as u32,
                    place: place as u32,
                    run: *run,
                    after: *after,
                    created_ms: now_ms(),
                    reason: None,
                };
                self.enter(&row, *after);
            }
        }
    }

    /// Writes everything that the tasks will read, the manifest last.
    async fn write_files(&self, folder: &Folder, taken: &[Vec<Submitted>]) -> Result<(), Error> {
        let home = &self.ledger.settings.home;
        let runs: Vec<RunId> = taken.iter().flatten().map(|submitted| submitted.run).collect();
        let states = self.ledger.settler.store.reader().states_of(&runs).await?;
        for state in states {
            let run = state.id;
            let written = fs::create_dir_all(home.run(run))
                .and_then(|()| write_spec(home, run, self.ledger.specs[&run], state.micro_batch_limit))
                .and_then(|()| write_sharing(home, run, &self.ledger.sharing(run)));
            written.map_err(|source| Error::Task { path: home.run(run), source })?;
        }
        let tasks: Vec<Orders> =
            taken.iter().map(|runs| orders(self.ledger.settings, self.plan, self.pace.beat, runs)).collect();
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder.logs())?;
            write_script(folder, self.ledger.settings, self.plan)?;
            folder.write_manifest(&tasks)
        };
        write().map_err(|source| Error::Task { path: folder.path().to_owned(), source })
    }

    async fn submitted(&mut self, token: &str, job: JobId) -> Result<(), Error> {
        self.ledger.settler.store.generation_submitted(token, job.0).await?;
        if let Some(array) = self.arrays.get_mut(token) {
            array.job = Job::Known(job);
        }
        let runs = self.spots.values().filter(|spot| spot.token == token).count();
        self.back_off = Duration::ZERO;
        self.pause = self.pace.shortest;
        self.ask_at = Instant::now() + self.pace.shortest;
        self.ledger.tell(Update::Submitted { token: token.to_owned(), job: job.0, runs });
        Ok(())
    }

    /// Takes an array back that never was submitted: its runs are ready again.
    async fn void(&mut self, token: &str) -> Result<(), Error> {
        let folder = self.folder(token);
        folder.disarm().map_err(|source| Error::Task { path: folder.manifest(), source })?;
        self.ledger.settler.store.void_generation(token, now_ms()).await?;
        self.arrays.remove(token);
        let runs: Vec<RunId> =
            self.spots.iter().filter(|(_, spot)| spot.token == token).map(|(run, _)| *run).collect();
        for run in runs {
            self.spots.remove(&run);
            if self.is_ours(run) {
                self.ledger.queue.put_back(run);
            }
        }
        Ok(())
    }

    /// Tries later what Slurm does not take now, and gives up where it never will. While something of ours is with it, what it
    /// refuses may be had again: for an hour, all nodes that would do may be down.
    fn refused(&mut self, error: &SlurmError) {
        match error {
            SlurmError::Limit { .. } | SlurmError::Unreachable { .. } => self.back_off(error),
            error if self.arrays.is_empty() => self.ledger.halt(Halt::Refused { message: error.to_string() }),
            error => self.back_off(error),
        }
    }

    fn back_off(&mut self, error: &SlurmError) {
        self.back_off = self.pace.back_off(self.back_off);
        self.submit_at = Instant::now() + self.back_off;
        self.complain(error.to_string(), self.back_off);
    }

    /// Finds out whether arrays were submitted whose number nobody has taken down.
    pub(super) async fn find_uncertain_arrays(&mut self) -> Result<(), Error> {
        let uncertain: Vec<(String, Array)> = self
            .arrays
            .iter()
            .filter(|(_, array)| array.job == Job::Uncertain)
            .map(|(token, array)| (token.clone(), *array))
            .collect();
        for (token, array) in uncertain {
            let found = match self.slurm.find(&Token::new(&token)).await {
                Ok(found) => found,
                Err(error) => {
                    self.complain(error.to_string(), self.pause);
                    continue;
                }
            };
            match found.jobs[..] {
                [job, ..] => self.submitted(&token, job).await?,
                [] if self.has_begun(&token) => self.forgotten(&token),
                // Whoever died may have left an `sbatch` behind that is not through yet.
                [] => self.void_once_certain(&token, array).await?,
            }
        }
        Ok(())
    }

    fn has_begun(&self, token: &str) -> bool {
        let mut spots = self.spots.iter().filter(|(_, spot)| spot.token == token);
        spots.any(|(run, spot)| {
            newest_attempt(&self.ledger.settings.home, *run).is_ok_and(|newest| newest > spot.after)
        })
    }

    fn forgotten(&mut self, token: &str) {
        if let Some(array) = self.arrays.get_mut(token) {
            array.job = Job::Forgotten;
        }
    }

    async fn void_once_certain(&mut self, token: &str, array: Array) -> Result<(), Error> {
        match array.since {
            Some(since) if since.elapsed() >= self.pace.uncertain => self.void(token).await,
            Some(_) => Ok(()),
            None => {
                if let Some(array) = self.arrays.get_mut(token) {
                    array.since = Some(Instant::now());
                }
                Ok(())
            }
        }
    }
}

fn orders(settings: &Settings, plan: &SlurmSettings, beat: Duration, runs: &[Submitted]) -> Orders {
    Orders {
        runs: runs.iter().map(|Submitted { run, after }| Order { run: *run, after: *after }).collect(),
        worker: worker(settings, plan),
        device: if plan.on_gpu { Place::Cuda } else { Place::Cpu },
        threads: plan.threads,
        checkpoint_every: settings.checkpoint_every,
        timeout: settings.timeout,
        stall: settings.stall,
        grace: settings.grace,
        beat,
    }
}

/// Returns the program of the workers; `None` where jobs call this program in their own way, which then is the workers' too.
fn worker(settings: &Settings, plan: &SlurmSettings) -> Option<PathBuf> {
    let program = &settings.worker.program;
    let is_own = !plan.options.program.is_empty() && *program == plan.program;
    (!is_own).then(|| program.clone())
}

fn write_script(folder: &Folder, settings: &Settings, plan: &SlurmSettings) -> io::Result<()> {
    let path = folder.script();
    fs::write(&path, script(folder, settings, plan))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
}

/// Returns the script of an array.
pub(in crate::slurm) fn script(folder: &Folder, settings: &Settings, plan: &SlurmSettings) -> Vec<u8> {
    let variables: Vec<(&str, &OsStr)> =
        plan.variables.iter().map(|(name, value)| (name.as_str(), OsStr::new(value))).collect();
    let manifest = folder.manifest();
    let mut command: Vec<&OsStr> = plan.options.program.iter().map(OsStr::new).collect();
    if command.is_empty() {
        command.push(plan.program.as_os_str());
    }
    command.extend([
        OsStr::new("task"),
        OsStr::new("--home"),
        settings.home.root().as_os_str(),
        OsStr::new("--manifest"),
        manifest.as_os_str(),
    ]);
    Script { variables: &variables, setup: &plan.options.setup, command: &command }.text()
}
