//! The fake worker itself: the protocol of a real one, without any training.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{self, SigSet, Signal};
use nix::unistd::gethostname;
use sweep_core::epsilon::Epsilon;
use sweep_core::event::{Event, FailureClass, Phase, Record, Split};
use sweep_core::home::Home;
use sweep_core::micro_batch::MicroBatch;
use sweep_core::spec::{Norm, RunId, RunSpec};
use sweep_core::trajectory::{CheckpointName, Prefix};

use crate::script::{Action, SCRIPT_VARIABLE, Script};
use crate::wait::PATIENCE;

/// Exit code after `interrupted`.
const INTERRUPTED: u8 = 76;

/// How often a waiting worker looks around.
const INTERVAL: Duration = Duration::from_millis(2);

/// File in a run's folder to which each worker adds a line when it starts: the attempt and its process id.
pub(crate) const STARTS: &str = "starts.txt";

/// Images of every split that a fake worker pretends to have.
const IMAGES: u32 = 100;

/// What a fake checkpoint consists of.
const CHECKPOINT: &str = "nothing to go on from";

/// Runs a worker as the command line says: `worker --home HOME --run ID --attempt N --threads T --device D`.
pub fn main() -> ExitCode {
    match Worker::from_arguments().and_then(|mut worker| worker.obey()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "fake worker: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Worker {
    home: Home,
    run: RunId,
    attempt: u32,
    threads: u32,
    device: String,
    micro_batch_size: MicroBatch,
    batch_size: u32,
    trajectory: Vec<Prefix>,
    script: Script,
    events: File,
    sequence: u64,
    epochs: u32,
    stop: Arc<AtomicBool>,
    deaf: bool,
}

impl Worker {
    fn from_arguments() -> io::Result<Self> {
        let home = Home::new(argument("--home")?);
        let run: RunId = parsed("--run")?;
        let attempt = parsed("--attempt")?;
        let spec: RunSpec = serde_json::from_slice(&fs::read(home.spec(run))?)?;
        if spec.id() != run {
            return Err(io::Error::other(format!("spec.json is of run {}", spec.id())));
        }
        let mut starts = OpenOptions::new().create(true).append(true).open(home.run(run).join(STARTS))?;
        starts.write_all(format!("{attempt} {}\n", std::process::id()).as_bytes())?;
        Ok(Self {
            script: find_script(&home, run)?,
            events: OpenOptions::new().create(true).append(true).open(home.events(run, attempt))?,
            stop: listen(),
            home,
            run,
            attempt,
            threads: parsed("--threads")?,
            device: argument("--device")?,
            micro_batch_size: spec.micro_batch_size,
            batch_size: spec.batch_size,
            trajectory: spec.trajectory(),
            sequence: 0,
            epochs: 0,
            deaf: false,
        })
    }

    fn obey(&mut self) -> io::Result<u8> {
        for action in self.script.of(self.attempt).to_vec() {
            if let Some(code) = self.act(action)? {
                return Ok(code);
            }
        }
        Ok(0)
    }

    /// Takes one step; returns the exit code if it is the last.
    fn act(&mut self, action: Action) -> io::Result<Option<u8>> {
        match action {
            Action::Start => self.start()?,
            Action::Progress { step } => self.progress(step)?,
            Action::Epoch { clean, robust } => self.epoch(clean, robust)?,
            Action::CheckpointSaved { epochs } => self.save(epochs)?,
            Action::Evaluate { correct } => self.evaluate(&correct)?,
            Action::Succeed => return self.leave(Event::Succeeded, 0),
            Action::Fail { class, message } => {
                return self.leave(Event::Failed { class, message }, exit_code(class));
            }
            Action::Interrupt => return self.interrupt(),
            Action::WaitFor { file } => {
                let file = self.home.root().join(file);
                return if self.wait(|| file.exists()) { Ok(None) } else { self.interrupt() };
            }
            Action::Touch { file } => fs::write(self.home.root().join(file), "")?,
            Action::Hang => {
                self.wait(|| false);
                return self.interrupt();
            }
            Action::Stall { step } => {
                let deadline = Instant::now() + 2 * PATIENCE;
                while Instant::now() < deadline && !self.wait_once() {
                    self.progress(step)?;
                }
                return self.interrupt();
            }
            Action::Abort { text } => {
                writeln!(io::stderr(), "{text}")?;
                std::process::abort();
            }
            Action::BeDeaf => self.deaf = true,
            Action::Exit { code } => return Ok(Some(code)),
            Action::Die { signal } => signal::raise(Signal::try_from(signal)?)?,
            Action::Garbage => self.events.write_all(b"\xfe this is no event\n")?,
            Action::TornLine => self.events.write_all(b"{\"sequence\":")?,
            Action::Print { text } => writeln!(io::stderr(), "{text}")?,
        }
        Ok(None)
    }

    fn start(&mut self) -> io::Result<()> {
        self.say(Event::Started {
            run: self.run,
            attempt: self.attempt,
            pid: std::process::id(),
            host: gethostname()?.to_string_lossy().into_owned(),
            device: self.device.clone(),
            threads: self.threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resumed_from: 0,
            resumed_run: None,
            micro_batch_size: self.micro_batch_size.images(),
            process_start: process_start(),
        })?;
        if self.micro_batch_size == MicroBatch::Auto {
            self.say(Event::MicroBatchFound { micro_batch_size: self.batch_size })?;
        }
        self.say(Event::Loaded {
            dataset_digest: "0".repeat(64),
            classes: 10,
            train: IMAGES,
            validation: IMAGES,
            test: IMAGES,
            weights_digest: None,
            parameters: 1,
            skipped: 0,
        })
    }

    fn epoch(&mut self, clean: u32, robust: u32) -> io::Result<()> {
        self.say(Event::EpochFinished {
            epoch: self.epochs,
            epsilon: 0.0,
            learning_rate: 0.01,
            train_loss: 1.0,
            train_correct: clean,
            train_total: IMAGES,
            clean_correct: clean,
            robust_correct: robust,
            validation_total: IMAGES,
            clean_loss: 1.0,
            robust_loss: 2.0,
            train_seconds: 0.0,
            validation_seconds: 0.0,
            trained_by: None,
        })?;
        self.epochs += 1;
        Ok(())
    }

    fn progress(&mut self, step: u32) -> io::Result<()> {
        self.say(Event::Progress { phase: Phase::Training, epoch: self.epochs, step, steps: 100 })
    }

    /// Writes a file under the name of a whole checkpoint; what is in it is nobody's concern here.
    fn save(&mut self, epochs: u32) -> io::Result<()> {
        let prefix = self.trajectory[epochs as usize];
        let name = CheckpointName { prefix, run: self.run, step: None, digest: "0".repeat(64) };
        let folder = self.home.trajectories();
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name.to_string()), CHECKPOINT)?;
        self.say(Event::CheckpointSaved {
            epochs,
            step: 0,
            file: format!("trajectories/{name}"),
            digest: name.digest,
            bytes: CHECKPOINT.len() as u64,
        })
    }

    fn evaluate(&mut self, correct: &[u32]) -> io::Result<()> {
        for (count, correct) in (0_u8..).zip(correct) {
            self.say(Event::Evaluated {
                epochs: self.epochs,
                split: Split::Test,
                attack: if count == 0 { "none".to_owned() } else { "apgd-2-ce".to_owned() },
                norm: Norm::Linf,
                epsilon: Epsilon::from_255ths(count),
                correct: *correct,
                total: IMAGES,
                seconds: 0.0,
            })?;
        }
        Ok(())
    }

    fn interrupt(&mut self) -> io::Result<Option<u8>> {
        self.leave(Event::Interrupted { epochs: self.epochs }, INTERRUPTED)
    }

    fn leave(&mut self, event: Event, code: u8) -> io::Result<Option<u8>> {
        self.say(event)?;
        Ok(Some(code))
    }

    fn say(&mut self, event: Event) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record { sequence: self.sequence, time_ms: time.as_millis() as i64, event };
        self.sequence += 1;
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        self.events.write_all(&line)
    }

    /// Waits for `condition`; returns false if the worker is asked to stop first. Even a deaf worker does not outlive
    /// a test that failed for long.
    fn wait(&self, condition: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + 2 * PATIENCE;
        while !condition() {
            if Instant::now() > deadline || self.wait_once() {
                return false;
            }
        }
        true
    }

    /// Waits a moment; returns whether the worker is asked to stop and listens.
    fn wait_once(&self) -> bool {
        let stop = !self.deaf && self.stop.load(Ordering::Relaxed);
        if !stop {
            thread::sleep(INTERVAL);
        }
        stop
    }
}

/// Returns when this process started, in clock ticks since the machine did: field 22 of its `stat`, of which the second, in
/// parentheses, may contain anything.
fn process_start() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// Returns a flag that rises with SIGTERM, SIGINT or the end of standard input.
fn listen() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked here, before any other thread exists, so that only the waiting thread takes them.
    signals.thread_block().expect("these signals can be blocked");
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let flag = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        flag.store(true, Ordering::Relaxed);
    });
    stop
}

fn find_script(home: &Home, run: RunId) -> io::Result<Script> {
    let told = std::env::var_os(SCRIPT_VARIABLE).map(PathBuf::from);
    let beside = [home.run(run).join("fake.json"), home.root().join("fake.json")];
    for path in told.into_iter().chain(beside) {
        match fs::read(&path) {
            Ok(script) => return Ok(serde_json::from_slice(&script)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Script::default())
}

const fn exit_code(class: FailureClass) -> u8 {
    match class {
        FailureClass::Hub => 75,
        FailureClass::DiskFull => 74,
        FailureClass::OutOfMemory => 77,
        FailureClass::Configuration => 78,
        FailureClass::Diverged => 79,
        _ => 1,
    }
}

fn argument(name: &str) -> io::Result<String> {
    let missing = || io::Error::other(format!("the argument {name} is missing"));
    std::env::args().skip_while(|argument| argument != name).nth(1).ok_or_else(missing)
}

fn parsed<T: std::str::FromStr>(name: &str) -> io::Result<T> {
    let text = argument(name)?;
    text.parse().map_err(|_| io::Error::other(format!("the argument {name} cannot be `{text}`")))
}
