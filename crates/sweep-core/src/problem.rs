//! What is wrong with a sweep file: everything at once, each with its place.

use std::collections::HashSet;
use std::fmt;

/// One thing wrong in a sweep file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Key path in the file, such as `matrix.target_epsilon[1]`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What would help, if anything is known.
    pub hint: Option<String>,
}

impl Problem {
    /// Returns a problem at `path`.
    ///
    /// Texts are cut where they are longer than anybody reads: a value of a megabyte must not be told a thousand times.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: cut(path.into()), message: cut(message.into()), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(cut(hint.into()));
        self
    }
}

/// Cuts a text that is longer than any honest one.
fn cut(text: String) -> String {
    const LONGEST: usize = 4000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        write!(formatter, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything wrong with a sweep file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// How many problems are printed; the rest is counted.
    const PRINTED: usize = 40;

    /// Returns the problems in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { list: vec![problem] }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.list.len();
        write!(formatter, "{count} problem{}", if count == 1 { "" } else { "s" })?;
        for problem in self.list.iter().take(Self::PRINTED) {
            write!(formatter, "\n  {problem}")?;
        }
        match count.checked_sub(Self::PRINTED) {
            Some(rest) if rest > 0 => write!(formatter, "\n  … and {rest} more"),
            _ => Ok(()),
        }
    }
}

/// Gathers problems while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    list: Vec<Problem>,
    seen: HashSet<Problem>,
    reports: usize,
}

impl Collector {
    /// Most problems that are kept: far more than anybody reads.
    const KEPT: usize = 1000;

    /// Adds a problem unless the same one is there already: a fault in `run` shows once, not once a grid point.
    pub(crate) fn add(&mut self, problem: Problem) {
        self.reports += 1;
        if self.list.len() < Self::KEPT && self.seen.insert(problem.clone()) {
            self.list.push(problem);
        }
    }

    /// Returns how often something was reported, the same thing again included.
    pub(crate) const fn reports(&self) -> usize {
        self.reports
    }

    /// Returns an error if anything was added.
    pub(crate) fn finish(self) -> Result<(), Problems> {
        if self.list.is_empty() { Ok(()) } else { Err(Problems { list: self.list }) }
    }
}

/// Most candidates that a word is compared with, and the longest word that is: time is their product.
const MOST_CANDIDATES: usize = 200;
const LONGEST_WORD: usize = 100;

/// Returns the candidate most like `word`, if any of the first [`MOST_CANDIDATES`] is like it at all.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let comparable =
        candidates.into_iter().take(MOST_CANDIDATES).filter(|candidate| candidate.len() <= LONGEST_WORD);
    let scored = comparable.map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 > 0.8).then_some(best.1)
}

/// Returns a problem for an unknown `word`, with the nearest of `candidates` or all of them, each once.
pub(crate) fn unknown(what: &str, path: &str, word: &str, candidates: &[&str]) -> Problem {
    let mut seen = HashSet::new();
    let candidates: Vec<&str> =
        candidates.iter().copied().filter(|candidate| seen.insert(*candidate)).collect();
    let shown = &candidates[..candidates.len().min(MOST_CANDIDATES)];
    let more = match candidates.len() - shown.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let problem =
        Problem::new(path, format!("unknown {what} `{word}`, expected one of: {}{more}", shown.join(", ")));
    match did_you_mean(word, candidates.iter().copied()) {
        Some(candidate) => problem.hint(format!("did you mean `{candidate}`?")),
        None => problem,
    }
}
