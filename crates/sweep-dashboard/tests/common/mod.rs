//! A store with made-up measurements and a server on it, in the test's own process.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Phase, Record, Split};
use sweep_core::home::Home;
use sweep_core::schedule::{EpsilonSchedule, Granularity};
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_dashboard::{Access, Server, Settings, Token};
use sweep_store::{Failure, Outcome, Settlement, Store, now_ms};
use sweep_testkit::sample_run;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Epochs of every run.
pub(crate) const EPOCHS: u32 = 12;
/// Images of every split.
const IMAGES: u32 = 200;
/// A text that is markup wherever it is not escaped.
pub(crate) const HOSTILE: &str = "<script>window.hacked=1</script>\"'&";

/// A store, its runs, and what serves it; everything ends with this value.
pub(crate) struct Scene {
    _folder: TempDir,
    runtime: Runtime,
    store: Store,
    pub(crate) specs: Vec<RunSpec>,
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
}

/// Three backbones, one of them hostile, on three datasets, at two targets under two schedules, with two seeds.
pub(crate) fn grid() -> Vec<RunSpec> {
    let schedules =
        [EpsilonSchedule::Fixed, EpsilonSchedule::Ramp { start: 3, end: 9, per: Granularity::Epoch }];
    let mut specs = Vec::new();
    for target in [4, 8] {
        for schedule in &schedules {
            for (number, backbone) in ["vit", "convnext", HOSTILE].into_iter().enumerate() {
                for (size, dataset) in ["aircraft", "cub", "dogs"].into_iter().enumerate() {
                    for seed in 0..2 {
                        let mut spec = sample_run(seed);
                        backbone.clone_into(&mut spec.backbone.name);
                        spec.backbone.definition.normalization.mean = [0.1 * number as f64; 3];
                        dataset.clone_into(&mut spec.dataset.name);
                        spec.input_size = 16 * (1 + size as u32);
                        spec.target_epsilon = Epsilon::from_255ths(target);
                        spec.epsilon_schedule = schedule.clone();
                        spec.epochs = EPOCHS;
                        spec.evaluation.max_epsilon = Epsilon::from_255ths(8);
                        specs.push(spec);
                    }
                }
            }
        }
    }
    specs
}

impl Scene {
    /// Registers a sweep of these runs under a name and serves it.
    pub(crate) fn new(name: &str, specs: Vec<RunSpec>, token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (store, url) = runtime.block_on(async {
            let home = Home::new(folder.path());
            let store = Store::open(home.database()).await.unwrap();
            let runs: Vec<(RunId, &RunSpec)> = specs.iter().map(|spec| (spec.id(), spec)).collect();
            store.register_sweep(name, "name: test", &runs, now_ms()).await.unwrap();
            let token = token.map(|text| Token::new(text).unwrap());
            let access = Access::new("127.0.0.1:0".parse().unwrap(), Vec::new(), token).unwrap();
            let settings = Settings { sweep: None, home };
            let server = Server::bind(store.reader(), settings, access).await.unwrap();
            let url = server.url();
            tokio::spawn(server.serve());
            (store, url)
        });
        let host = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        Self { _folder: folder, runtime, store, specs, host }
    }

    /// Starts an attempt at a run and returns its number.
    pub(crate) fn start(&self, index: usize) -> u32 {
        let spec = &self.specs[index];
        let run = spec.id();
        let attempt = self.runtime.block_on(self.store.claim(run, "test", now_ms())).unwrap().unwrap();
        let started = Event::Started {
            run,
            attempt,
            pid: 1,
            host: format!("node {HOSTILE}"),
            device: "cpu".to_owned(),
            threads: 2,
            version: "0.1.0".to_owned(),
            resumed_from: 0,
            resumed_run: None,
            micro_batch_size: None,
            process_start: None,
        };
        let loaded = Event::Loaded {
            dataset_digest: "ab".repeat(32),
            classes: 10,
            train: 5 * IMAGES,
            validation: IMAGES,
            test: IMAGES,
            weights_digest: Some("cd".repeat(32)),
            parameters: 85_798_656,
            skipped: 0,
        };
        self.say(index, attempt, 0, vec![started, loaded]);
        attempt
    }

    /// Lets an attempt finish an epoch, from 0.
    pub(crate) fn epoch(&self, index: usize, attempt: u32, epoch: u32) {
        let learned = 1.0 - (-f64::from(epoch + 1) / (3.0 + (index % 5) as f64)).exp();
        let count = |share: f64| (share * learned * f64::from(IMAGES)) as u32;
        let finished = Event::EpochFinished {
            epoch,
            epsilon: f64::from(epoch.min(8)) / 8.0 * self.specs[index].target_epsilon.value(),
            learning_rate: 1e-3,
            train_loss: 2.0 - learned,
            train_correct: count(0.95),
            train_total: IMAGES,
            clean_correct: count(0.9),
            robust_correct: count(0.6),
            validation_total: IMAGES,
            clean_loss: 2.1 - learned,
            robust_loss: 2.6 - learned,
            train_seconds: 12.0,
            validation_seconds: 3.0,
            trained_by: None,
        };
        let progress = Event::Progress { phase: Phase::Training, epoch: epoch + 1, step: 37, steps: 120 };
        self.say(index, attempt, 2 * (u64::from(epoch) + 1), vec![finished, progress]);
    }

    /// Carries out a whole run.
    pub(crate) fn succeed(&self, index: usize) {
        let attempt = self.start(index);
        (0..EPOCHS).for_each(|epoch| self.epoch(index, attempt, epoch));
        let spec = &self.specs[index];
        let best = 0.85 - 0.06 * (index % 7) as f64;
        let points = spec.evaluation.max_epsilon.grid().into_iter().map(|epsilon| Event::Evaluated {
            epochs: EPOCHS,
            split: Split::Test,
            attack: if epsilon.is_zero() { "none".to_owned() } else { spec.evaluation.attack.label() },
            norm: Norm::Linf,
            epsilon,
            correct: (best * (-18.0 * epsilon.value()).exp() * f64::from(IMAGES)) as u32,
            total: IMAGES,
            seconds: 0.1,
        });
        let events: Vec<Event> = points.chain([Event::Succeeded]).collect();
        self.say(index, attempt, 100, events);
        self.settle(
            index,
            attempt,
            &Settlement { exit_code: Some(0), ..Settlement::new(Outcome::Succeeded) },
        );
    }

    /// Lets an attempt fail, with a hostile message and log.
    pub(crate) fn fail(&self, index: usize) {
        let attempt = self.start(index);
        self.epoch(index, attempt, 0);
        let failure =
            Failure { class: FailureClass::Diverged, message: format!("the loss is NaN {HOSTILE}") };
        let settlement = Settlement {
            exit_code: Some(65),
            log_tail: Some(format!("epoch 1\n{HOSTILE}\n")),
            ..Settlement::new(Outcome::Failed { failure, retry: false })
        };
        self.settle(index, attempt, &settlement);
    }

    fn settle(&self, index: usize, attempt: u32, settlement: &Settlement) {
        let settling = self.store.settle(self.specs[index].id(), attempt, settlement, now_ms());
        assert!(self.runtime.block_on(settling).unwrap());
    }

    fn say(&self, index: usize, attempt: u32, first: u64, events: Vec<Event>) {
        let record = |(sequence, event)| Record { sequence, time_ms: now_ms(), event };
        let records: Vec<Record> = (first..).zip(events).map(record).collect();
        let ingesting = self.store.ingest(self.specs[index].id(), attempt, &records, first + 1);
        assert_eq!(self.runtime.block_on(ingesting).unwrap().refused, None);
    }

    /// Lets most of a grid be done, some of it fail, some run and the rest wait.
    pub(crate) fn carry_out(&self) {
        for index in 0..self.specs.len() {
            match index {
                5 | 31 => self.fail(index),
                0..40 if index % 13 != 12 => self.succeed(index),
                12 | 25 => {
                    let attempt = self.start(index);
                    (0..4).for_each(|epoch| self.epoch(index, attempt, epoch));
                }
                _ => {}
            }
        }
    }
}
