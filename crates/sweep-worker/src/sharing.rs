//! What a run does for others that go on from its beginning: it measures what they would have measured, on the same
//! weights, into the records that its checkpoints carry.

use std::fs;
use std::io::{self, ErrorKind};

use sweep_core::home::Home;
use sweep_core::spec::RunId;
use sweep_core::trajectory::Sharing;

use crate::checkpoint::{Position, Probe};
use crate::{Error, Result};

/// Reads what `run` does for others; nothing where no file says otherwise.
///
/// # Errors
/// [`Error::Sharing`]: whoever waits for this run would wait in vain.
pub(crate) fn read(home: &Home, run: RunId) -> Result<Sharing> {
    let path = home.sharing(run);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Sharing::default()),
        Err(source) => return Err(Error::Sharing { path, source }),
    };
    serde_json::from_slice(&text).map_err(|error| Error::Sharing { path, source: io::Error::from(error) })
}

/// Returns what others want to know of the epoch that ends at `position`, beside the run's `own` probe: each attack and
/// radius once, and nothing for those who can no longer go on from this run because an earlier epoch does not tell it.
pub(crate) fn probes(sharing: &Sharing, position: &Position, own: Option<&Probe>) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    let companions = sharing.companions.iter().filter(|companion| position.epoch() < companion.epochs);
    for probe in companions.filter_map(Probe::of) {
        if own != Some(&probe) && !probes.contains(&probe) && position.answers(Some(&probe)) {
            probes.push(probe);
        }
    }
    probes
}

#[cfg(test)]
mod tests {
    use sweep_core::epsilon::Epsilon;
    use sweep_core::event::FailureClass;
    use sweep_core::spec::AttackSpec;
    use sweep_core::trajectory::Companion;
    use sweep_testkit::{Workspace, id_of, sample_run};

    use super::*;

    fn companion(run: u64, epochs: u32, radius: u8) -> Companion {
        let attack = sample_run(0).validation.attack;
        Companion { run: id_of(run), epochs, attack, target_epsilon: Epsilon::from_255ths(radius) }
    }

    #[test]
    fn others_are_served_once_each_and_as_long_as_they_share() {
        let mut stronger = companion(5, 1, 4);
        let AttackSpec::Apgd { steps, .. } = &mut stronger.attack;
        *steps += 1;
        let companions = [
            companion(1, 1, 8),
            companion(2, 2, 8),
            companion(3, 2, 4),
            companion(4, 9, 0),
            stronger.clone(),
        ];
        let sharing = Sharing { companions: companions.into() };
        let own = Probe::of(&companion(0, 0, 4));
        let eight = Probe::of(&companion(0, 0, 8)).unwrap();
        let found = probes(&sharing, &Position::default(), own.as_ref());
        assert_eq!(found, [eight.clone(), Probe::of(&stronger).unwrap()]);
        let four = own.unwrap();
        assert_eq!(probes(&sharing, &Position::default(), Some(&eight))[0], four);
    }

    #[test]
    fn no_file_is_nothing_and_a_torn_one_a_failure() {
        let workspace = Workspace::new();
        let (home, run) = (workspace.layout(), id_of(0));
        assert_eq!(read(&home, run).unwrap(), Sharing::default());
        let sharing = Sharing { companions: vec![companion(1, 2, 8)] };
        let text = serde_json::to_string(&sharing).unwrap();
        fs::create_dir_all(home.run(run)).unwrap();
        fs::write(home.sharing(run), &text).unwrap();
        assert_eq!(read(&home, run).unwrap(), sharing);
        fs::write(home.sharing(run), &text[1..]).unwrap();
        let error = read(&home, run).unwrap_err();
        assert_eq!(error.class(), FailureClass::Configuration);
        assert!(error.to_string().contains("sharing.json"), "{error}");
    }
}
