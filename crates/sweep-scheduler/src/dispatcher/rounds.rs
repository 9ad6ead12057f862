//! What the dispatcher looks at from time to time: attempts in other hands, requests of the user, the disk.

use sweep_core::spec::RunId;
use tokio::time::{self, Duration, Instant};

use super::{Active, Dispatcher, Elsewhere};
use crate::alive::is_alive;
use crate::error::Error;
use crate::retention::{Collected, Room, collect, reclaim, room};
use crate::settle::Finding;
use crate::update::{Halt, Update};

/// How long checkpoints that nobody needs may lie before they are cleared up within a session: looking at every run of the
/// database is not for every end of a run.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

impl Dispatcher<'_> {
    pub(super) fn await_elsewhere(&mut self, run: RunId, attempt: u32) {
        self.elsewhere.insert(run, Elsewhere { attempt, seen_dead: false });
        (self.observe)(Update::Elsewhere { run, attempt });
    }

    /// Looks after the attempts in other hands: one that is found dead twice is settled, if its own scheduler has not
    /// done that by then, and its run goes on from what the database says.
    pub(super) async fn look_elsewhere(&mut self) -> Result<(), Error> {
        self.hear_of_beginnings(self.elsewhere.keys().copied().collect()).await?;
        let attempts: Vec<(RunId, Elsewhere)> =
            self.elsewhere.iter().map(|(run, other)| (*run, *other)).collect();
        for (run, Elsewhere { attempt, seen_dead }) in attempts {
            if !seen_dead {
                let seen_dead = self.settler.is_dead(run, attempt)?;
                self.elsewhere.insert(run, Elsewhere { attempt, seen_dead });
            } else if let Finding::Settled = self.settler.settle_if_dead(run, attempt).await? {
                self.elsewhere.remove(&run);
                self.refresh(run).await?;
            }
        }
        Ok(())
    }

    /// Learns which beginnings were saved in earlier sessions, or by other schedulers.
    pub(super) async fn recall_beginnings(&mut self) -> Result<(), Error> {
        let leaders = self.families.leaders().collect();
        self.hear_of_beginnings(leaders).await
    }

    async fn hear_of_beginnings(&mut self, mut leaders: Vec<RunId>) -> Result<(), Error> {
        leaders.retain(|run| self.queue.holds_others(*run));
        if leaders.is_empty() {
            return Ok(());
        }
        for (run, epochs) in self.settler.store.reader().checkpoint_epochs(&leaders).await? {
            self.queue.saved(run, epochs);
        }
        Ok(())
    }

    /// Makes the workers leave whose runs somebody wants taken out. Asking twice changes nothing.
    pub(super) async fn look_for_requests(&mut self) -> Result<(), Error> {
        let ours: Vec<RunId> = self.active.keys().copied().collect();
        for run in self.settler.store.reader().cancel_requests(&ours).await? {
            if let Some(active) = self.active.get(&run) {
                active.cancel.notify_one();
            }
        }
        Ok(())
    }

    /// Returns whether a run fits on the disk, if need be after clearing up. If it does not, it waits for workers of ours
    /// to end, and where there are none, the session halts.
    pub(super) async fn has_room(&mut self, run: RunId) -> Result<bool, Error> {
        let Room::Short { excess, .. } = self.look_at_disk(run)? else {
            return Ok(true);
        };
        let (home, keep) = (&self.settings.home, self.settings.keep_checkpoints);
        let collected = reclaim(self.settler.store.reader(), home, keep, excess).await?;
        report(&collected);
        if collected.removed_size().files > 0 {
            (self.observe)(Update::Reclaimed { size: collected.removed_size() });
        }
        let Room::Short { needed, available, .. } = self.look_at_disk(run)? else {
            return Ok(true);
        };
        self.crowded = true;
        if self.active.is_empty() {
            self.halt(Halt::DiskFull { needed, available });
        }
        Ok(false)
    }

    /// Ends a session that cannot write its database any more: lets go of the workers, which save what they can and leave,
    /// and waits for that as long as the grace allows.
    pub(super) async fn leave_everything(&mut self, error: &sweep_store::Error) {
        self.halt(Halt::DiskFilled { message: error.to_string() });
        self.supervisors.shutdown().await;
        let patience = Instant::now().checked_add(self.settings.grace);
        let lives = |(run, active): (&RunId, &Active)| {
            is_alive(&self.settings.home, *run, active.attempt).unwrap_or(false)
        };
        while self.active.iter().any(lives) && patience.is_none_or(|end| Instant::now() < end) {
            time::sleep(self.settings.poll).await;
        }
    }

    fn look_at_disk(&self, run: RunId) -> Result<Room, Error> {
        room(self.settings, run, self.active.keys().copied())
    }

    /// Clears up after runs that led or followed others.
    pub(super) async fn tidy_now_and_then(&mut self) -> Result<(), Error> {
        if self.untidy && self.tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_INTERVAL) {
            self.tidy().await?;
        }
        Ok(())
    }

    /// Clears up. Also at the end of a session that had nothing to do: the one before may have been killed just before this.
    pub(super) async fn tidy(&mut self) -> Result<(), Error> {
        let (home, keep) = (&self.settings.home, self.settings.keep_checkpoints);
        report(&collect(self.settler.store.reader(), home, keep, false).await?);
        self.untidy = false;
        self.tidied = Some(Instant::now());
        Ok(())
    }
}

fn report(collected: &Collected) {
    for (path, error) in &collected.failed {
        tracing::warn!(path = %path.display(), %error, "a checkpoint that nobody needs could not be deleted");
    }
    let size = collected.removed_size();
    if size.files > 0 {
        tracing::info!(files = size.files, bytes = size.bytes, "deleted checkpoints that nobody needs");
    }
}
