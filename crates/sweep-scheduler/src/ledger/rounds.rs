//! What every session looks at from time to time: attempts in other hands, and the disk.

use sweep_core::spec::RunId;
use tokio::time::{Duration, Instant};

use super::{Elsewhere, Ledger, Next};
use crate::error::Error;
use crate::retention::{Collected, Room, collect, reclaim, room};
use crate::settle::Finding;
use crate::update::Update;

/// How long checkpoints that nobody needs may lie before they are cleared up within a session: looking at every run of the
/// database is not for every end of a run.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

impl Ledger<'_> {
    pub(crate) fn await_elsewhere(&mut self, run: RunId, attempt: u32) {
        self.elsewhere.insert(run, Elsewhere { attempt, seen_dead: false });
        (self.observe)(Update::Elsewhere { run, attempt });
    }

    /// Looks after the attempts in other hands: one that is found dead twice is settled, if its own scheduler has not
    /// done that by then, and its run goes on from what the database says.
    pub(crate) async fn look_elsewhere(&mut self) -> Result<(), Error> {
        if self.elsewhere.is_empty() {
            return Ok(());
        }
        self.hear_of_beginnings(self.elsewhere.keys().copied().collect()).await?;
        let attempts: Vec<(RunId, Elsewhere)> =
            self.elsewhere.iter().map(|(run, other)| (*run, *other)).collect();
        for (run, Elsewhere { attempt, seen_dead }) in attempts {
            if !seen_dead {
                let seen_dead = self.settler.is_dead(run, attempt)?;
                self.elsewhere.insert(run, Elsewhere { attempt, seen_dead });
            } else if let Finding::Settled = self.settler.settle_if_dead(run, attempt).await? {
                self.elsewhere.remove(&run);
                if let Next::Again(delay) = self.refresh(run).await? {
                    self.again(run, delay);
                }
            }
        }
        Ok(())
    }

    /// Learns which beginnings were saved in earlier sessions, or by other schedulers.
    pub(crate) async fn recall_beginnings(&mut self) -> Result<(), Error> {
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

    /// Returns whether a run fits on the disk beside those in hand, of which at most `at_once` are worked on at a time, if need
    /// be after clearing up.
    pub(crate) async fn room(
        &mut self,
        run: RunId,
        in_hand: &[RunId],
        at_once: usize,
    ) -> Result<Room, Error> {
        let look = || room(self.settings, &self.models, run, in_hand, at_once);
        let Room::Short { excess, .. } = look()? else {
            return Ok(Room::Enough);
        };
        let (home, keep) = (&self.settings.home, self.settings.keep_checkpoints);
        let collected = reclaim(self.settler.store.reader(), home, keep, excess).await?;
        let room = look()?;
        report(&collected);
        if collected.removed_size().files > 0 {
            self.tell(Update::Reclaimed { size: collected.removed_size() });
        }
        Ok(room)
    }

    /// Notes that an attempt has ended, which may leave checkpoints behind that nobody needs.
    pub(crate) fn ended(&mut self, run: RunId) {
        self.untidy |= self.families.concern(run);
    }

    /// Clears up after runs that led or followed others.
    pub(crate) async fn tidy_now_and_then(&mut self) -> Result<(), Error> {
        if self.untidy && self.tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_INTERVAL) {
            self.tidy().await?;
        }
        Ok(())
    }

    /// Clears up. Also at the end of a session that had nothing to do: the one before may have been killed just before this.
    pub(crate) async fn tidy(&mut self) -> Result<(), Error> {
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
