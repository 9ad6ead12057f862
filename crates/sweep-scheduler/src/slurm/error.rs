//! What can go wrong between this program and Slurm, told apart by what helps.

use std::io;

/// Why a command of Slurm did not do what was asked. Texts are Slurm's own words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SlurmError {
    /// Nothing is known: the controller did not answer, or not in time. Says nothing about jobs; after a submission, one
    /// may be there or not.
    #[error("Slurm cannot be reached: {text}")]
    Unreachable { text: String },
    /// Slurm has no job of that id, or no longer.
    #[error("Slurm does not know the job: {text}")]
    UnknownJob { text: String },
    /// More was submitted than Slurm takes at the moment; later it may.
    #[error("Slurm takes no more jobs for now: {text}")]
    Limit { text: String },
    /// Slurm refuses, and would again.
    #[error("Slurm refuses: {text}")]
    Rejected { text: String },
    /// Slurm answered in a form that is not understood.
    #[error("`{program}` answered `{text}`, which is not understood")]
    Unreadable { program: &'static str, text: String },
    /// The command cannot be started at all.
    #[error(
        "`{program}` cannot be started\n  hint: install Slurm's commands and start from a login node of the cluster, or write --executor local"
    )]
    Missing { program: &'static str, source: io::Error },
}

/// Parts of what Slurm's commands say where its controller or the network is away.
const UNREACHABLE: [&str; 12] = [
    "Unable to contact slurm controller",
    "Unable to connect to slurm daemon",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Transport endpoint is not connected",
    "Zero Bytes were transmitted or received",
    "Unexpected message received",
    "standby mode",
    "authentication",
    "Munge encode failed",
];

/// What `sbatch` says, again and again without leaving, where `MaxJobCount` is reached.
pub(super) const BUSY: &str = "temporarily unable to accept job";

/// What is said for every limit of an association or QOS; newer releases add a word that names the limit.
const POLICY: &str = "Job violates accounting/QOS policy";

impl SlurmError {
    /// Returns what a command that failed meant, by what it printed to standard error.
    pub(crate) fn of(said: &str) -> Self {
        let text = in_short(said);
        if text.contains("Invalid job id specified") {
            Self::UnknownJob { text }
        } else if is_submit_limit(&text) {
            Self::Limit { text }
        } else if UNREACHABLE.iter().any(|part| text.contains(part)) {
            Self::Unreachable { text }
        } else {
            Self::Rejected { text }
        }
    }
}

/// Returns whether a refusal is about how many jobs were submitted, not about what they ask for.
///
/// Slurm names the limit in a word such as `QOSMaxSubmitJobPerUserLimit`. Without such a word, only the policy is named:
/// then it is taken for a limit of submissions, since `sbatch --test-only` has passed what the job asks for.
fn is_submit_limit(text: &str) -> bool {
    let named: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_limit(word)).collect();
    let of_submissions = |word: &&str| word.contains("Submit");
    text.contains(BUSY)
        || named.iter().any(of_submissions)
        || (named.is_empty() && text.contains(POLICY))
        || text.contains("Resource temporarily unavailable")
}

fn is_limit(word: &str) -> bool {
    (word.starts_with("Assoc") || word.starts_with("QOS")) && (word.contains("Max") || word.contains("Grp"))
}

/// Returns what was said without the program's name before every line, on one line.
fn in_short(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let bare = lines.map(|line| {
        let rest = ["sbatch: ", "squeue: ", "scancel: ", "scontrol: ", "sacct: "]
            .iter()
            .find_map(|program| line.strip_prefix(program))
            .unwrap_or(line);
        rest.strip_prefix("error: ").unwrap_or(rest)
    });
    bare.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the commands of Slurm 22.05 said, as captured, and limits of a site in the words of its documentation.
    #[test]
    fn what_slurm_says_and_what_it_means() {
        let unreachable = [
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
            "scancel: error: Kill job error on job id 4: Unable to contact slurm controller (connect failure)\n",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
        ];
        for said in unreachable {
            assert!(matches!(SlurmError::of(said), SlurmError::Unreachable { .. }), "{said}");
        }
        let limits = [
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n",
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
        ];
        for said in limits {
            assert!(matches!(SlurmError::of(said), SlurmError::Limit { .. }), "{said}");
        }
        let rejected = [
            "sbatch: error: Batch job submission failed: Invalid job array specification\n",
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "sbatch: error: Memory specification can not be satisfied\nsbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            "allocation failure: Requested node configuration is not available\n",
            "sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information\n",
            "sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            "",
        ];
        for said in rejected {
            assert!(matches!(SlurmError::of(said), SlurmError::Rejected { .. }), "{said}");
        }
        assert!(matches!(
            SlurmError::of("slurm_load_jobs error: Invalid job id specified\n"),
            SlurmError::UnknownJob { .. }
        ));
    }

    #[test]
    fn texts_are_slurms_words_without_the_programs_name() {
        let said = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified\n";
        assert_eq!(
            SlurmError::of(said).to_string(),
            "Slurm refuses: invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
        );
    }

    proptest! {
        #[test]
        fn nothing_said_is_too_odd(said in "\\PC*") {
            drop(SlurmError::of(&said));
        }
    }
}
