//! Whose model it is, and the results that its points join.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sweep_core::dataset::DatasetSpec;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::Split;
use sweep_core::home::Home;
use sweep_core::metrics::Count;
use sweep_core::spec::{RunId, RunSpec};
use sweep_data::Dataset;
use sweep_store::{Reader, Store};
use sweep_worker::{MeasurementLog, NamedAttack, Point, Subject, measurements};
use tokio::runtime::Runtime;

use crate::exit::bad_input;
use crate::{printer, sweeps};

/// Where a checkpoint lies, and the run that was named.
pub(super) struct Owner {
    pub(super) folder: PathBuf,
    pub(super) run: Option<(RunId, RunSpec)>,
}

impl Owner {
    pub(super) fn find(home: &Home, checkpoint: &str) -> Result<Self> {
        let folder = Path::new(checkpoint);
        if Subject::is_folder(folder) {
            return Ok(Self { folder: folder.to_owned(), run: None });
        }
        if folder.is_dir() {
            return Err(bad_input(format!("`{checkpoint}` has no config.json and model.safetensors")));
        }
        if checkpoint.is_empty() || !checkpoint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad_input(format!(
                "`{checkpoint}` is no folder and not the beginning of a run's id\n  hint: give a folder with config.json and model.safetensors, or a run from `sweep status`"
            )));
        }
        let (run, spec) = sweeps::block_on(async {
            let reader = sweeps::open(home).await?;
            let run = reader.resolve_run(checkpoint).await.map_err(bad_input)?;
            Ok((run, spec_of(&reader, run).await?))
        })?;
        let folder = home.model(run);
        if !Subject::is_folder(&folder) {
            return Err(bad_input(format!(
                "run {} has no final model yet\n  hint: `sweep status` shows where it stands",
                run.short()
            )));
        }
        Ok(Self { folder, run: Some((run, spec)) })
    }
}

async fn spec_of(reader: &Reader, run: RunId) -> Result<RunSpec> {
    reader.spec(run).await?.context("the run was there a moment ago")
}

/// The results that points join.
pub(super) struct Book {
    run: RunId,
    epochs: u32,
    digest: String,
    store: Store,
    runtime: Runtime,
}

impl Book {
    /// Opens the results if the model is the final one of a run on these images and computes as that did: of the run that
    /// was named, else of the first one that has this model.
    pub(super) fn open(
        home: &Home,
        owner: &Owner,
        subject: &Subject,
        dataset: &DatasetSpec,
        image_size: u32,
    ) -> Result<Option<Self>> {
        if !home.database().exists() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the asynchronous runtime")?;
        let digest = subject.digest().to_owned();
        let found = runtime.block_on(async {
            let store = Store::open(home.database()).await?;
            let mut runs = store.reader().runs_with_model(&digest).await?;
            if let Some((named, _)) = &owner.run {
                runs.retain(|run| run == named);
            }
            for run in runs {
                let spec = spec_of(store.reader(), run).await?;
                let is_same = spec.dataset.definition.is_same(dataset)
                    && spec.input_size == image_size
                    && spec.precision == subject.precision();
                if is_same {
                    return anyhow::Ok(Some((store, run, spec.epochs)));
                }
            }
            store.close().await?;
            Ok(None)
        })?;
        let Some((store, run, epochs)) = found else {
            printer::note(
                "the points join no results: this is no run's final model on that run's own images, in its precision",
            );
            return Ok(None);
        };
        let book = Self { run, epochs, digest, store, runtime };
        // What a session that died has measured but not entered.
        book.enter(home)?;
        Ok(Some(book))
    }

    /// Enters the event files of every measurement of the run; what is there already stays.
    fn enter(&self, home: &Home) -> Result<()> {
        self.runtime.block_on(async {
            for (number, records) in measurements(home, self.run)? {
                self.store.ingest_measurement(self.run, number, &records).await?;
            }
            Ok(())
        })
    }

    /// Returns the points that need not be measured any more.
    pub(super) fn known(&self, split: Split, attack: &NamedAttack) -> Result<BTreeMap<Epsilon, Count>> {
        let rows = self.runtime.block_on(self.store.reader().evaluations_of(self.run))?;
        let same = rows.into_iter().filter(|row| {
            row.epochs == self.epochs
                && row.split == split
                && row.norm == attack.norm()
                && row.attack == attack.label_at(row.epsilon)
                && row.model_digest.as_ref().is_none_or(|digest| *digest == self.digest)
        });
        Ok(same.map(|row| (row.epsilon, row.count)).collect())
    }
}

/// The points of this session on their way into the results: each goes into the event file first, then into the database.
pub(super) struct Entries<'a> {
    home: &'a Home,
    book: Option<&'a Book>,
    known: &'a BTreeMap<Epsilon, Count>,
    threads: usize,
    /// Made with the first point that is new.
    log: Option<MeasurementLog>,
}

impl<'a> Entries<'a> {
    pub(super) const fn new(
        home: &'a Home,
        book: Option<&'a Book>,
        known: &'a BTreeMap<Epsilon, Count>,
        threads: usize,
    ) -> Self {
        Self { home, book, known, threads, log: None }
    }

    /// Enters a point unless it is known already or belongs to no run.
    pub(super) fn add(
        &mut self,
        subject: &Subject,
        dataset: &Dataset,
        split: Split,
        attack: &NamedAttack,
        point: &Point,
    ) -> Result<()> {
        let Some(book) = self.book.filter(|_| !self.known.contains_key(&point.epsilon)) else {
            return Ok(());
        };
        if self.log.is_none() {
            let log =
                MeasurementLog::create(self.home, book.run, book.epochs, subject, dataset, self.threads);
            self.log = Some(log.context("failed to begin the event file")?);
        }
        if let Some(log) = &mut self.log {
            log.point(split, attack, point).context("failed to record the point")?;
        }
        book.enter(self.home)
    }

    /// Enters the last word of a session that has entered anything.
    pub(super) fn finish(&mut self, is_complete: bool) -> Result<()> {
        let (Some(book), Some(log)) = (self.book, &mut self.log) else { return Ok(()) };
        log.finish(is_complete).context("failed to record the end")?;
        book.enter(self.home)?;
        printer::note(&format!("the new points have joined the results of run {}", book.run.short()));
        Ok(())
    }
}
