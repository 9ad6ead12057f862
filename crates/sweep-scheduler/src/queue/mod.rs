//! Which run starts next: a pure state machine over the runs of a sweep, without clock, processes or database.
//!
//! The order is the order of expansion, among the runs that are ready. A run is ready when it is pending (or was
//! interrupted), its dependency has succeeded, its backoff is over, and nobody is about to train its beginning: a follower
//! is held until its leader has saved the checkpoint that it starts from, or will not come further in this session. Every
//! operation costs O(log n) or less, counted over a whole sweep, so ten thousand runs cost each what a hundred do.
//!
//! Nothing waits for ever: a leader stands before its followers, and whatever becomes of it lets them go.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, hash_map};
use std::time::Duration;

use sweep_core::spec::RunId;

/// One run as the queue sees it at the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) run: RunId,
    pub(crate) depends_on: Option<Dependency>,
    pub(crate) follows: Option<Lead>,
    pub(crate) phase: Phase,
}

/// Who trains the beginning of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// A run of the same queue; one that comes later in it holds nobody back.
    pub(crate) leader: RunId,
    /// Epochs of the beginning.
    pub(crate) epochs: u32,
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

impl Phase {
    /// Returns whether a run in this phase does no more work in this session.
    const fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::SetAside | Self::Blocked)
    }
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
    /// The leader and the epochs that it has to save, until it has.
    held_by: Option<(usize, u32)>,
    followers: Vec<usize>,
}

impl Node {
    const fn new(run: RunId, phase: Phase) -> Self {
        Self { run, phase, depends_on: None, dependents: Vec::new(), held_by: None, followers: Vec::new() }
    }
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
        let mut edges = Vec::new();
        for Entry { run, depends_on, follows, phase } in entries {
            if let hash_map::Entry::Vacant(place) = queue.index.entry(run) {
                place.insert(queue.nodes.len());
                queue.nodes.push(Node::new(run, phase));
                edges.push((depends_on, follows));
            }
        }
        let mut blocked = Vec::new();
        for (node, (dependency, lead)) in edges.into_iter().enumerate() {
            queue.connect(node, dependency, &mut blocked);
            queue.hold(node, lead);
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

    fn hold(&mut self, node: usize, lead: Option<Lead>) {
        let Some(Lead { leader, epochs }) = lead else { return };
        let leader = self.position(leader);
        if leader < node {
            self.nodes[node].held_by = Some((leader, epochs));
            self.nodes[leader].followers.push(node);
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
        self.let_go(node);
    }

    /// Notes that a run has saved a checkpoint after that many whole epochs, from which its followers may go on.
    pub(crate) fn saved(&mut self, run: RunId, epochs: u32) {
        let leader = self.position(run);
        for position in 0..self.nodes[leader].followers.len() {
            let follower = self.nodes[leader].followers[position];
            if self.nodes[follower].held_by.is_some_and(|(_, needed)| needed <= epochs) {
                self.nodes[follower].held_by = None;
                self.offer(follower);
            }
        }
    }

    /// Notes that a run has failed for good; returns the runs that can no longer start because of it.
    pub(crate) fn failed(&mut self, run: RunId) -> Vec<Blocked> {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Failed;
        let mut blocked = Vec::new();
        self.block_dependents(node, &mut blocked);
        self.let_go(node);
        blocked
    }

    /// Puts a run back, to start at `due` or later.
    pub(crate) fn again(&mut self, run: RunId, due: Duration) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Pending;
        self.delayed.push(Reverse((due, node)));
    }

    /// Leaves a run alone until the next session, and with it what depends on it.
    pub(crate) fn set_aside(&mut self, run: RunId) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::SetAside;
        let mut idle = vec![node];
        while let Some(node) = idle.pop() {
            self.let_go(node);
            let dependents = self.nodes[node].dependents.iter().copied();
            idle.extend(dependents.filter(|node| self.nodes[*node].phase == Phase::Pending));
        }
    }

    /// Puts a run that was popped but not started back to its place.
    pub(crate) fn put_back(&mut self, run: RunId) {
        let node = self.position(run);
        self.nodes[node].phase = Phase::Pending;
        self.offer(node);
    }

    /// Returns whether a run is still to be started.
    pub(crate) fn is_waiting(&self, run: RunId) -> bool {
        self.nodes[self.position(run)].phase == Phase::Pending
    }

    /// Returns whether a run is ready whose time has come at the last [`Self::pop`].
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns whether a run keeps others from starting.
    pub(crate) fn holds_others(&self, run: RunId) -> bool {
        self.nodes[self.position(run)]
            .followers
            .iter()
            .any(|follower| self.nodes[*follower].held_by.is_some())
    }

    /// Counts what is left: runs that could still be done some day, and runs that are blocked.
    pub(crate) fn census(&self) -> Census {
        let count = |phase| self.nodes.iter().filter(|node| node.phase == phase).count();
        Census { pending: count(Phase::Pending), blocked: count(Phase::Blocked) }
    }

    /// Makes a run ready if nothing holds it back.
    fn offer(&mut self, node: usize) {
        let Node { phase, depends_on, held_by, .. } = &self.nodes[node];
        let free = depends_on.is_none_or(|dependency| self.nodes[dependency].phase == Phase::Succeeded);
        let held = held_by.is_some_and(|(leader, _)| !self.nodes[leader].phase.is_over());
        if *phase == Phase::Pending && free && !held {
            self.ready.insert(node);
        }
    }

    /// Lets the followers of a run that is over go, wherever it has come to: they start from what is stored.
    fn let_go(&mut self, leader: usize) {
        for position in 0..self.nodes[leader].followers.len() {
            let follower = self.nodes[leader].followers[position];
            self.nodes[follower].held_by = None;
            self.offer(follower);
        }
    }

    /// Blocks what depends on `node`, directly or not. Every run is blocked at most once, so the sum over a sweep is
    /// linear.
    fn block_dependents(&mut self, node: usize, blocked: &mut Vec<Blocked>) {
        let before = blocked.len();
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
        // Only now, since a follower may be among the blocked itself.
        for Blocked { run, .. } in &blocked[before..] {
            self.let_go(self.position(*run));
        }
    }

    fn position(&self, run: RunId) -> usize {
        *self.index.get(&run).expect("callers name only runs that the queue was built with")
    }
}

#[cfg(test)]
mod tests;
