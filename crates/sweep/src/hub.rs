//! What runs take from the Hub: a revision becomes a commit while a sweep is planned, and the files are there before
//! the first worker starts.
//!
//! The commit that a branch meant when it was first asked for is kept in `revisions.json` in the home folder. All later
//! commands use it, so that a sweep that goes on next month is the same sweep; `sweep fetch --update` asks anew.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use sweep_core::dataset::{DatasetSource, DatasetSpec};
use sweep_core::home::Home;
use sweep_core::spec::WeightsSource;
use sweep_core::{Grid, HubKind};
use sweep_hub::{Class, Commit, Error, Hub, Repository, RepositoryKind, Settings};

use crate::download::Download;
use crate::exit::bad_input;
use crate::files::write_whole;
use crate::printer;

/// What a command does about a branch whose commit it cannot find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It ends with an error.
    Refuse,
    /// It goes on with the branch's name, and says so: nothing is run.
    Keep,
}

/// A client of the Hub and the thread's own runtime, which its connections belong to.
struct Client {
    hub: Hub,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn new() -> Result<Self, Error> {
        let unusable =
            |error: std::io::Error| Error::Setting { name: "the runtime", reason: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        Ok(Self { hub: Hub::new(Settings::from_environment()?)?, runtime })
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Finds out which files a want consists of; the inner error is the Hub's.
    fn parcel(&self, want: &Want) -> Result<Result<Parcel, Error>> {
        let hub = &self.hub;
        let listed = || -> Result<_, Error> {
            let (repository, commit) = (want.repository()?, want.commit().parse::<Commit>()?);
            let files = self.wait(hub.files(&repository, &commit));
            // Offline, a file of weights needs no listing: it is in the cache or it is not.
            let files = match (files, want) {
                (Err(Error::Offline { .. }), Want::Weights { .. }) => Vec::new(),
                (files, _) => files?,
            };
            Ok((repository, commit, files))
        };
        let (repository, commit, listing) = match listed() {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let files = match want {
            Want::Weights { file, .. } => vec![file.clone()],
            Want::Dataset { config, splits, .. } => {
                let splits = serde_json::from_str(splits).context("failed to read splits from JSON")?;
                let paths: Vec<String> = listing.iter().map(|file| file.path.clone()).collect();
                let place = PathBuf::from(format!("{}@{}", repository.id(), commit.as_str()));
                sweep_data::parquet_files(&paths, config.as_deref(), &splits, &place).map_err(bad_input)?
            }
        };
        let is_absent = |file: &&String| !listing.iter().any(|entry| entry.path == **file);
        if let Some(path) = files.iter().find(is_absent).filter(|_| !listing.is_empty()).cloned() {
            return Ok(Err(Error::FileMissing { repository, commit, path }));
        }
        let mut missing = Vec::new();
        for file in &files {
            match hub.cached(&repository, &commit, file) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let size = listing.iter().find(|entry| entry.path == *file).map_or(0, |entry| entry.size);
                    missing.push((file.clone(), size));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(Parcel { want: want.clone(), repository, commit, files, missing }))
    }
}

/// The Hub as one command sees it. Nothing is read or asked before a repository is named.
pub(crate) struct Connection {
    client: OnceCell<Client>,
    unknown: Unknown,
    /// Where the commits are kept, and those that are known: `models/owner/name@revision` to 40 digits.
    path: PathBuf,
    revisions: RefCell<BTreeMap<String, String>>,
    /// Whether those are asked for again.
    anew: Cell<bool>,
    /// Commits found by this command.
    found: RefCell<BTreeMap<String, String>>,
    /// Whether the Hub was asked and did not answer: it is not asked again.
    unreachable: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(home: &Home, unknown: Unknown) -> Result<Self> {
        let path = home.root().join("revisions.json");
        let revisions = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                bad_input(format!(
                    "`{}` is damaged: {error}\n  hint: without it, branches of the Hub are resolved anew, and runs may get other ids",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("failed to read `{}`", path.display())),
        };
        Ok(Self {
            client: OnceCell::new(),
            unknown,
            path,
            revisions: RefCell::new(revisions),
            anew: Cell::new(false),
            found: RefCell::default(),
            unreachable: Cell::new(false),
        })
    }

    /// From now on the Hub is asked what branches mean, whatever they meant before.
    pub(crate) fn ask_anew(&self) {
        self.anew.set(true);
    }

    fn known(&self, key: &str) -> Option<String> {
        let kept = || (!self.anew.get()).then(|| self.revisions.borrow().get(key).cloned()).flatten();
        self.found.borrow().get(key).cloned().or_else(kept)
    }

    fn client(&self) -> Result<&Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new()?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Returns the commit that a revision means; see [`sweep_core::Resolve::commit`].
    pub(crate) fn commit(&self, kind: HubKind, id: &str, revision: &str) -> Result<String, String> {
        let key = key(kind, id, revision);
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        if self.is_unreachable() {
            return self.unknown(revision, "not asked: the Hub did not answer before".to_owned());
        }
        match self.ask(kind, id, revision) {
            Ok(commit) => {
                if commit.as_str() != revision {
                    self.found.borrow_mut().insert(key, commit.to_string());
                }
                Ok(commit.to_string())
            }
            Err(error) if error.class() == Class::Transient || matches!(error, Error::Offline { .. }) => {
                let reason = indented(&error);
                // Offline, another repository may be in the cache.
                if error.class() == Class::Transient {
                    self.unreachable.set(true);
                }
                if self.unknown == Unknown::Keep {
                    printer::note(&format!(
                        "note: {reason}\n  until that is known, ids are those of the name `{revision}`"
                    ));
                }
                self.unknown(revision, reason)
            }
            Err(error) => Err(indented(&error)),
        }
    }

    fn unknown(&self, revision: &str, reason: String) -> Result<String, String> {
        match self.unknown {
            Unknown::Refuse => Err(reason),
            Unknown::Keep => Ok(revision.to_owned()),
        }
    }

    fn ask(&self, kind: HubKind, id: &str, revision: &str) -> Result<Commit, Error> {
        let repository = repository(kind, id)?;
        let client = self.client()?;
        client.wait(client.hub.resolve(&repository, revision))
    }

    /// Whether the Hub was asked and did not answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.get()
    }

    /// Keeps the commits that were found, for all later commands.
    pub(crate) fn store(&self) -> Result<()> {
        let mut revisions = self.revisions.borrow_mut();
        let found = self.found.borrow();
        if found.is_empty() {
            return Ok(());
        }
        revisions.extend(found.iter().map(|(key, commit)| (key.clone(), commit.clone())));
        let text = serde_json::to_vec_pretty(&*revisions).context("failed to write revisions as JSON")?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(|| format!("failed to create `{}`", folder.display()))?;
        write_whole(&self.path, &text)
    }

    /// Brings every file that the runs take from the Hub and writes into the runs where it lies.
    ///
    /// # Errors
    /// Everything that is missing or refused, at once.
    pub(crate) fn bring(&self, grid: &mut Grid) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for (_, spec) in &grid.runs {
            wanted.extend(Want::of_weights(&spec.backbone.definition.weights));
            wanted.extend(Want::of_dataset(&spec.dataset.definition)?);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let places = self.bring_all(&wanted)?;
        for (_, spec) in &mut grid.runs {
            let weights = Want::of_weights(&spec.backbone.definition.weights);
            if let (Some(want), WeightsSource::Hub { path, .. }) =
                (weights, &mut spec.backbone.definition.weights)
            {
                *path = places.get(&want).cloned();
            }
            place_dataset(&mut spec.dataset.definition, &places)?;
        }
        Ok(())
    }

    /// Brings the files of one dataset.
    pub(crate) fn bring_dataset(&self, dataset: &mut DatasetSpec) -> Result<()> {
        let wanted: BTreeSet<Want> = Want::of_dataset(dataset)?.into_iter().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let places = self.bring_all(&wanted)?;
        place_dataset(dataset, &places)
    }

    /// Brings what is wanted and returns where it lies: the file of weights, the folder of a dataset.
    fn bring_all(&self, wanted: &BTreeSet<Want>) -> Result<BTreeMap<Want, PathBuf>> {
        let client = self.client().map_err(|error| told(&[error]))?;
        let hub = &client.hub;
        let (mut parcels, mut faults) = (Vec::new(), Vec::new());
        for want in wanted {
            match client.parcel(want)? {
                Ok(parcel) => parcels.push(parcel),
                Err(error) => {
                    let is_down = matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. });
                    faults.push(error);
                    if is_down {
                        break;
                    }
                }
            }
        }
        let bytes: u64 = parcels.iter().flat_map(|parcel| &parcel.missing).map(|(_, size)| size).sum();
        let files: usize = parcels.iter().map(|parcel| parcel.missing.len()).sum();
        if faults.is_empty() && files > 0 {
            announce(hub, files, bytes)?;
        }
        let mut places = BTreeMap::new();
        let mut download = Download::new(files, bytes);
        for parcel in &parcels {
            // With a fault elsewhere nothing is brought; what the cache lacks is still told.
            if !faults.is_empty() && !hub.settings().offline {
                break;
            }
            let paths: Vec<&str> = parcel.files.iter().map(String::as_str).collect();
            let id = parcel.repository.id().to_owned();
            let fetched =
                client.wait(hub.fetch(&parcel.repository, &parcel.commit, &paths, &mut |progress| {
                    download.update(&id, progress.file, progress.done, progress.total);
                }));
            match fetched {
                Ok(files) => {
                    places.insert(parcel.want.clone(), parcel.place(&files)?);
                }
                Err(error) => {
                    let offline = matches!(error, Error::Offline { .. });
                    faults.push(error);
                    if !offline {
                        break;
                    }
                }
            }
        }
        download.finish();
        if faults.is_empty() { Ok(places) } else { Err(told(&faults)) }
    }

    /// How long the Hub takes to answer, and its address.
    pub(crate) fn probe(&self) -> (String, Result<std::time::Duration, Error>) {
        match self.client() {
            Ok(client) => (client.hub.settings().endpoint.clone(), client.wait(client.hub.probe())),
            Err(error) => ("the Hub".to_owned(), Err(error)),
        }
    }

    /// The cache that is shared with Python's `huggingface_hub`.
    pub(crate) fn cache(&self) -> Result<PathBuf, Error> {
        Ok(self.client()?.hub.settings().cache.clone())
    }
}

/// Something that runs take from the Hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Want {
    /// A file of weights.
    Weights { id: String, commit: String, file: String },
    /// The files of a dataset; `splits` as JSON.
    Dataset { id: String, commit: String, config: Option<String>, splits: String },
}

impl Want {
    fn of_weights(weights: &WeightsSource) -> Option<Self> {
        match weights {
            WeightsSource::Hub { repository, revision, file, .. } => {
                Some(Self::Weights { id: repository.clone(), commit: revision.clone(), file: file.clone() })
            }
            _ => None,
        }
    }

    fn of_dataset(dataset: &DatasetSpec) -> Result<Option<Self>> {
        match &dataset.source {
            DatasetSource::Hub { repository, revision, config, .. } => Ok(Some(Self::Dataset {
                id: repository.clone(),
                commit: revision.clone(),
                config: config.clone(),
                splits: serde_json::to_string(&dataset.splits).context("failed to write splits as JSON")?,
            })),
            _ => Ok(None),
        }
    }

    fn repository(&self) -> Result<Repository, Error> {
        match self {
            Self::Weights { id, .. } => repository(HubKind::Model, id),
            Self::Dataset { id, .. } => repository(HubKind::Dataset, id),
        }
    }

    fn commit(&self) -> &str {
        match self {
            Self::Weights { commit, .. } | Self::Dataset { commit, .. } => commit,
        }
    }
}

/// The files of one want, and those of them that have to be brought with their sizes.
struct Parcel {
    want: Want,
    repository: Repository,
    commit: Commit,
    files: Vec<String>,
    missing: Vec<(String, u64)>,
}

impl Parcel {
    /// Where the want lies when its files are at `paths`: a dataset's folder is what is above its first file.
    fn place(&self, paths: &[PathBuf]) -> Result<PathBuf> {
        let (first, name) = paths.first().zip(self.files.first()).context("a want has at least one file")?;
        let depth =
            if matches!(self.want, Want::Weights { .. }) { 0 } else { Path::new(name).components().count() };
        first.ancestors().nth(depth).map(Path::to_owned).context("a file lies below its snapshot")
    }
}

fn place_dataset(dataset: &mut DatasetSpec, places: &BTreeMap<Want, PathBuf>) -> Result<()> {
    let want = Want::of_dataset(dataset)?;
    if let (Some(want), DatasetSource::Hub { folder, .. }) = (want, &mut dataset.source) {
        *folder = places.get(&want).cloned();
    }
    Ok(())
}

/// Says how much is coming, and refuses it where the disk has no room for it.
fn announce(hub: &Hub, files: usize, bytes: u64) -> Result<()> {
    let settings = hub.settings();
    if settings.offline {
        return Ok(());
    }
    let size = indicatif::BinaryBytes(bytes);
    printer::note(&format!(
        "from {}: {files} files, {size}, into `{}`",
        settings.endpoint,
        settings.cache.display()
    ));
    match free_space(&settings.cache) {
        Some(free) if free < bytes => Err(bad_input(format!(
            "there is no room for {size} in `{}`: {} are free\n  hint: free some space, or set HF_HUB_CACHE to a folder on another disk",
            settings.cache.display(),
            indicatif::BinaryBytes(free)
        ))),
        _ => Ok(()),
    }
}

/// Returns the bytes that may still be written where `path` is or will be; `None` where the system does not say.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|folder| folder.exists())?;
    let status = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(status.blocks_available().saturating_mul(status.fragment_size()))
}

/// All faults as one error: bad input, unless trying again may help.
fn told(faults: &[Error]) -> anyhow::Error {
    let transient = faults.iter().all(|fault| fault.class() == Class::Transient);
    let texts: Vec<String> = faults.iter().map(indented).collect();
    let text = texts.join("\n  ");
    if transient { anyhow!(text) } else { bad_input(text) }
}

/// The text of an error with its hint set in.
fn indented(error: &Error) -> String {
    error.to_string().replace('\n', "\n  ")
}

fn repository(kind: HubKind, id: &str) -> Result<Repository, Error> {
    let kind = match kind {
        HubKind::Model => RepositoryKind::Model,
        HubKind::Dataset => RepositoryKind::Dataset,
    };
    Repository::new(kind, id)
}

fn key(kind: HubKind, id: &str, revision: &str) -> String {
    let kind = match kind {
        HubKind::Model => "models",
        HubKind::Dataset => "datasets",
    };
    format!("{kind}/{id}@{revision}")
}
