//! `sweep export`: a view with every row and digit, or everything as a folder for MLflow.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;
use sweep_core::home::Home;
use sweep_report::Error;
use sweep_report::export::{mlflow, parquet};
use sweep_store::{Values, ViewRows};

use crate::cli::{ExportArgs, ExportFormat, Format};
use crate::exit::{Exit, bad_input};
use crate::files::write_whole;
use crate::table::Rows;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &ExportArgs) -> Result<Exit> {
    match &arguments.mlflow {
        Some(folder) => for_mlflow(home, arguments.sweep.as_deref(), folder)?,
        None => view(home, arguments)?,
    }
    Ok(Exit::Success)
}

/// Where rows go, in which form.
enum Target {
    Text(Format, Option<PathBuf>),
    Parquet(PathBuf),
}

fn view(home: &Home, arguments: &ExportArgs) -> Result<()> {
    let target = target(arguments)?;
    let rows = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let sweep = sweeps::named(&reader, arguments.sweep.as_deref()).await?;
        Ok(reader.view(arguments.table, sweep).await?)
    })?;
    match target {
        Target::Parquet(path) => write_whole(&path, &parquet(&rows)?),
        Target::Text(format, Some(path)) => write_whole(&path, text(&rows).render(format)?.as_bytes()),
        Target::Text(format, None) => printer::data(&text(&rows).render(format)?),
    }
}

fn target(arguments: &ExportArgs) -> Result<Target> {
    let output = arguments.output.clone();
    let format = match (arguments.format, &output) {
        (Some(format), _) => format,
        (None, Some(path)) => by_ending(path)?,
        (None, None) => ExportFormat::Csv,
    };
    Ok(match (format, output) {
        (ExportFormat::Parquet, Some(path)) => Target::Parquet(path),
        (ExportFormat::Parquet, None) => {
            let example = "--format parquet --output results.parquet";
            return Err(bad_input(format!("Parquet is no text: it goes into a file\n  hint: {example}")));
        }
        (ExportFormat::Table, output) => Target::Text(Format::Table, output),
        (ExportFormat::Json, output) => Target::Text(Format::Json, output),
        (ExportFormat::Csv, output) => Target::Text(Format::Csv, output),
        (ExportFormat::Markdown, output) => Target::Text(Format::Markdown, output),
        (ExportFormat::Latex, output) => Target::Text(Format::Latex, output),
    })
}

/// The endings of files and their forms.
const ENDINGS: [(&str, ExportFormat); 5] = [
    ("csv", ExportFormat::Csv),
    ("json", ExportFormat::Json),
    ("parquet", ExportFormat::Parquet),
    ("md", ExportFormat::Markdown),
    ("tex", ExportFormat::Latex),
];

/// The form that the name of a file says, in capitals or not.
fn by_ending(path: &Path) -> Result<ExportFormat> {
    let ending = path.extension().unwrap_or_default();
    let known = ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known));
    known.map(|(_, format)| *format).ok_or_else(|| {
        let endings: Vec<String> = ENDINGS.iter().map(|(known, _)| format!(".{known}")).collect();
        bad_input(format!(
            "`{}` does not say its form, expected one of the endings: {}\n  hint: --format says it whatever the ending",
            path.display(),
            endings.join(", ")
        ))
    })
}

/// The rows with one column a field, accuracies as fractions with every digit.
fn text(view: &ViewRows) -> Rows {
    let columns = view.view.columns().iter().map(|column| column.name.to_owned()).collect();
    let row = |row: usize| view.values.iter().map(|values| value(values, row)).collect();
    Rows { columns, rows: (0..view.count).map(row).collect() }
}

fn value(values: &Values, row: usize) -> Value {
    match values {
        Values::Text(values) => values[row].as_deref().into(),
        Values::Integer(values) => values[row].into(),
        Values::Real(values) => values[row].into(),
        Values::Flag(values) => values[row].into(),
    }
}

fn for_mlflow(home: &Home, sweep: Option<&str>, folder: &Path) -> Result<()> {
    let tracking = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let sweep = sweeps::named(&reader, sweep).await?;
        Ok(mlflow::read(&reader, sweep).await?)
    })?;
    mlflow::write(&tracking, folder).map_err(|error| match error {
        Error::ForeignExport { .. } => bad_input(error),
        error => anyhow::Error::new(error),
    })?;
    printer::data(&format!("{}\n", folder.display()))?;
    printer::note(&format!("{} experiments, {} runs", tracking.experiments(), tracking.runs()));
    if tracking.left_out > 0 {
        printer::note(&format!("left out: {} runs that no sweep lists any more", tracking.left_out));
    }
    printer::note(&format!(
        "to see them: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {}",
        folder.display()
    ));
    Ok(())
}
