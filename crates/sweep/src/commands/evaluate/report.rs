//! What is shown and written of measured points.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use sweep_core::epsilon::Epsilon;
use sweep_core::metrics::{Count, is_monotone};
use sweep_worker::{NamedAttack, Point};

use crate::exit::bad_input;
use crate::table::{Rows, percent, rounded};

/// What is shown of the points.
pub(super) struct Report<'a> {
    pub(super) attack: &'a NamedAttack,
    pub(super) known: &'a BTreeMap<Epsilon, Count>,
    pub(super) points: &'a [Point],
}

impl Report<'_> {
    /// The counts by radius: measured now, else known.
    fn counts(&self) -> BTreeMap<Epsilon, Count> {
        let mut counts = self.known.clone();
        counts.extend(self.points.iter().map(|point| (point.epsilon, point.robust)));
        counts
    }

    pub(super) fn rows(&self, radii: &[Epsilon]) -> Rows {
        let mut rows =
            Rows::new(&["attack", "norm", "epsilon", "correct", "total", "accuracy %", "seconds", "from"]);
        let counts = self.counts();
        for (radius, count) in counts.iter().filter(|(radius, _)| radii.contains(radius)) {
            let measured = self.points.iter().find(|point| point.epsilon == *radius);
            rows.push(vec![
                self.attack.label_at(*radius).into(),
                self.attack.norm().label().into(),
                radius.to_string().into(),
                count.correct.into(),
                count.total.into(),
                percent(count.accuracy()),
                measured.map_or(Value::Null, |point| rounded(point.seconds, 1)),
                if measured.is_some() { "measured" } else { "results" }.into(),
            ]);
        }
        rows
    }

    /// Checks the points against each other and against what was known, and says what does not hold.
    pub(super) fn warnings(&self, split: &sweep_data::Split) -> Result<Vec<String>> {
        let counts = self.counts();
        let mut warnings = Vec::new();
        if let Some(point) = self
            .points
            .iter()
            .find(|point| counts.get(&Epsilon::ZERO).is_some_and(|clean| *clean != point.clean))
        {
            anyhow::bail!(
                "at {} the clean images do not have the clean accuracy of epsilon 0",
                point.epsilon
            );
        }
        for point in self.points {
            if point.robust.correct > point.clean.correct {
                warnings.push(format!("at {} more images are robust than clean", point.epsilon));
            }
            if let [.., (_, before), (last, after)] = point.left.as_slice()
                && after < before
            {
                let broken = before - after;
                warnings.push(format!(
                    "at {} {last}, which uses no gradients, broke {broken} images that withstood the others: suspect masked gradients",
                    point.epsilon
                ));
            }
            if self.known.get(&point.epsilon).is_some_and(|known| *known != point.robust) {
                warnings.push(format!(
                    "at {} the results have another count than the one measured now",
                    point.epsilon
                ));
            }
        }
        if counts.values().any(|count| count.total != split.len()) {
            warnings.push(format!("a count is not that of all {} images", split.len()));
        }
        let points: Vec<(Epsilon, Count)> = counts.into_iter().collect();
        if !is_monotone(&points) {
            warnings.push(
                "accuracy rises with the radius by more than sampling error: suspect the attack".to_owned(),
            );
        }
        Ok(warnings)
    }
}

/// Form of the outcomes of single images.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Csv,
    Jsonl,
}

impl Form {
    /// By the ending of the file, whose folder must exist.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !fs::metadata(folder).is_ok_and(|found| found.is_dir()) {
            return Err(bad_input(format!(
                "`{}`: there is no folder `{}`",
                path.display(),
                folder.display()
            )));
        }
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Ok(Self::Csv),
            Some("jsonl") => Ok(Self::Jsonl),
            _ => Err(bad_input(format!("`{}`: expected a name that ends in .csv or .jsonl", path.display()))),
        }
    }

    /// One row an image and radius, by image, then by radius.
    pub(super) fn text(self, points: &[Point]) -> Result<String> {
        let columns = ["index", "label", "epsilon", "prediction", "correct"];
        let images = points.first().map_or(0, |point| point.outcomes.len());
        let mut rows = Rows::new(&columns);
        for index in 0..images {
            for point in points {
                let outcome = point.outcomes[index];
                rows.push(vec![
                    index.into(),
                    outcome.label.into(),
                    point.epsilon.to_string().into(),
                    outcome.prediction.into(),
                    outcome.is_correct().into(),
                ]);
            }
        }
        match self {
            Self::Csv => rows.render(crate::cli::Format::Csv),
            Self::Jsonl => rows.lines(),
        }
    }
}
