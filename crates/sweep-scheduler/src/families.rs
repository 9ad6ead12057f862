//! Runs that begin alike: who trains the beginning, and for whom.

use std::collections::HashMap;
use std::io;

use sweep_core::home::Home;
use sweep_core::spec::{RunId, RunSpec};
use sweep_core::trajectory::{Companion, Follower, Sharing, followers};

use crate::files::write_atomically;
use crate::queue::Lead;

/// Who follows whom among the runs of a session.
#[derive(Debug, Default)]
pub(crate) struct Families {
    leads: HashMap<RunId, Lead>,
    /// The direct followers of a run, in the order of the list.
    followers: HashMap<RunId, Vec<Follower>>,
}

impl Families {
    /// Returns who follows whom among `unfinished`, in their order.
    pub(crate) fn among(unfinished: &[(RunId, &RunSpec)]) -> Self {
        let mut families = Self::default();
        for follower in followers(unfinished) {
            let Follower { run, leader, epochs } = follower;
            families.leads.insert(run, Lead { leader, epochs });
            families.followers.entry(leader).or_default().push(follower);
        }
        families
    }

    /// Returns who trains the beginning of a run, if another one does.
    pub(crate) fn lead(&self, run: RunId) -> Option<Lead> {
        self.leads.get(&run).copied()
    }

    /// Returns the runs that train beginnings of others.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = RunId> {
        self.followers.keys().copied()
    }

    /// Returns whether a run leads or follows.
    pub(crate) fn concern(&self, run: RunId) -> bool {
        self.leads.contains_key(&run) || self.followers.contains_key(&run)
    }

    /// Returns what the worker of `run` is to do for the runs that go on from its beginning and are still to be started.
    ///
    /// A follower's own followers have this run's beginning too, up to where their leader leaves it: what they would have
    /// measured in it must be in the checkpoint that they get by way of their leader.
    pub(crate) fn sharing(
        &self,
        run: RunId,
        specs: &HashMap<RunId, &RunSpec>,
        is_waiting: impl Fn(RunId) -> bool,
    ) -> Sharing {
        let mut companions = Vec::new();
        for direct in self.direct(run) {
            let mut family = vec![direct.run];
            while let Some(member) = family.pop() {
                // Going through those that do not wait is in order: somebody behind them may.
                family.extend(self.direct(member).iter().rev().map(|follower| follower.run));
                if is_waiting(member) {
                    companions.push(companion(member, direct.epochs, specs[&member]));
                }
            }
        }
        Sharing { companions }
    }

    fn direct(&self, run: RunId) -> &[Follower] {
        self.followers.get(&run).map_or(&[], Vec::as_slice)
    }
}

fn companion(run: RunId, epochs: u32, spec: &RunSpec) -> Companion {
    Companion { run, epochs, attack: spec.validation.attack.clone(), target_epsilon: spec.target_epsilon }
}

/// Tells the worker of a run what it does for others: nothing, where there is no file.
pub(crate) fn write_sharing(home: &Home, run: RunId, sharing: &Sharing) -> io::Result<()> {
    let path = home.sharing(run);
    if !sharing.companions.is_empty() {
        return write_atomically(&path, &serde_json::to_vec(sharing)?);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sweep_core::epsilon::Epsilon;
    use sweep_core::schedule::{EpsilonSchedule, Granularity};
    use sweep_testkit::{Workspace, sample_run};

    use super::*;

    /// A run that trains clean until epoch `start` and then up to an epsilon of `target`/255.
    fn ramp(start: u32, target: u8) -> (RunId, RunSpec) {
        let spec = RunSpec {
            target_epsilon: Epsilon::from_255ths(target),
            epsilon_schedule: EpsilonSchedule::Ramp { start, end: 9, per: Granularity::Epoch },
            epochs: 10,
            ..sample_run(0)
        };
        (spec.id(), spec)
    }

    fn epochs(sharing: &Sharing) -> Vec<(RunId, u32)> {
        sharing.companions.iter().map(|companion| (companion.run, companion.epochs)).collect()
    }

    #[test]
    fn a_leader_serves_its_followers_and_theirs_up_to_where_they_leave_it() {
        // All begin with the clean epochs of the first, whose ramp starts earliest; the others stay clean for longer.
        let runs = [ramp(2, 8), ramp(4, 4), ramp(4, 2)];
        let listed: Vec<(RunId, &RunSpec)> = runs.iter().map(|(run, spec)| (*run, spec)).collect();
        let specs: HashMap<RunId, &RunSpec> = listed.iter().copied().collect();
        let [first, second, third] = [runs[0].0, runs[1].0, runs[2].0];
        let families = Families::among(&listed);
        let common = families.lead(second).unwrap().epochs;
        let longer = families.lead(third).unwrap();
        assert_eq!(families.lead(first), None);
        assert_eq!((families.lead(second).unwrap().leader, longer.leader), (first, second));
        assert!(longer.epochs > common);
        assert_eq!(epochs(&families.sharing(first, &specs, |_| true)), [(second, common), (third, common)]);
        assert_eq!(epochs(&families.sharing(second, &specs, |_| true)), [(third, longer.epochs)]);
        assert_eq!(epochs(&families.sharing(first, &specs, |run| run == third)), [(third, common)]);
        let served = families.sharing(first, &specs, |_| true);
        assert_eq!(served.companions[0].target_epsilon, Epsilon::from_255ths(4));
    }

    #[test]
    fn the_file_is_there_exactly_where_there_is_something_to_do() {
        let workspace = Workspace::new();
        let home = workspace.layout();
        let (run, spec) = ramp(2, 8);
        std::fs::create_dir_all(home.run(run)).unwrap();
        write_sharing(&home, run, &Sharing::default()).unwrap();
        assert!(!home.sharing(run).exists());
        let sharing = Sharing { companions: vec![companion(run, 3, &spec)] };
        write_sharing(&home, run, &sharing).unwrap();
        let read: Sharing = serde_json::from_slice(&std::fs::read(home.sharing(run)).unwrap()).unwrap();
        assert_eq!(read, sharing);
        write_sharing(&home, run, &Sharing::default()).unwrap();
        assert!(!home.sharing(run).exists());
    }
}
