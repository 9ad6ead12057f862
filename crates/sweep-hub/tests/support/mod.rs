//! A local Hub with a model and a dataset, an empty cache, and the law that every test ends with: what lies in the cache
//! is what its name says.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]
#![expect(dead_code, reason = "every test file uses another part")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use sweep_hub::{Commit, Error, Hub, Repository, RepositoryKind, Result, Settings};
use sweep_testkit::hub::{Content, Fault, FaultKind, Kind, LocalHub, Origin, Step};

/// Id of the model.
pub(crate) const MODEL: &str = "owner/model";
/// The model's weights: in LFS, so their content comes from the CDN.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The model's configuration: in git, so the Hub itself serves it.
pub(crate) const CONFIG: &str = "nested/config.json";
/// Size of the weights: several chunks of a transfer.
pub(crate) const WEIGHTS_SIZE: u64 = 300_000;
/// A token that must show up nowhere.
pub(crate) const TOKEN: &str = "hf_veryverysecret";

/// A Hub and a cache.
pub(crate) struct Fixture {
    pub(crate) hub: LocalHub,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) commit: Commit,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let hub = LocalHub::start();
        let files = [
            (WEIGHTS, Content::Lfs(weights())),
            (CONFIG, Content::Git(config())),
            ("README.md", Content::Git(vec![])),
        ];
        let commit = hub.commit(Kind::Model, MODEL, "main", &files).parse().unwrap();
        Self { hub, folder: tempfile::tempdir().unwrap(), commit }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Two retries that follow at once, and a patience that no test uses up by being slow.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.endpoint(),
            retries: 2,
            retry_delay: Duration::from_millis(1),
            patience: sweep_testkit::PATIENCE,
            ..Settings::new(self.cache())
        }
    }

    pub(crate) fn client(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    pub(crate) fn offline(&self) -> Hub {
        Hub::new(Settings { offline: true, ..self.settings() }).unwrap()
    }

    pub(crate) async fn fetch(&self, paths: &[&str]) -> Result<Vec<PathBuf>> {
        fetch(&self.client(), &model(), &self.commit, paths).await
    }

    /// Lets something go wrong with the files whose path contains `path`.
    pub(crate) fn fault(&self, at: Step, path: Option<&str>, kind: FaultKind, times: Option<u32>) {
        self.hub.fault(Fault { at, path: path.map(str::to_owned), kind, times });
    }

    /// How often the content of the weights was asked for.
    pub(crate) fn downloads(&self) -> usize {
        let requests = self.hub.requests();
        requests.iter().filter(|request| request.origin == Origin::Cdn && request.range.is_none()).count()
    }

    /// The path of a file of the model in the cache, by Python's layout.
    pub(crate) fn link(&self, path: &str) -> PathBuf {
        self.cache().join("models--owner--model/snapshots").join(self.commit.as_str()).join(path)
    }

    /// The blob that a file of the model links to.
    pub(crate) fn blob(&self, path: &str) -> PathBuf {
        self.link(path).canonicalize().unwrap()
    }

    /// The law; also, that nothing was written beside the cache.
    pub(crate) fn assert_sound(&self) {
        assert_sound(&self.cache());
        let beside = std::fs::read_dir(self.folder.path()).unwrap();
        assert!(beside.into_iter().all(|entry| entry.unwrap().file_name() == "cache"));
    }
}

pub(crate) async fn fetch(
    hub: &Hub,
    repository: &Repository,
    commit: &Commit,
    paths: &[&str],
) -> Result<Vec<PathBuf>> {
    hub.fetch(repository, commit, paths, &mut |_| ()).await
}

pub(crate) fn model() -> Repository {
    Repository::new(RepositoryKind::Model, MODEL).unwrap()
}

pub(crate) fn weights() -> Vec<u8> {
    (0..WEIGHTS_SIZE).map(|index| (index * index % 251) as u8).collect()
}

pub(crate) fn config() -> Vec<u8> {
    br#"{"architecture": "vit_small_patch16_224"}"#.to_vec()
}

/// Every blob has the digest that its name says, every link leads to one, and nothing half-done is left.
pub(crate) fn assert_sound(cache: &Path) {
    for path in files_below(cache) {
        let text = path.to_str().unwrap();
        assert!(!text.contains("incom") && !text.contains(".sweep-"), "left behind: {text}");
        if path.parent().unwrap().ends_with("blobs") {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(digest(&std::fs::read(&path).unwrap(), name.len()), name);
        }
        if text.contains("/snapshots/") {
            assert!(path.canonicalize().unwrap().parent().unwrap().ends_with("blobs"), "{text}");
        }
    }
}

pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let list = if path.is_dir() { &mut folders } else { &mut files };
            list.push(path);
        }
    }
    files
}

/// sha256 for 64 digits, git's id for 40.
pub(crate) fn digest(content: &[u8], digits: usize) -> String {
    if digits == 64 {
        return hex(&Sha256::digest(content));
    }
    hex(&Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// An error says what to do, and shows neither the token nor a signature.
pub(crate) fn assert_clear(error: &Error) {
    let texts = [error.to_string(), format!("{error:?}")];
    assert!(texts[0].contains("\nhint: "), "{error}");
    for text in texts {
        assert!(!text.contains(TOKEN) && !text.contains("Signature"), "{text}");
    }
}

/// Waits, with the tasks running, until something is true.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
