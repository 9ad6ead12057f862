//! `sweep data show`: what a dataset holds, read as a run would read it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sweep_core::home::Home;
use sweep_data::{Dataset, LoadOptions, Progress, contact_sheet};

use crate::cli::DataShowArgs;
use crate::exit::Exit;
use crate::files::write_whole;
use crate::table::Rows;
use crate::{printer, sweeps};

pub(crate) fn show(home: &Home, arguments: &DataShowArgs) -> Result<Exit> {
    let named = sweeps::dataset(&arguments.name, arguments.sweep.as_deref(), home)?;
    let cache = home.cache();
    let options = LoadOptions { image_size: arguments.size, cache: &cache, base: Path::new("") };
    let mut said = None;
    let mut progress = |progress: Progress<'_>| {
        if said.as_deref() != Some(progress.split) {
            said = Some(progress.split.to_owned());
            printer::note(&format!("reading {} images of `{}`", progress.total, progress.split));
        }
    };
    let dataset = Dataset::load(&named.name, &named.definition, options, &mut progress)
        .with_context(|| format!("dataset `{}`", named.name))?;
    printer::rows(&splits(&dataset), arguments.form.format)?;
    printer::note(&classes(&dataset));
    for (split, count) in dataset.skipped().iter().filter(|(_, count)| **count > 0) {
        printer::note(&format!(
            "warning: {count} pictures of the source's split `{split}` cannot be read and are left out"
        ));
    }
    if let Some(path) = &arguments.output {
        let (columns, rows) = grid(dataset.counts().classes);
        let sheet =
            contact_sheet(dataset.train(), columns, rows).context("failed to draw the contact sheet")?;
        write_whole(path, &sheet)?;
    }
    Ok(Exit::Success)
}

/// One row a split.
fn splits(dataset: &Dataset) -> Rows {
    let mut rows = Rows::new(&["split", "images", "classes", "least a class", "most a class"]);
    for split in [dataset.train(), dataset.validation(), dataset.test()] {
        let mut counts = vec![0_u64; split.classes() as usize];
        for label in split.labels() {
            counts[label as usize] += 1;
        }
        let populated = counts.iter().filter(|count| **count > 0).count();
        let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
        rows.push(vec![
            split.name().into(),
            split.len().into(),
            populated.into(),
            least.map_or(Value::Null, Value::from),
            most.map_or(Value::Null, Value::from),
        ]);
    }
    rows
}

/// The first names of the classes, in one line.
fn classes(dataset: &Dataset) -> String {
    const SHOWN: usize = 12;
    let names = dataset.class_names();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} classes: {shown}{more}; content {}",
        names.len(),
        &dataset.digest()[..12.min(dataset.digest().len())]
    )
}

/// Columns and rows of a sheet with a cell for every class, a little wider than high; of many classes the first 400.
fn grid(classes: u32) -> (u32, u32) {
    let cells = f64::from(classes.clamp(1, 400));
    let columns = (cells * 1.5).sqrt().ceil();
    (columns as u32, (cells / columns).ceil() as u32)
}
