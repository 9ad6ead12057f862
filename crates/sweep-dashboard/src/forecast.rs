//! How long the rest of a grid takes, from how long its runs took so far.

use sweep_store::{Pace, Stage};

/// What is left of a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forecast {
    /// Part of the work that is done, in [0, 1]; runs that were given up count as neither done nor left.
    pub(crate) done: f64,
    /// Seconds that one worker would need for the rest; `None` while no epoch is done, and 0 where nothing is left.
    pub(crate) work_seconds: Option<f64>,
}

/// Work is counted in epochs, and measuring at the end as one more.
fn work(pace: &Pace) -> f64 {
    (pace.epochs + pace.runs) as f64
}

fn work_done(pace: &Pace) -> f64 {
    if pace.stage == Stage::Done { work(pace) } else { pace.epochs_done as f64 }
}

/// Runs that are not over take as long an epoch as finished runs of the same backbone and dataset did; where there are none, as
/// all finished ones; where no run is finished, as the epochs done so far.
pub(crate) fn forecast(paces: &[Pace]) -> Forecast {
    let is_open = |pace: &&Pace| matches!(pace.stage, Stage::Running | Stage::Waiting);
    let counted = || paces.iter().filter(|pace| pace.stage != Stage::GivenUp);
    let (all, done): (f64, f64) = (counted().map(work).sum(), counted().map(work_done).sum());
    let overall = rate(paces, |pace| pace.stage == Stage::Done)
        .or_else(|| rate(paces, |pace| matches!(pace.stage, Stage::Running | Stage::Waiting)));
    let seconds = |open: &Pace| {
        let alike = rate(paces, |pace| {
            pace.stage == Stage::Done && pace.backbone == open.backbone && pace.dataset == open.dataset
        });
        Some((work(open) - work_done(open)) * alike.or(overall)?)
    };
    let work_seconds = paces.iter().filter(is_open).map(seconds).sum();
    Forecast { done: if all > 0.0 { done / all } else { 1.0 }, work_seconds }
}

/// Returns the seconds a unit of work of the chosen runs; `None` where none is done.
fn rate(paces: &[Pace], is_chosen: impl Fn(&Pace) -> bool) -> Option<f64> {
    let chosen: Vec<&Pace> = paces.iter().filter(|pace| is_chosen(pace)).collect();
    let done: f64 = chosen.iter().map(|pace| work_done(pace)).sum();
    let spent: f64 = chosen.iter().map(|pace| pace.spent_ms as f64 / 1e3).sum();
    (done > 0.0).then(|| spent / done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(backbone: &str, stage: Stage, runs: u64, epochs: u64, epochs_done: u64, seconds: i64) -> Pace {
        let spent_ms = 1000 * seconds;
        Pace {
            backbone: backbone.to_owned(),
            dataset: "d".to_owned(),
            stage,
            runs,
            epochs,
            epochs_done,
            spent_ms,
        }
    }

    #[test]
    fn runs_take_what_their_like_took() {
        // A finished run of 9 epochs and a measurement took 10 s here, 100 s there.
        let paces = [
            pace("small", Stage::Done, 1, 9, 9, 10),
            pace("large", Stage::Done, 1, 9, 9, 100),
            pace("small", Stage::Waiting, 2, 18, 0, 0),
            pace("large", Stage::Running, 1, 9, 5, 60),
            pace("large", Stage::GivenUp, 5, 45, 3, 500),
        ];
        let forecast = forecast(&paces);
        assert_eq!(forecast.work_seconds, Some(20.0 + 5.0 * 10.0));
        assert_eq!(forecast.done, 25.0 / 50.0);
    }

    #[test]
    fn without_a_finished_run_epochs_are_the_measure() {
        let running = pace("b", Stage::Running, 1, 9, 4, 8);
        assert_eq!(forecast(std::slice::from_ref(&running)).work_seconds, Some(12.0));
        let waiting = pace("b", Stage::Waiting, 1, 9, 0, 0);
        assert_eq!(forecast(std::slice::from_ref(&waiting)).work_seconds, None);
        assert_eq!(forecast(&[]), Forecast { done: 1.0, work_seconds: Some(0.0) });
    }
}
