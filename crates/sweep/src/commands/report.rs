//! `sweep report`: the paper's tables and figures of a sweep, as one HTML page and a folder of files.

use anyhow::Result;
use sweep_core::home::Home;
use sweep_report::{Error, Form, Material, Written};

use crate::cli::{FigureForm, ReportArgs};
use crate::exit::{Exit, bad_input};
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &ReportArgs) -> Result<Exit> {
    let material = sweeps::block_on(async {
        let reader = sweeps::open(home).await?;
        let Some(sweep) = sweeps::named_or_latest(&reader, arguments.sweep.as_deref()).await? else {
            return Err(bad_input("there is no sweep to report on yet\n  hint: sweep run quickstart"));
        };
        Ok(Material::read(&reader, sweep).await?)
    })?;
    let forms: Vec<Form> = arguments.figures.iter().filter_map(|form| form_of(*form)).collect();
    let written = sweep_report::write(&material, &arguments.output, &forms).map_err(|error| match error {
        Error::Foreign { .. } => bad_input(error),
        error => anyhow::Error::new(error),
    })?;
    printer::data(&format!("{}\n", written.page.display()))?;
    tell(&material, &written);
    Ok(Exit::Success)
}

const fn form_of(form: FigureForm) -> Option<Form> {
    match form {
        FigureForm::Svg => Some(Form::Svg),
        FigureForm::Png => Some(Form::Png),
        FigureForm::None => None,
    }
}

/// Says what the report holds and what it does not.
fn tell(material: &Material, written: &Written) {
    let (runs, figures) = (material.runs.len(), written.drawn.figures.len());
    printer::note(&format!("sweep {}: {runs} runs, {figures} figures", material.sweep.name));
    for omitted in &written.drawn.omitted {
        printer::note(&format!("not drawn: {}, {}: {}", omitted.reference, omitted.title, omitted.reason));
    }
}
