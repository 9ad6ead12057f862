//! What a running grid shows: on a terminal a line a running run and one for the grid, elsewhere a plain line now and then.
//! Everything goes to standard error.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};
use sweep_core::event::{Event, Phase};
use sweep_core::spec::{RunId, RunSpec};
use sweep_scheduler::{Halt, Update};
use sweep_store::Outcome;

use crate::cost::{Profile, profile};
use crate::printer;

/// Least time between two plain lines of one run.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Renders the updates of one `sweep run`.
pub(crate) struct Display {
    lines: HashMap<RunId, Line>,
    bars: Option<MultiProgress>,
    grid: ProgressBar,
    /// Work of the whole grid that was not done at the start, in forward passes, and how much of it is done.
    total: f64,
    done: f64,
    begin: Instant,
}

/// One run.
struct Line {
    label: String,
    profile: Profile,
    /// Part of the run that is done, and that was done when this attempt started.
    done: f64,
    done_before: f64,
    begin: Instant,
    epochs: u32,
    latest: String,
    bar: Option<ProgressBar>,
    printed: Option<Instant>,
}

impl Line {
    fn new(run: RunId, spec: &RunSpec) -> Self {
        let label = format!(
            "{} {} {} {} {} s{}",
            run.short(),
            spec.backbone.name,
            spec.dataset.name,
            spec.target_epsilon,
            spec.epsilon_schedule.label(),
            spec.seed
        );
        Self {
            label,
            profile: profile(spec),
            done: 0.0,
            done_before: 0.0,
            begin: Instant::now(),
            epochs: spec.epochs,
            latest: String::new(),
            bar: None,
            printed: None,
        }
    }

    fn work(&self) -> f64 {
        self.profile.training() + self.profile.measuring()
    }

    fn remaining(&self) -> String {
        let progress = self.done - self.done_before;
        if progress <= 0.0 {
            return String::new();
        }
        let seconds = self.begin.elapsed().as_secs_f64() * (1.0 - self.done) / progress;
        format!("{} left", duration(seconds))
    }

    /// Takes over what an event says.
    fn follow(&mut self, event: &Event) {
        match event {
            Event::Started { resumed_from, .. } => {
                self.done = self.profile.done(Phase::Training, *resumed_from, 0.0);
                self.done_before = self.done;
            }
            Event::Progress { phase, epoch, step, steps } => {
                let part = f64::from(*step) / f64::from((*steps).max(1));
                self.done = self.profile.done(*phase, *epoch, part).max(self.done);
            }
            Event::EpochFinished {
                epoch, epsilon, clean_correct, robust_correct, validation_total, ..
            } => {
                self.done = self.profile.done(Phase::Training, epoch + 1, 0.0).max(self.done);
                let percent = |correct: u32| 100.0 * f64::from(correct) / f64::from(*validation_total);
                self.latest = format!(
                    "epoch {}/{} epsilon {:.2}/255 clean {:.1} % robust {:.1} %",
                    epoch + 1,
                    self.epochs,
                    epsilon * 255.0,
                    percent(*clean_correct),
                    percent(*robust_correct)
                );
            }
            Event::Evaluated { epsilon, correct, total, .. } => {
                let percent = 100.0 * f64::from(*correct) / f64::from(*total);
                self.latest = format!("test at {epsilon}: {percent:.1} %");
            }
            _ => {}
        }
    }
}

impl Display {
    /// `open` are the runs that are not finished yet.
    pub(crate) fn new<'a>(open: impl Iterator<Item = (RunId, &'a RunSpec)>) -> Self {
        let lines: HashMap<RunId, Line> = open.map(|(run, spec)| (run, Line::new(run, spec))).collect();
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let grid = match &bars {
            Some(bars) => bars.add(ProgressBar::new(lines.len() as u64)),
            None => ProgressBar::hidden(),
        };
        grid.set_style(style("grid {bar:30} {pos}/{len} runs {msg}"));
        let total = lines.values().map(Line::work).sum();
        Self { lines, bars, grid, total, done: 0.0, begin: Instant::now() }
    }

    /// Shows an update.
    pub(crate) fn update(&mut self, update: Update) {
        match update {
            Update::Started { run, attempt, device, threads } => self.started(run, attempt, &format!("{device}, {threads} threads")),
            Update::Event { run, event, .. } => self.event(run, &event),
            Update::Settled { run, outcome, retry_in, log_tail, micro_batch_limit, .. } => self.settled(run, &outcome, retry_in, log_tail, micro_batch_limit),
            Update::Elsewhere { run, .. } => self.say(&format!("{}: a live worker of another session has it; waiting for its end", self.label(run))),
            Update::FinishedElsewhere { run, state } => {
                self.finish_line(run);
                self.say(&format!("{}: {state} in another session", self.label(run)));
            }
            Update::WithSlurm { run } => {
                self.say(&format!("{}: with Slurm; --executor slurm follows it", self.label(run)));
            }
            Update::Submitted { token, job, runs } => {
                self.say(&format!("job {job} ({token}): submitted with {runs} runs"));
            }
            Update::Resumed { token, runs } => self.say(&format!("{token}: {runs} runs are with Slurm since earlier")),
            Update::Waiting { runs, reason, blocked } => {
                let for_ever = if blocked { ", which does not pass by itself" } else { "" };
                self.say(&format!("{runs} runs wait: {reason}{for_ever}"));
            }
            Update::Adopted { run, attempt, place } => self.started(run, attempt, &place),
            Update::Unavailable { message, retry_in } => {
                self.say(&format!("{message}; asked again in {}", duration(retry_in.as_secs_f64())));
            }
            Update::Blocked { run, dependency } => {
                self.say(&format!("{}: blocked, run {} did not succeed", self.label(run), dependency.short()));
            }
            Update::Silent { run, since, .. } => {
                let since = duration(since.as_secs_f64());
                self.say(&format!("{}: suspect: its worker lives but has said nothing for {since}", self.label(run)));
            }
            Update::Reclaimed { size } => self.say(&format!(
                "the disk is short: deleted {} checkpoints that no run needs, or that only longer runs would go on from ({})",
                size.files,
                DecimalBytes(size.bytes)
            )),
            Update::Halted { reason } => self.say(&halted(&reason)),
        }
    }

    /// Takes the lines off the screen.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            // A terminal that is gone needs no clearing.
            let _ = bars.clear();
        }
    }

    fn label(&self, run: RunId) -> String {
        self.lines.get(&run).map_or_else(|| run.short(), |line| line.label.clone())
    }

    fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| printer::note(text)),
            None => printer::note(text),
        }
    }

    fn started(&mut self, run: RunId, attempt: u32, place: &str) {
        let bar = self.bars.as_ref().map(|bars| bars.insert_before(&self.grid, ProgressBar::new(1000)));
        let Some(line) = self.lines.get_mut(&run) else { return };
        line.begin = Instant::now();
        let again = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
        let text = format!("{}: started on {place}{again}", line.label);
        match bar {
            Some(bar) => {
                bar.set_style(style("{prefix} {bar:20} {msg}"));
                bar.set_prefix(line.label.clone());
                line.bar = Some(bar);
            }
            None => printer::note(&text),
        }
    }

    fn event(&mut self, run: RunId, event: &Event) {
        let left = self.grid_remaining();
        let Some(line) = self.lines.get_mut(&run) else { return };
        let before = line.done;
        line.follow(event);
        self.done += (line.done - before) * line.work();
        if let Some(bar) = &line.bar {
            bar.set_position((line.done * 1000.0) as u64);
            bar.set_message(format!("{} {}", line.latest, line.remaining()));
            self.grid.set_message(left);
        } else if matches!(event, Event::EpochFinished { .. })
            && line.printed.is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL)
        {
            line.printed = Some(Instant::now());
            printer::note(&format!("{}: {} {}", line.label, line.latest, line.remaining()));
        }
    }

    /// Counts a run as done.
    fn finish_line(&mut self, run: RunId) {
        if let Some(line) = self.lines.get_mut(&run) {
            self.done += (1.0 - line.done) * line.work();
            line.done = 1.0;
            self.grid.inc(1);
        }
    }

    fn grid_remaining(&self) -> String {
        if self.done <= 0.0 {
            return String::new();
        }
        let seconds = self.begin.elapsed().as_secs_f64() * (self.total - self.done) / self.done;
        format!("{} left", duration(seconds))
    }

    fn settled(
        &mut self,
        run: RunId,
        outcome: &Outcome,
        retry_in: Option<Duration>,
        log_tail: Option<String>,
        micro_batch_limit: Option<u32>,
    ) {
        let mut text = match outcome {
            Outcome::Succeeded => "done".to_owned(),
            Outcome::Interrupted => "interrupted, goes on from its last checkpoint".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Failed { failure, .. } => {
                format!("failed ({}): {}", failure.class.label(), failure.message)
            }
        };
        if let Some(delay) = retry_in {
            text.push_str(&format!("; tried again in {}", duration(delay.as_secs_f64())));
        }
        if let Some(images) = micro_batch_limit {
            text.push_str(&format!(", with {images} images a pass"));
        }
        if let Some(tail) = log_tail.filter(|tail| !tail.trim().is_empty()) {
            text.push_str(&format!("\n    {}", tail.trim_end().replace('\n', "\n    ")));
        }
        let is_over = retry_in.is_none() && *outcome != Outcome::Interrupted;
        if is_over {
            self.finish_line(run);
        }
        if let Some(line) = self.lines.get_mut(&run) {
            if let Some(bar) = line.bar.take() {
                bar.finish_and_clear();
            }
            let seconds = line.begin.elapsed().as_secs_f64();
            text = format!("{}: {text} after {}", line.label, duration(seconds));
        }
        let left = self.grid_remaining();
        let counts = format!(" ({}/{} runs, {left})", self.grid.position(), self.lines.len());
        self.say(&(text + if is_over { &counts } else { "" }));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this module are well-formed")
}

fn halted(reason: &Halt) -> String {
    match reason {
        Halt::Requested => "stopping: workers save their work; press Ctrl-C again to stop at once".to_owned(),
        Halt::TooManyFailures => "stopping: as many runs failed as --max-fail allows".to_owned(),
        Halt::FailsFromTheStart => {
            "stopping: the first three runs to end all failed\n  hint: `sweep logs RUN` shows why; --no-early-stop goes on regardless".to_owned()
        }
        Halt::NothingStarts { message } => format!(
            "stopping: no worker can be started: {message}\n  hint: once that is mended, the same command goes on"
        ),
        Halt::DiskFull { needed, available } => format!(
            "stopping: the next run will take {} of the disk, and {} are there\n  hint: {ROOM}",
            DecimalBytes(*needed),
            DecimalBytes(*available)
        ),
        Halt::Refused { message } => format!("stopping: {message}"),
        Halt::DiskFilled { message } => format!("stopping: the disk is full: {message}\n  hint: {ROOM}"),
    }
}

/// How room can be made.
const ROOM: &str = "make room (`sweep gc --finished` deletes last checkpoints of finished runs) or raise execution.disk_budget; the same command then goes on, nothing is lost";

/// Returns a duration in words: the two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", (whole + 30) / 60),
        7200..172_800 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_words() {
        let cases =
            [(0.04, "0.0 s"), (59.6, "60 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (864_000.0, "10.0 days")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }
}
