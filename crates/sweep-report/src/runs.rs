//! Runs, their keys and their numbers: what every table begins with.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sweep_core::event::FailureClass;
use sweep_core::spec::RunId;
use sweep_store::{At, Measured, MeasuredRun, Metric, Reader, State, SweepId};

use crate::error::{Error, Result};
use crate::filter::Condition;
use crate::key::{Key, Value};
use crate::specification::{Member, OPTIONAL, is_identity, members};

/// Keys that say what an experiment is about, in the order in which tables print them.
const MAIN: [&str; 4] = [Key::BACKBONE, Key::DATASET, Key::TARGET_EPSILON, Key::EPSILON_SCHEDULE];

/// Other keys that come first where several would tell runs apart.
const EARLY: [&str; 4] = ["epochs", "batch_size", "optimizer.learning_rate", "input_size"];

/// Runs in the order of their sweep, with the numbers that were read for them.
#[derive(Clone, Debug)]
pub struct Runs {
    metrics: Vec<Metric>,
    at: At,
    list: Vec<Run>,
    members: Vec<Variants>,
}

/// Where a run stands and what came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The run.
    pub id: RunId,
    /// Where it stands.
    pub state: State,
    /// Why its latest attempt failed, if it did.
    pub failure: Option<FailureClass>,
    /// Whether it waits for a run that failed or was cancelled.
    pub blocked: bool,
    /// Epochs trained and validated so far.
    pub epochs_done: u32,
    /// One entry a metric of [`Runs::metrics`]; `None` while it is not known.
    pub values: Vec<Option<Measured>>,
}

/// The values of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The key.
    pub key: Key,
    /// Its different values: numbers by size, names in the order of the sweep.
    pub values: Vec<Value>,
    /// The index in `values` of each run.
    pub of: Vec<u32>,
}

/// The different forms of one member of a specification, and which of them each run has.
#[derive(Clone, Debug)]
struct Variants {
    name: String,
    forms: Vec<Member>,
    of: Vec<u32>,
}

/// Runs in groups: the number of each run's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) of: Vec<u32>,
    pub(crate) count: u32,
}

impl Runs {
    /// Reads the runs of a sweep, or all runs, with these numbers; runs that others only start from are left out.
    pub async fn read(reader: &Reader, sweep: Option<SweepId>, metrics: &[Metric], at: At) -> Result<Self> {
        Self::new(reader.measured(sweep, metrics, at).await?, metrics, at)
    }

    /// Takes apart runs that were read for `metrics` at `at`.
    pub fn new(measured: Vec<MeasuredRun>, metrics: &[Metric], at: At) -> Result<Self> {
        let members = take_apart(&measured)?;
        let run = |run: MeasuredRun| Run {
            id: run.id,
            state: run.state,
            failure: run.failure,
            blocked: run.blocked,
            epochs_done: run.epochs_done,
            values: run.values,
        };
        let mut runs =
            Self { metrics: metrics.to_vec(), at, list: measured.into_iter().map(run).collect(), members };
        runs.members.push(states(&runs.list));
        Ok(runs)
    }

    /// Returns the runs, in the order of the sweep.
    pub fn runs(&self) -> &[Run] {
        &self.list
    }

    /// Returns the metrics that were read.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Returns for which weights they were read.
    pub const fn at(&self) -> At {
        self.at
    }

    /// Returns the values of a key. A key that no run has is an error that says which there are.
    pub fn column(&self, key: &Key) -> Result<Column> {
        let unknown = || self.unknown(key);
        let variants = self.members.iter().find(|member| member.name == key.member()).ok_or_else(unknown)?;
        variants.column(key).ok_or_else(unknown)
    }

    /// Returns the runs that fit all conditions.
    ///
    /// # Errors
    /// Conditions on keys or values that no run has, and conditions that together leave no run.
    pub fn matching(mut self, conditions: &[Condition]) -> Result<Self> {
        let mut kept = vec![true; self.list.len()];
        for condition in conditions {
            let column = self.column(condition.key())?;
            let fits = condition.fits(&column)?;
            kept.iter_mut().zip(&column.of).for_each(|(kept, value)| *kept &= fits[*value as usize]);
        }
        if !self.list.is_empty() && !kept.contains(&true) {
            return Err(Error::NothingLeft);
        }
        retain(&mut self.list, &kept);
        for member in &mut self.members {
            retain(&mut member.of, &kept);
        }
        Ok(self)
    }

    /// Returns the keys that a table needs so that no two of its rows or columns mix different experiments: the main keys
    /// (backbone, dataset, target epsilon, epsilon schedule) that differ between runs, and of the others as many as it
    /// takes to tell runs apart. Left out are `except`, whatever lies within them, and the seed.
    pub fn varying(&self, except: &[Key]) -> Vec<Key> {
        let is_free = |key: &Key| !except.iter().any(|one| one.contains(key));
        let main = MAIN.into_iter().map(Key::new).filter(|key| is_free(key));
        let mut keys: Vec<Key> =
            main.filter(|key| self.column(key).is_ok_and(|column| column.is_varying())).collect();
        let groups = self.groups(&keys);
        keys.extend(self.separating(&groups, except));
        keys
    }

    /// Returns keys that differ between runs of the same group, as many as it takes to tell all such runs apart; without
    /// `except`, what lies within them, and the seed.
    pub(crate) fn separating(&self, groups: &Groups, except: &[Key]) -> Vec<Key> {
        let mut groups = groups.clone();
        let mut keys = Vec::new();
        for key in self.differing() {
            if key.name() == Key::SEED || except.iter().any(|one| one.contains(&key)) {
                continue;
            }
            let Ok(column) = self.column(&key) else { continue };
            if !column.is_varying() {
                continue;
            }
            let finer = groups.refined(&column.of);
            if finer.count > groups.count {
                groups = finer;
                keys.push(key);
            }
        }
        keys
    }

    /// Returns the keys of the identity, whole members aside, that differ between runs: the main ones first.
    fn differing(&self) -> Vec<Key> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for member in self.members.iter().filter(|member| member.is_used_twice()) {
            names.extend(member.forms.iter().flat_map(|form| form.leaves.keys()).cloned());
        }
        let early = MAIN.into_iter().chain(EARLY).map(str::to_owned);
        let order: Vec<String> = early.chain(names.iter().cloned()).collect();
        let mut seen = BTreeSet::new();
        let is_key = |name: &String| is_identity(name) && name != Key::STATE;
        order
            .into_iter()
            .filter(|name| is_key(name) && seen.insert(name.clone()))
            .map(|name| Key::new(&name))
            .collect()
    }

    /// Returns the runs in groups of equal values of all keys; keys that no run has do not count.
    pub(crate) fn groups(&self, keys: &[Key]) -> Groups {
        let columns = keys.iter().filter_map(|key| self.column(key).ok());
        columns.fold(Groups::one(self.list.len()), |groups, column| groups.refined(&column.of))
    }

    /// Returns the runs in groups that are equal in everything that changes a result, but for the keys in `without` and
    /// what lies within them.
    pub(crate) fn equal_but(&self, without: &[Key]) -> Groups {
        let mut groups = Groups::one(self.list.len());
        for member in self.members.iter().filter(|member| member.name != Key::STATE) {
            groups = groups.refined(&member.identities(without));
        }
        groups
    }

    fn unknown(&self, key: &Key) -> Error {
        let every: BTreeSet<Key> = self
            .members
            .iter()
            .flat_map(|member| {
                let leaves = member.forms.iter().flat_map(|form| form.leaves.keys());
                leaves.map(String::as_str).chain([member.name.as_str()]).map(Key::new)
            })
            .collect();
        let likeness = |other: &&Key| strsim::jaro_winkler(key.label(), other.label());
        let near = every.iter().max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
        let near = near.filter(|near| likeness(near) > NEAR).cloned();
        let mut known: Vec<Key> = MAIN.into_iter().chain([Key::SEED]).chain(EARLY).map(Key::new).collect();
        known.extend(self.varying(&known));
        known.push(Key::new(Key::STATE));
        Error::UnknownKey { key: key.clone(), near, known: listed(&known) }
    }
}

/// Jaro-Winkler similarity from which a suggestion is rather a help than a riddle.
const NEAR: f64 = 0.85;

/// Values that an error message lists at most.
const LISTED: usize = 20;

/// Returns texts as an error message lists them.
pub(crate) fn listed<T: ToString>(values: &[T]) -> String {
    let shown: Vec<String> = values.iter().take(LISTED).map(ToString::to_string).collect();
    let more = values.len().saturating_sub(LISTED);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn retain<T>(values: &mut Vec<T>, kept: &[bool]) {
    let mut kept = kept.iter();
    values.retain(|_| kept.next().copied().unwrap_or(false));
}

impl Column {
    /// Returns whether runs differ in it.
    pub fn is_varying(&self) -> bool {
        self.of.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Returns the places of the values that `text` means: one that is written so, or else all that it fits.
    pub(crate) fn meant(&self, text: &str) -> Vec<u32> {
        let places = |fits: &dyn Fn(&Value) -> bool| -> Vec<u32> {
            (0..).zip(&self.values).filter(|(_, value)| fits(value)).map(|(place, _)| place).collect()
        };
        let written = places(&|value| value.is_written(text));
        if written.is_empty() { places(&|value| value.fits(text)) } else { written }
    }

    /// Builds the column of a key from the value of each run's form.
    fn new(key: &Key, forms: &[Option<&Value>], of: &[u32]) -> Self {
        let used = first_appearances(of, forms.len());
        let mut distinct: Vec<&Value> = Vec::new();
        let mut place_of_text: HashMap<(bool, String), u32> = HashMap::new();
        let mut place = vec![0; forms.len()];
        for form in used {
            let value = forms[form].unwrap_or(&Value::None);
            let text = (matches!(value, Value::None), value.to_string());
            place[form] = *place_of_text.entry(text).or_insert_with(|| {
                distinct.push(value);
                distinct.len() as u32 - 1
            });
        }
        let mut order: Vec<u32> = (0..distinct.len() as u32).collect();
        order.sort_by(|left, right| distinct[*left as usize].order(distinct[*right as usize]));
        let mut rank = vec![0; distinct.len()];
        order.iter().zip(0..).for_each(|(place, index)| rank[*place as usize] = index);
        Self {
            key: key.clone(),
            values: order.iter().map(|place| distinct[*place as usize].clone()).collect(),
            of: of.iter().map(|form| rank[place[*form as usize] as usize]).collect(),
        }
    }
}

/// Returns the numbers below `count` that occur, in the order in which they first do.
fn first_appearances(of: &[u32], count: usize) -> Vec<usize> {
    let mut seen = vec![false; count];
    of.iter().map(|form| *form as usize).filter(|form| !std::mem::replace(&mut seen[*form], true)).collect()
}

impl Variants {
    /// Returns the values of this member, or of a key within it; `None` where no form has it.
    fn column(&self, key: &Key) -> Option<Column> {
        let of_form = |form: &'_ Member| -> bool { form.leaves.contains_key(key.name()) };
        if key.name() == self.name {
            let labels: Vec<Option<&Value>> = self.forms.iter().map(|form| Some(&form.label)).collect();
            return Some(Column::new(key, &labels, &self.of));
        }
        if !self.forms.iter().any(of_form) {
            return None;
        }
        let values: Vec<Option<&Value>> = self.forms.iter().map(|form| form.leaves.get(key.name())).collect();
        Some(Column::new(key, &values, &self.of))
    }

    fn is_used_twice(&self) -> bool {
        self.of.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Returns, for each run, the number of its form's identity.
    fn identities(&self, without: &[Key]) -> Vec<u32> {
        let is_out = |leaf: &str| {
            let leaf = Key::new(leaf);
            without.iter().any(|key| key.contains(&leaf))
        };
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut number = |form: &Member| {
            let next = numbers.len() as u32;
            *numbers.entry(form.identity(is_out)).or_insert(next)
        };
        let of_form: Vec<u32> = self.forms.iter().map(&mut number).collect();
        self.of.iter().map(|form| of_form[*form as usize]).collect()
    }
}

impl Groups {
    /// Returns `runs` runs in one group.
    pub(crate) fn one(runs: usize) -> Self {
        Self { of: vec![0; runs], count: u32::from(runs > 0) }
    }

    /// Splits the groups by another number of each run; groups count by first appearance.
    pub(crate) fn refined(&self, by: &[u32]) -> Self {
        let mut numbers: HashMap<(u32, u32), u32> = HashMap::new();
        let of = self.of.iter().zip(by).map(|(group, part)| {
            let next = numbers.len() as u32;
            *numbers.entry((*group, *part)).or_insert(next)
        });
        let of = of.collect();
        Self { of, count: numbers.len() as u32 }
    }
}

/// Cuts the specifications into members and reads every different one once.
fn take_apart(measured: &[MeasuredRun]) -> Result<Vec<Variants>> {
    let mut texts: BTreeMap<&str, Texts<'_>> = OPTIONAL.map(|name| (name, Texts::default())).into();
    for (index, run) in measured.iter().enumerate() {
        let damaged = |source| Error::Specification { run: run.id, source };
        for (name, text) in members(&run.spec).map_err(damaged)? {
            texts.entry(name).or_default().set(index, text.get());
        }
    }
    texts.into_iter().map(|(name, texts)| texts.read(name, measured)).collect()
}

/// The different texts of one member.
#[derive(Default)]
struct Texts<'a> {
    /// Number of each text, from 1, and the first run that has it.
    numbers: HashMap<&'a str, (u32, usize)>,
    /// The number of each run's text; 0 where it has none. May be shorter than the list of runs.
    of: Vec<u32>,
}

impl<'a> Texts<'a> {
    fn set(&mut self, run: usize, text: &'a str) {
        let next = self.numbers.len() as u32 + 1;
        let (number, _) = *self.numbers.entry(text).or_insert((next, run));
        self.of.resize(run, 0);
        self.of.push(number);
    }

    fn read(mut self, name: &str, runs: &[MeasuredRun]) -> Result<Variants> {
        self.of.resize(runs.len(), 0);
        let mut order: Vec<(&str, u32, usize)> =
            self.numbers.iter().map(|(text, (number, run))| (*text, *number, *run)).collect();
        order.sort_by_key(|(_, number, _)| *number);
        let read = |text, run: usize| {
            Member::read(name, text).map_err(|source| Error::Specification { run: runs[run].id, source })
        };
        // Number 0 stands for runs without the member; where there are none, nobody asks for its form.
        let mut forms = match self.of.iter().position(|number| *number == 0) {
            Some(run) => vec![read(None, run)?],
            None => vec![Member { label: Value::None, leaves: BTreeMap::new() }],
        };
        for (text, _, run) in order {
            forms.push(read(Some(text), run)?);
        }
        Ok(Variants { name: name.to_owned(), forms, of: self.of })
    }
}

/// Where the runs stand, as if it were a member of the specification.
fn states(runs: &[Run]) -> Variants {
    const BLOCKED: u32 = State::ALL.len() as u32;
    let form = |name: &str| {
        let label = Value::Text(name.to_owned());
        Member { leaves: BTreeMap::from([(Key::STATE.to_owned(), label.clone())]), label }
    };
    let number = |run: &Run| {
        let place = State::ALL.iter().position(|state| *state == run.state);
        if run.blocked { BLOCKED } else { place.map_or(BLOCKED, |place| place as u32) }
    };
    let names = State::ALL.iter().map(|state| state.label()).chain(["blocked"]);
    Variants {
        name: Key::STATE.to_owned(),
        forms: names.map(form).collect(),
        of: runs.iter().map(number).collect(),
    }
}
