//! `sweep evaluate`: accuracy of a finished model at any radius, under any attack. Points of a run's final model on the
//! run's own images join the results, by the way that a worker's take: an event file first, then the database.

mod book;
mod report;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result};
use sweep_core::dataset::DatasetSpec;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::Split;
use sweep_core::home::Home;
use sweep_core::metrics::Count;
use sweep_core::spec::{Named, Norm};
use sweep_data::{Dataset, LoadOptions};
use sweep_worker::{Measurement, NamedAttack, Point, Progress, Stop, Subject, measure, use_threads};

use self::book::{Book, Entries, Owner};
use self::report::{Form, Report};
use crate::cli::{EvaluateArgs, NormName, SplitName};
use crate::exit::{Exit, bad_input};
use crate::files::write_whole;
use crate::hub::{Connection, Unknown};
use crate::tally::Tally;
use crate::{printer, sweeps};

pub(crate) fn run(home: &Home, arguments: &EvaluateArgs) -> Result<Exit> {
    let form = arguments.output.as_deref().map(Form::of).transpose()?;
    let attack = arguments.attack.clone().in_norm(norm(arguments.norm));
    let owner = Owner::find(home, &arguments.checkpoint)?;
    let subject = subject(arguments, &owner)?;
    let named = dataset_of(home, arguments, &owner)?;
    let image_size = image_size(arguments, &owner, &subject)?;
    check_before(&subject, &attack)?;
    let threads = arguments.threads.map_or_else(cores, |threads| threads as usize);
    use_threads(threads).context("failed to start the threads that compute")?;
    let dataset = load(&named, image_size, home)?;
    check_classes(&subject, &dataset)?;

    let book = if attack.is_random() && arguments.seed != 0 {
        printer::note("the points join no results: those are of the random numbers of --seed 0");
        None
    } else {
        Book::open(home, &owner, &subject, &named.definition, image_size)?
    };
    let (radii, split) = (radii(arguments), split_name(arguments.split));
    let known = book.as_ref().map_or_else(|| Ok(BTreeMap::new()), |book| book.known(split, &attack))?;
    // Outcomes of single images are kept nowhere: who asks for them has the points measured.
    let open = radii.iter().copied().filter(|radius| form.is_some() || !known.contains_key(radius));
    let open: Vec<Epsilon> = open.collect();

    let measurement = Measurement {
        subject: &subject,
        split: images(&dataset, split),
        attack: &attack,
        batch_size: NonZeroUsize::new(arguments.batch_size as usize).unwrap_or(NonZeroUsize::MIN),
        seed: arguments.seed,
    };
    let stop = Stop::new();
    stop.on_signals().context("failed to set signal handlers")?;
    let mut entries = Entries::new(home, book.as_ref(), &known, threads);
    let job = Job { measurement, radii: &open, stop: &stop };
    let points = job.carry_out(&mut |point| entries.add(&subject, &dataset, split, &attack, point))?;
    let is_complete = points.len() == open.len();
    entries.finish(is_complete)?;

    let report = Report { attack: &attack, known: &known, points: &points };
    printer::rows(&report.rows(&radii), arguments.format)?;
    for warning in report.warnings(measurement.split)? {
        printer::note(&format!("warning: {warning}"));
    }
    if let (Some(path), Some(form)) = (&arguments.output, form) {
        write_whole(path, form.text(&points)?.as_bytes())?;
    }
    Ok(if is_complete { Exit::Success } else { Exit::Interrupted })
}

/// The network, computing as was asked for, else as its run did, else in f32.
fn subject(arguments: &EvaluateArgs, owner: &Owner) -> Result<Subject> {
    let own = owner.run.as_ref().map(|(_, spec)| spec.precision);
    let precision = arguments.precision.or(own).unwrap_or_default();
    Subject::load(&owner.folder, &arguments.device, precision).map_err(|error| match error {
        sweep_worker::Error::Precision { .. } if arguments.precision.is_none() => bad_input(format!(
            "{error}, which its run computes in\n  hint: --device cuda:0 where there is a GPU; with --precision f32 the points join no results"
        )),
        error => bad_input(with_causes(&error)),
    })
}

fn dataset_of(home: &Home, arguments: &EvaluateArgs, owner: &Owner) -> Result<Named<DatasetSpec>> {
    match (&arguments.dataset, &owner.run) {
        (Some(name), _) => sweeps::dataset(name, arguments.sweep.as_deref(), home),
        (None, Some((_, spec))) => {
            let mut dataset = spec.dataset.clone();
            Connection::new(home, Unknown::Refuse)?.bring_dataset(&mut dataset.definition)?;
            Ok(dataset)
        }
        (None, None) => Err(bad_input("a checkpoint that is no run's needs --dataset NAME")),
    }
}

/// The side of the images: what was asked for if the network takes it, else that of the run, else the network's own.
fn image_size(arguments: &EvaluateArgs, owner: &Owner, subject: &Subject) -> Result<u32> {
    let own = owner.run.as_ref().map_or(subject.image_size() as u32, |(_, spec)| spec.input_size);
    match arguments.input_size {
        Some(asked) if subject.has_fixed_image_size() && asked as usize != subject.image_size() => {
            Err(bad_input(format!(
                "this network takes images of {0} × {0} pixels only, found --input-size {asked}",
                subject.image_size()
            )))
        }
        asked => Ok(asked.unwrap_or(own)),
    }
}

/// What can be said before any image is read.
fn check_before(subject: &Subject, attack: &NamedAttack) -> Result<()> {
    let (classes, needed) = (subject.classes(), attack.needed_classes());
    if classes < needed {
        return Err(bad_input(format!(
            "{attack} needs at least {needed} classes, the checkpoint has {classes}"
        )));
    }
    if !attack.has_norm() {
        return Err(bad_input(format!(
            "{attack} attacks in linf only, found --norm {}\n  hint: in l2 there are apgd-STEPS-LOSS, pgd-STEPS-LOSS and fgsm-LOSS",
            attack.norm().label()
        )));
    }
    Ok(())
}

fn check_classes(subject: &Subject, dataset: &Dataset) -> Result<()> {
    let found = dataset.counts().classes;
    if found as usize == subject.classes() {
        Ok(())
    } else {
        Err(other_classes(subject.classes(), dataset.name(), found))
    }
}

fn other_classes(checkpoint: usize, name: &str, dataset: u32) -> anyhow::Error {
    bad_input(format!("the checkpoint has {checkpoint} classes, dataset `{name}` has {dataset}"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn load(named: &Named<DatasetSpec>, image_size: u32, home: &Home) -> Result<Dataset> {
    let cache = home.cache();
    let options = LoadOptions { image_size, cache: &cache, base: Path::new("") };
    let loaded = Dataset::load(&named.name, &named.definition, options, &mut |_| ());
    loaded.with_context(|| format!("dataset `{}`", named.name))
}

fn radii(arguments: &EvaluateArgs) -> Vec<Epsilon> {
    let mut radii: Vec<Epsilon> =
        arguments.epsilon.iter().flat_map(|radii| radii.0.iter().copied()).collect();
    radii.sort_unstable();
    radii.dedup();
    radii
}

const fn norm(name: NormName) -> Norm {
    match name {
        NormName::Linf => Norm::Linf,
        NormName::L2 => Norm::L2,
    }
}

const fn split_name(name: SplitName) -> Split {
    match name {
        SplitName::Train => Split::Train,
        SplitName::Validation => Split::Validation,
        SplitName::Test => Split::Test,
    }
}

fn images(dataset: &Dataset, split: Split) -> &sweep_data::Split {
    match split {
        Split::Train => dataset.train(),
        Split::Validation => dataset.validation(),
        Split::Test => dataset.test(),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What is measured, and how.
struct Job<'a> {
    measurement: Measurement<'a>,
    /// Its radii, in increasing order.
    radii: &'a [Epsilon],
    stop: &'a Stop,
}

impl Job<'_> {
    /// Measures the radii one after the other and hands each point over to be kept; returns them all, fewer than there are
    /// radii if somebody asked to leave.
    fn carry_out(&self, keep: &mut dyn FnMut(&Point) -> Result<()>) -> Result<Vec<Point>> {
        let Measurement { attack, split, .. } = self.measurement;
        let cost = |radius: &Epsilon| if radius.is_zero() { 1.0 } else { attack.cost() };
        let mut tally =
            Tally::new(self.radii.iter().map(|radius| cost(radius) * f64::from(split.len())).sum());
        let mut points = Vec::new();
        for radius in self.radii {
            tally.begin(&format!("{} at {radius}", attack.label_at(*radius)), cost(radius));
            let mut show = |progress: Progress| tally.show(progress.done, progress.total);
            let measured = measure(self.measurement, *radius, self.stop, &mut show);
            let Some(point) = measured.context("the measurement failed")? else { break };
            let Count { correct, total } = point.robust;
            let left = point.left.iter().map(|(attack, left)| format!(", {left} after {attack}"));
            let left: String = left.collect();
            let accuracy = 100.0 * point.robust.accuracy();
            tally.end(&format!("{accuracy:.2} % ({correct} of {total}{left})"), total);
            keep(&point)?;
            points.push(point);
        }
        tally.clear();
        Ok(points)
    }
}
