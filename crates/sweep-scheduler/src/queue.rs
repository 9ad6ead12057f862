//! Which run starts next: a pure state machine over the runs of a sweep, without clock, processes or database.
//!
//! The order is the order of expansion, among the runs that are ready. A run is ready when it is pending (or was
//! interrupted), its dependency has succeeded and its backoff is over. Every operation costs O(log n) or less, counted
//! over a whole sweep, so ten thousand runs cost each what a hundred do.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, hash_map};
use std::time::Duration;

use sweep_core::spec::RunId;

/// One run as the queue sees it at the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) run: RunId,
    pub(crate) depends_on: Option<Dependency>,
    pub(crate) phase: Phase,
}

/// What a run depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependency {
    /// A run of the same queue.
    Inside(RunId),
    /// A run that is not of this queue and has not succeeded: nothing here will change that.
    Unmet(RunId),
}

/// Where a run stands. What a run waits for (dependency, backoff) is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To be done.
    Pending,
    /// Somebody is at it: this scheduler or another.
    Running,
    /// Done.
    Succeeded,
    /// Will not be done: it failed for good or was cancelled.
    Failed,
    /// Was stopped and is left alone until the next session.
    SetAside,
    /// What it depends on will not be done.
    Blocked,
}

/// The runs of a sweep and what may start now.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    nodes: Vec<Node>,
    index: HashMap<RunId, usize>,
    ready: BTreeSet<usize>,
    /// Runs whose backoff is not over, earliest first.
    delayed: BinaryHeap<Reverse<(Duration, usize)>>,
}

#[derive(Debug)]
struct Node {
    run: RunId,
    phase: Phase,
    depends_on: Option<usize>,
    dependents: Vec<usize>,
}

/// A run that will not start because another one did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) run: RunId,
    pub(crate) dependency: RunId,
}

/// How many runs stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) pending: usize,
    pub(crate) blocked: usize,
}

impl Queue {
    /// Returns the queue over `entries`, in their order, and the runs that are blocked from the beginning. A run that
    /// comes twice is one run.
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> (Self, Vec<Blocked>) {
        let mut queue = Self::default();
        let mut dependencies = Vec::new();
        for Entry { run, depends_on, phase } in entries {
            if let hash_map::Entry::Vacant(place) = queue.index.entry(run) {
                place.insert(queue.nodes.len());
                queue.nodes.push(Node { run, phase, depends_on: None, dependents: Vec::new() });
                dependencies.push(depends_on);
            }
        }
        let mut blocked = Vec::new();
        for (node, dependency) in dependencies.into_iter().enumerate() {
            queue.connect(node, dependency, &mut blocked);
        }
        for node in 0..queue.nodes.len() {
            if matches!(queue.nodes[node].phase, Phase::Failed | Phase::Blocked) {
                queue.block_dependents(node, &mut blocked);
            }
            queue.offer(node);
        }
        (queue, blocked)
    }

    fn connect(&mut self, node: usize, dependency: Option<Dependency>, blocked: &mut Vec<Blocked>) {
        match dependency {
            Some(Dependency::Unmet(dependency)) if self.nodes[node].phase == Phase::Pending => {
                self.nodes[node].phase = Phase::Blocked;
                blocked.push(Blocked { run: self.nodes[node].run, dependency });
            }
            None | Some(Dependency::Unmet(_)) => {}
            Some(Dependency::Inside(run)) => {
                let dependency = self.position(run);
                self.nodes[node].depends_on = Some(dependency);
                self.nodes[dependency].dependents.push(node);
            }
        }
    }

    /// Takes the next run to start out of the queue, if one is ready at `now`; it is running from here on.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<RunId> {
        while let Some(Reverse((due, node))) = self.delayed.peek().copied()
            && due <= now
        {
            self.delayed.pop();
            self.offer(node);
        }
        let node = self.ready.pop_first()?;
        self.nodes[node].phase = Phase::Running;
        Some(self.nodes[node].run)
    }

    /// Returns when the next backoff ends, if any run waits for that.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.delayed.peek().map(|Reverse((due, _))| *due)
    }

    /// Notes that a run has succeeded, which makes its dependents ready.
    pub(crate) fn succeeded(&mut self, run: RunId) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Succeeded;
        for position in 0..self.nodes[node].dependents.len() {
            self.offer(self.nodes[node].dependents[position]);
        }
    }

    /// Notes that a run has failed for good; returns the runs that can no longer start because of it.
    pub(crate) fn failed(&mut self, run: RunId) -> Vec<Blocked> {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Failed;
        let mut blocked = Vec::new();
        self.block_dependents(node, &mut blocked);
        blocked
    }

    /// Puts a run back, to start at `due` or later.
    pub(crate) fn again(&mut self, run: RunId, due: Duration) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Pending;
        self.delayed.push(Reverse((due, node)));
    }

    /// Leaves a run alone until the next session.
    pub(crate) fn set_aside(&mut self, run: RunId) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::SetAside;
    }

    /// Counts what is left: runs that could still be done some day, and runs that are blocked.
    pub(crate) fn census(&self) -> Census {
        let count = |phase| self.nodes.iter().filter(|node| node.phase == phase).count();
        Census { pending: count(Phase::Pending), blocked: count(Phase::Blocked) }
    }

    /// Makes a run ready if nothing holds it back.
    fn offer(&mut self, node: usize) {
        let free = self.nodes[node]
            .depends_on
            .is_none_or(|dependency| self.nodes[dependency].phase == Phase::Succeeded);
        if self.nodes[node].phase == Phase::Pending && free {
            self.ready.insert(node);
        }
    }

    /// Blocks what depends on `node`, directly or not. Every run is blocked at most once, so the sum over a sweep is
    /// linear.
    fn block_dependents(&mut self, node: usize, blocked: &mut Vec<Blocked>) {
        let mut hopeless = vec![node];
        while let Some(dependency) = hopeless.pop() {
            for position in 0..self.nodes[dependency].dependents.len() {
                let dependent = self.nodes[dependency].dependents[position];
                if self.nodes[dependent].phase == Phase::Pending {
                    self.nodes[dependent].phase = Phase::Blocked;
                    let (run, dependency) = (self.nodes[dependent].run, self.nodes[dependency].run);
                    blocked.push(Blocked { run, dependency });
                    hopeless.push(dependent);
                }
            }
        }
    }

    fn position(&self, run: RunId) -> usize {
        *self.index.get(&run).expect("callers name only runs that the queue was built with")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> RunId {
        format!("{number:032x}").parse().unwrap()
    }

    fn pending(run: usize) -> Entry {
        Entry { run: id(run), depends_on: None, phase: Phase::Pending }
    }

    fn after(run: usize, dependency: usize) -> Entry {
        Entry { depends_on: Some(Dependency::Inside(id(dependency))), ..pending(run) }
    }

    fn drain(queue: &mut Queue, now: Duration) -> Vec<RunId> {
        std::iter::from_fn(|| queue.pop(now)).collect()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn runs_start_in_the_order_of_expansion_and_each_once() {
        let (mut queue, blocked) = Queue::new([pending(7), pending(3), pending(7), pending(5)]);
        assert_eq!(drain(&mut queue, NOW), [id(7), id(3), id(5)]);
        assert!(blocked.is_empty());
    }

    #[test]
    fn what_is_done_or_running_does_not_start() {
        let entries = [Phase::Succeeded, Phase::Failed, Phase::Running, Phase::Pending];
        let entries = entries.into_iter().enumerate().map(|(run, phase)| Entry { phase, ..pending(run) });
        assert_eq!(drain(&mut Queue::new(entries).0, NOW), [id(3)]);
    }

    #[test]
    fn a_dependent_waits_for_success_and_then_goes_first_by_its_place() {
        let (mut queue, _) = Queue::new([after(1, 9), pending(9), pending(2)]);
        assert_eq!(queue.pop(NOW), Some(id(9)));
        queue.succeeded(id(9));
        assert_eq!(drain(&mut queue, NOW), [id(1), id(2)]);
    }

    #[test]
    fn failure_blocks_dependents_and_theirs_once() {
        let (mut queue, _) = Queue::new([after(1, 9), pending(9), after(2, 1)]);
        assert_eq!(queue.pop(NOW), Some(id(9)));
        let blocked = queue.failed(id(9));
        assert_eq!(
            blocked,
            [Blocked { run: id(1), dependency: id(9) }, Blocked { run: id(2), dependency: id(1) }]
        );
        assert_eq!(queue.failed(id(9)), []);
        assert_eq!(queue.pop(NOW), None);
        assert_eq!(queue.census(), Census { pending: 0, blocked: 2 });
    }

    #[test]
    fn blocked_from_the_beginning_through_a_chain() {
        let unmet = Entry { depends_on: Some(Dependency::Unmet(id(77))), ..pending(1) };
        let failed = Entry { phase: Phase::Failed, ..pending(3) };
        let (queue, blocked) = Queue::new([after(2, 1), unmet, failed, after(4, 3)]);
        let pairs = [(1, 77), (2, 1), (4, 3)]
            .map(|(run, dependency)| Blocked { run: id(run), dependency: id(dependency) });
        assert_eq!(blocked, pairs);
        assert_eq!(queue.census(), Census { pending: 0, blocked: 3 });
    }

    #[test]
    fn backoff_is_waited_for_and_the_earliest_is_next() {
        let (mut queue, _) = Queue::new([pending(1), pending(2)]);
        drain(&mut queue, NOW);
        queue.again(id(1), Duration::from_secs(20));
        queue.again(id(2), Duration::from_secs(10));
        assert_eq!(queue.next_due(), Some(Duration::from_secs(10)));
        assert_eq!(queue.pop(Duration::from_secs(9)), None);
        assert_eq!(queue.pop(Duration::from_secs(10)), Some(id(2)));
        assert_eq!(queue.pop(Duration::from_secs(20)), Some(id(1)));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn a_run_that_is_set_aside_keeps_its_dependents_waiting_but_blocks_none() {
        let (mut queue, _) = Queue::new([pending(1), after(2, 1)]);
        queue.pop(NOW);
        queue.set_aside(id(1));
        assert_eq!(queue.pop(NOW), None);
        assert_eq!(queue.census(), Census { pending: 1, blocked: 0 });
    }

    /// What may start, computed anew from a whole snapshot: slow and obvious.
    fn oracle(entries: &[Entry], phases: &HashMap<RunId, Phase>) -> Option<RunId> {
        let free = |entry: &&Entry| match entry.depends_on {
            None => true,
            Some(Dependency::Inside(run)) => phases[&run] == Phase::Succeeded,
            Some(Dependency::Unmet(_)) => false,
        };
        entries.iter().filter(|entry| phases[&entry.run] == Phase::Pending).find(free).map(|entry| entry.run)
    }

    #[test]
    fn the_incremental_queue_agrees_with_a_recomputation_at_every_step() {
        for seed in 0..200_u64 {
            let mut state = seed;
            let mut draw = |bound: u64| {
                // Knuth's MMIX constants; the high bits are the good ones.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let entries: Vec<Entry> = (0..30)
                .map(|run| {
                    if draw(2) == 0 || run == 0 {
                        pending(run)
                    } else {
                        after(run, draw(run as u64) as usize)
                    }
                })
                .collect();
            let mut phases: HashMap<RunId, Phase> =
                entries.iter().map(|entry| (entry.run, entry.phase)).collect();
            let (mut queue, _) = Queue::new(entries.iter().copied());
            let mut running = Vec::new();
            loop {
                let expected = oracle(&entries, &phases);
                if expected.is_some() && draw(2) == 0 || running.is_empty() {
                    assert_eq!(queue.pop(NOW), expected, "seed {seed}");
                    let Some(run) = expected else { break };
                    phases.insert(run, Phase::Running);
                    running.push(run);
                    continue;
                }
                let run = running.swap_remove(draw(running.len() as u64) as usize);
                match draw(4) {
                    0 => {
                        phases.insert(run, Phase::Failed);
                        for blocked in queue.failed(run) {
                            phases.insert(blocked.run, Phase::Blocked);
                        }
                    }
                    1 => {
                        phases.insert(run, Phase::Pending);
                        queue.again(run, NOW);
                        // The delayed heap is looked at by the next `pop`, which the oracle does not model otherwise.
                    }
                    _ => {
                        phases.insert(run, Phase::Succeeded);
                        queue.succeeded(run);
                    }
                }
            }
        }
    }
}
