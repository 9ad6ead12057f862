//! Tests of the queue: cases, and an oracle that computes everything anew.

use proptest::prelude::*;

use super::*;

fn id(number: usize) -> RunId {
    format!("{number:032x}").parse().unwrap()
}

fn pending(run: usize) -> Entry {
    Entry { run: id(run), depends_on: None, follows: None, phase: Phase::Pending }
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

fn following(run: usize, leader: usize, epochs: u32) -> Entry {
    Entry { follows: Some(Lead { leader: id(leader), epochs }), ..pending(run) }
}

#[test]
fn a_follower_starts_when_its_beginning_is_saved_and_not_before() {
    let (mut queue, _) = Queue::new([pending(1), following(2, 1, 3), pending(4), following(5, 2, 1)]);
    assert_eq!(drain(&mut queue, NOW), [id(1), id(4)]);
    assert!(queue.holds_others(id(1)));
    queue.saved(id(1), 2);
    assert_eq!(queue.pop(NOW), None);
    queue.saved(id(1), 3);
    assert!(!queue.holds_others(id(1)));
    assert_eq!(drain(&mut queue, NOW), [id(2)]);
    queue.saved(id(2), 7);
    assert_eq!(drain(&mut queue, NOW), [id(5)]);
}

#[test]
fn whatever_becomes_of_a_leader_lets_its_followers_go() {
    let ends: [fn(&mut Queue); 3] =
        [|queue| queue.succeeded(id(1)), |queue| drop(queue.failed(id(1))), |queue| queue.set_aside(id(1))];
    for end in ends {
        let (mut queue, _) = Queue::new([pending(1), following(2, 1, 3)]);
        assert_eq!(drain(&mut queue, NOW), [id(1)]);
        end(&mut queue);
        assert_eq!(drain(&mut queue, NOW), [id(2)]);
    }
}

#[test]
fn a_leader_that_is_tried_again_is_waited_for() {
    let (mut queue, _) = Queue::new([pending(1), following(2, 1, 3)]);
    assert_eq!(drain(&mut queue, NOW), [id(1)]);
    queue.again(id(1), Duration::from_secs(1));
    assert_eq!(drain(&mut queue, NOW), []);
    assert_eq!(drain(&mut queue, Duration::from_secs(1)), [id(1)]);
}

#[test]
fn a_blocked_leader_holds_nobody() {
    let leader = |run| Entry { depends_on: Some(Dependency::Inside(id(9))), ..pending(run) };
    let (mut queue, _) = Queue::new([pending(9), leader(1), following(2, 1, 1), following(3, 2, 1)]);
    assert_eq!(drain(&mut queue, NOW), [id(9)]);
    queue.failed(id(9));
    assert_eq!(drain(&mut queue, NOW), [id(2)]);
    let unmet = Entry { depends_on: Some(Dependency::Unmet(id(77))), ..pending(1) };
    assert_eq!(drain(&mut Queue::new([unmet, following(2, 1, 1)]).0, NOW), [id(2)]);
    let over = Entry { phase: Phase::Succeeded, ..pending(1) };
    assert_eq!(drain(&mut Queue::new([over, following(2, 1, 1)]).0, NOW), [id(2)]);
}

#[test]
fn a_leader_whose_dependency_is_set_aside_holds_nobody() {
    let (mut queue, _) = Queue::new([pending(9), after(1, 9), after(2, 1), following(3, 2, 1)]);
    assert_eq!(drain(&mut queue, NOW), [id(9)]);
    queue.set_aside(id(9));
    assert_eq!(drain(&mut queue, NOW), [id(3)]);
}

#[test]
fn a_leader_that_comes_later_holds_nobody() {
    assert_eq!(drain(&mut Queue::new([following(2, 1, 1), pending(1)]).0, NOW), [id(2), id(1)]);
}

#[test]
fn what_is_put_back_keeps_its_place() {
    let (mut queue, _) = Queue::new([pending(1), pending(2)]);
    queue.pop(NOW);
    assert!(!queue.is_waiting(id(1)));
    queue.put_back(id(1));
    assert!(queue.is_waiting(id(1)));
    assert_eq!(drain(&mut queue, NOW), [id(1), id(2)]);
}

/// Runs of one random queue.
const RUNS: usize = 20;

/// Longest common beginning in one.
const EPOCHS: u32 = 4;

/// The state of every run, kept apart from the queue.
struct Oracle {
    entries: Vec<Entry>,
    phases: HashMap<RunId, Phase>,
    saved: HashMap<RunId, u32>,
}

impl Oracle {
    fn new(entries: Vec<Entry>) -> Self {
        let phases = entries.iter().map(|entry| (entry.run, entry.phase)).collect();
        Self { entries, phases, saved: HashMap::new() }
    }

    fn depends_on_success(&self, entry: &Entry) -> bool {
        match entry.depends_on {
            None => true,
            Some(Dependency::Inside(run)) => self.phases[&run] == Phase::Succeeded,
            Some(Dependency::Unmet(_)) => false,
        }
    }

    fn is_held(&self, entry: &Entry) -> bool {
        entry.follows.is_some_and(|Lead { leader, epochs }| {
            let saved = self.saved.get(&leader).copied().unwrap_or(0);
            self.may_get_further(leader) && saved < epochs
        })
    }

    fn may_get_further(&self, run: RunId) -> bool {
        let waits_in_vain = |entry: &Entry| match entry.depends_on {
            Some(Dependency::Inside(run)) => {
                self.phases[&run] != Phase::Succeeded && !self.may_get_further(run)
            }
            _ => false,
        };
        let entry = self.entries.iter().find(|entry| entry.run == run);
        match self.phases[&run] {
            Phase::Running => true,
            Phase::Pending => !entry.is_some_and(waits_in_vain),
            _ => false,
        }
    }

    /// Returns what may start, computed anew from a whole snapshot: slow and obvious.
    fn next(&self) -> Option<RunId> {
        let mut pending = self.entries.iter().filter(|entry| self.phases[&entry.run] == Phase::Pending);
        pending.find(|entry| self.depends_on_success(entry) && !self.is_held(entry)).map(|entry| entry.run)
    }

    fn set(&mut self, run: RunId, phase: Phase) {
        self.phases.insert(run, phase);
    }

    fn block(&mut self, blocked: Vec<Blocked>) {
        for Blocked { run, .. } in blocked {
            self.set(run, Phase::Blocked);
        }
    }
}

/// Entries whose dependencies and leaders come earlier.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let edge = || prop::option::of(any::<prop::sample::Index>());
    prop::collection::vec((edge(), edge(), 1..=EPOCHS), RUNS).prop_map(|edges| {
        let earlier = |run: usize, edge: Option<prop::sample::Index>| {
            edge.filter(|_| run > 0).map(|index| id(index.index(run)))
        };
        let entry = |(run, (dependency, leader, epochs)): (usize, (_, _, u32))| Entry {
            depends_on: earlier(run, dependency).map(Dependency::Inside),
            follows: earlier(run, leader).map(|leader| Lead { leader, epochs }),
            ..pending(run)
        };
        edges.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    /// In any order of outcomes the queue agrees with a recomputation at every step, and everything that can run does.
    #[test]
    fn the_incremental_queue_agrees_with_a_recomputation(
        entries in entries(),
        choices in prop::collection::vec(any::<(bool, u8, u8)>(), 10 * RUNS),
    ) {
        let mut oracle = Oracle::new(entries.clone());
        let (mut queue, _) = Queue::new(entries.iter().copied());
        let mut running: Vec<RunId> = Vec::new();
        let mut choices = choices.into_iter();
        loop {
            // When the choices are used up, everything that is left succeeds.
            let (start, which, outcome) = choices.next().unwrap_or((true, 0, u8::MAX));
            let expected = oracle.next();
            if start && expected.is_some() || running.is_empty() {
                prop_assert_eq!(queue.pop(NOW), expected);
                let Some(run) = expected else { break };
                oracle.set(run, Phase::Running);
                running.push(run);
                continue;
            }
            let run = running.swap_remove(usize::from(which) % running.len());
            match outcome {
                0..40 => {
                    oracle.set(run, Phase::Failed);
                    oracle.block(queue.failed(run));
                }
                40..80 => {
                    oracle.set(run, Phase::Pending);
                    queue.again(run, NOW);
                }
                80..100 => {
                    oracle.set(run, Phase::SetAside);
                    queue.set_aside(run);
                }
                100..180 => {
                    let saved = oracle.saved.get(&run).map_or(1, |saved| saved + 1);
                    oracle.saved.insert(run, saved);
                    queue.saved(run, saved);
                    running.push(run);
                }
                _ => {
                    oracle.set(run, Phase::Succeeded);
                    queue.succeeded(run);
                }
            }
        }
        for entry in &entries {
            let left = oracle.phases[&entry.run] == Phase::Pending;
            prop_assert!(!left || !oracle.depends_on_success(entry), "{} never started", entry.run);
        }
    }
}
