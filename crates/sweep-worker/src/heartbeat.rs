//! Signs of life from a thread apart from the work: so a hang (they come, and say the same) is told from a death (they do
//! not come). The same thread looks whether the worker still has its run.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sweep_core::event::Event;

use crate::events::{EventLog, Place};
use crate::gpu::{Gpu, Look, Usage, watch};
use crate::{Error, Result};

/// How often the thread looks where the work is.
const TICK: Duration = Duration::from_secs(1);
/// Ticks after which the thread repeats where the work is if that does not change: 15 s.
const QUIET_TICKS: u32 = 15;

/// The thread; it ends with this value.
pub(crate) struct Heartbeat {
    clock: Arc<Clock>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Starts the thread, and one that looks at the GPU where there is one.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub(crate) fn start(log: &EventLog, gpu: Option<Gpu>) -> Result<Self> {
        let clock = Arc::new(Clock::default());
        let (log, ticks) = (log.clone(), Arc::clone(&clock));
        let name = "heartbeat";
        let mut looks = gpu.map(|gpu| watch(move || gpu.look()));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            beat(&log, || ticks.tick(), || looks.as_mut().and_then(|look| look()));
        });
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { clock, thread: Some(thread) })
    }
}

impl Drop for Heartbeat {
    /// Ends the thread and waits for it: whatever is written from here on comes after its last word.
    fn drop(&mut self) {
        self.clock.end();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the heartbeat has panicked");
        }
    }
}

/// Ticks until it is told to end.
#[derive(Default)]
struct Clock {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Clock {
    /// Waits for the next tick; `false` once the end has come.
    fn tick(&self) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(ended, TICK, |ended| !*ended);
        let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*ended
    }

    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// What the thread does: at every tick it looks after the claim and at the GPU, and tells what there is to tell.
fn beat(log: &EventLog, mut tick: impl FnMut() -> bool, mut look: impl FnMut() -> Option<Look>) {
    let (mut rhythm, mut usage) = (Rhythm::default(), Usage::default());
    let mut ticks: u32 = 0;
    while tick() {
        ticks += 1;
        if let Some(found) = look() {
            usage.add(found);
        }
        let told = log.check_claim().and_then(|()| {
            tell_place(log, &mut rhythm)?;
            if ticks.is_multiple_of(QUIET_TICKS) { tell_usage(log, &usage) } else { Ok(()) }
        });
        match told {
            Err(Error::Fenced { .. }) => return,
            // The work goes on: what it writes itself decides whether it can.
            Err(error) => tracing::warn!("no sign of life could be written: {}", error.with_causes()),
            Ok(()) => {}
        }
    }
    if let Err(error) = tell_usage(log, &usage) {
        tracing::warn!("the use of the GPU could not be written: {}", error.with_causes());
    }
}

fn tell_place(log: &EventLog, rhythm: &mut Rhythm) -> Result<()> {
    let told = rhythm.next(log.place());
    told.map_or(Ok(()), |Place { phase, epoch, step, steps }| {
        log.write(Event::Progress { phase, epoch, step, steps })
    })
}

fn tell_usage(log: &EventLog, usage: &Usage) -> Result<()> {
    usage.event().map_or(Ok(()), |event| log.write(event))
}

/// Decides at which ticks something is told.
#[derive(Default)]
struct Rhythm {
    told: Option<Place>,
    quiet: u32,
}

impl Rhythm {
    /// Returns what is told at this tick: a place that is new, or the same again after a while.
    fn next(&mut self, place: Option<Place>) -> Option<Place> {
        self.quiet += 1;
        let is_due = place != self.told || self.quiet >= QUIET_TICKS;
        let place = place.filter(|_| is_due)?;
        *self = Self { told: Some(place), quiet: 0 };
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use sweep_core::event::{Phase, Record};
    use sweep_core::home::Home;
    use sweep_testkit::{Workspace, id_of};

    use super::*;
    use crate::fence::Fence;

    fn place(step: u32) -> Place {
        Place { phase: Phase::Training, epoch: 0, step, steps: 100 }
    }

    #[test]
    fn a_change_is_told_at_the_next_tick_and_silence_is_broken_now_and_then() {
        let mut rhythm = Rhythm::default();
        assert_eq!(rhythm.next(None), None, "before the work begins there is nothing to tell");
        assert_eq!(rhythm.next(Some(place(1))), Some(place(1)));
        assert_eq!(rhythm.next(Some(place(3))), Some(place(3)));
        for _ in 0..2 {
            let silence = (1..QUIET_TICKS).map(|_| rhythm.next(Some(place(3))));
            assert!(silence.into_iter().all(|told| told.is_none()));
            assert_eq!(rhythm.next(Some(place(3))), Some(place(3)));
        }
        assert_eq!(rhythm.next(Some(place(4))), Some(place(4)));
    }

    fn steps(path: &std::path::Path) -> Vec<u32> {
        let text = fs::read_to_string(path).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(records.iter().zip(0..).all(|(record, sequence)| record.sequence == sequence));
        let step = |record: &Record| match record.event {
            Event::Progress { step, .. } => Some(step),
            _ => None,
        };
        records.iter().filter_map(step).collect()
    }

    /// The clock of the test ticks when it is told to, and tells when the tick before has been dealt with.
    #[test]
    fn the_thread_tells_where_the_work_is_and_leaves_when_the_run_is_lost() {
        let workspace = Workspace::new();
        let home = Home::new(workspace.home());
        let run = id_of(0);
        fs::create_dir_all(home.attempt(run, 1)).unwrap();
        let path = home.events(run, 1);
        let log = EventLog::fenced(&path, Fence::new(&home, run, 1)).unwrap();
        let ((send, ticks), (done, dealt)) = (channel::<()>(), channel::<()>());
        let thread = std::thread::spawn({
            let log = log.clone();
            move || {
                let tick = || {
                    let _ = done.send(());
                    ticks.recv().is_ok()
                };
                beat(&log, tick, || None);
            }
        });
        let tick = || {
            dealt.recv().unwrap();
            send.send(()).unwrap();
        };
        for step in [1, 1, 2] {
            log.at(Phase::Training, 0, step, 9);
            tick();
        }
        dealt.recv().unwrap();
        assert_eq!(steps(&path), [1, 2]);
        assert!(!log.has_lost_claim());

        fs::create_dir_all(home.attempt(run, 2)).unwrap();
        log.at(Phase::Training, 0, 3, 9);
        send.send(()).unwrap();
        thread.join().unwrap();
        assert!(log.has_lost_claim());
        assert!(matches!(log.write(Event::Succeeded), Err(Error::Fenced { exists: true, .. })));
        assert_eq!(steps(&path), [1, 2]);
    }

    #[test]
    fn the_use_of_the_gpu_is_told_now_and_then_and_at_the_end() {
        let workspace = Workspace::new();
        let path = workspace.home().join("events.jsonl");
        let log = EventLog::create(&path).unwrap();
        let (mut ticks, memory) = (0, std::cell::Cell::new(0));
        let tick = || {
            ticks += 1;
            ticks <= QUIET_TICKS + 2
        };
        let look = || {
            memory.set(memory.get() + 1);
            Some(Look { memory_bytes: memory.get(), memory_total_bytes: 100, busy_percent: 80 })
        };
        beat(&log, tick, look);
        let text = fs::read_to_string(&path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
        let told: Vec<u64> = records
            .map(|record| match record.event {
                Event::DeviceUsed { memory_bytes, memory_total_bytes: 100, .. } => memory_bytes,
                event => panic!("{event:?}"),
            })
            .collect();
        assert_eq!(told, [u64::from(QUIET_TICKS), u64::from(QUIET_TICKS) + 2]);
    }

    #[test]
    fn an_attempt_whose_folder_is_gone_has_lost_its_run() {
        let workspace = Workspace::new();
        let home = Home::new(workspace.home());
        let run = id_of(0);
        fs::create_dir_all(home.attempt(run, 1)).unwrap();
        let log = EventLog::fenced(&home.events(run, 1), Fence::new(&home, run, 1)).unwrap();
        log.write(Event::Succeeded).unwrap();
        fs::remove_dir_all(home.attempt(run, 1)).unwrap();
        assert!(matches!(log.write_durably(Event::Succeeded), Err(Error::Fenced { exists: false, .. })));
        assert!(!home.attempt(run, 1).exists());
    }

    #[test]
    fn the_thread_ends_with_its_value() {
        let workspace = Workspace::new();
        let log = EventLog::create(&workspace.home().join("events.jsonl")).unwrap();
        let heartbeat = Heartbeat::start(&log, None).unwrap();
        let alive = Arc::downgrade(&heartbeat.clock);
        drop(heartbeat);
        assert!(alive.upgrade().is_none(), "the thread had a share of the clock");
    }
}
