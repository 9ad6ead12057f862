//! What Slurm's commands print, read by line.
//!
//! Fields are split at `|` and the reason stands last, since reasons have blanks, commas and whatever else a site writes
//! into them.

use std::num::ParseIntError;

use super::client::JobId;
use super::states::TaskState;
use crate::executor::local::Exit;

/// One task of an array, or one job that is no array, as Slurm sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskRow {
    /// The job that was submitted.
    pub(crate) job: JobId,
    /// Number of the task in its array, from 0; `None` for a job that is no array.
    pub(crate) task: Option<u32>,
    /// Id of the task as a job of its own. It changes when the task starts.
    pub(crate) job_id: u64,
    pub(crate) state: TaskState,
    /// How often it was requeued; `None` where Slurm does not say.
    pub(crate) restarts: Option<u32>,
    /// How its last incarnation left; `None` before it did or where Slurm does not say.
    pub(crate) exit: Option<Exit>,
    /// The node it is or was on.
    pub(crate) node: Option<String>,
    /// Why it is in this state, in Slurm's words; `None` is one of them.
    pub(crate) reason: String,
}

/// Fields of `squeue --Format`: `:|` asks for the whole value and a bar after it.
pub(crate) const QUEUE_FORMAT: &str =
    "ArrayJobID:|,ArrayTaskID:|,JobID:|,State:|,RestartCnt:|,exit_code:|,NodeList:|,Reason:|";

/// Reads what `squeue` prints in [`QUEUE_FORMAT`].
///
/// # Errors
/// The first line that is of another form.
pub(crate) fn queue_rows(output: &str) -> Result<Vec<TaskRow>, &str> {
    lines(output).map(|line| queue_row(line).ok_or(line)).collect()
}

fn lines(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|line| !line.trim().is_empty())
}

fn queue_row(line: &str) -> Option<TaskRow> {
    let fields: Vec<&str> = line.splitn(8, '|').collect();
    let [job, task, job_id, state, restarts, exit, node, reason] = fields[..].try_into().ok()?;
    let Ok(state) = state.parse();
    Some(TaskRow {
        job: job_id_of(job)?,
        task: task_number(task).ok()?,
        job_id: job_id.trim().parse().ok()?,
        exit: has_ended(&state).then(|| wait_status(exit)).flatten(),
        state,
        restarts: restarts.trim().parse().ok(),
        node: some_text(node),
        reason: last_text(reason),
    })
}

/// Fields of `sacct --format`.
pub(crate) const ACCOUNT_FORMAT: &str = "JobID,JobIDRaw,State,ExitCode,NodeList";

/// Reads what `sacct --parsable2` prints in [`ACCOUNT_FORMAT`], but for tasks that have not ended: pending ones share a
/// line, `13_[1-3%1]`.
///
/// # Errors
/// The first line that is of another form.
pub(crate) fn account_rows(output: &str) -> Result<Vec<TaskRow>, &str> {
    let goes_on = |line: &&str| {
        let state = line.split('|').nth(2).map(str::parse);
        state.is_some_and(|Ok(state)| !has_ended(&state))
    };
    lines(output).filter(|line| !goes_on(line)).map(|line| account_row(line).ok_or(line)).collect()
}

fn account_row(line: &str) -> Option<TaskRow> {
    let fields: Vec<&str> = line.splitn(5, '|').collect();
    let [id, raw, state, exit, node] = fields[..].try_into().ok()?;
    let Ok(state) = state.parse();
    let (job, task) = id.split_once('_').unwrap_or((id, "N/A"));
    Some(TaskRow {
        job: job_id_of(job)?,
        task: task_number(task).ok()?,
        job_id: raw.trim().parse().ok()?,
        state,
        restarts: None,
        exit: code_and_signal(exit),
        node: some_text(node),
        reason: String::new(),
    })
}

const fn has_ended(state: &TaskState) -> bool {
    matches!(
        state,
        TaskState::BootFail
            | TaskState::Cancelled
            | TaskState::Completed
            | TaskState::Deadline
            | TaskState::Failed
            | TaskState::LaunchFailed
            | TaskState::NodeFail
            | TaskState::OutOfMemory
            | TaskState::Preempted
            | TaskState::Revoked
            | TaskState::Timeout
    )
}

/// Reads the id of a job from how it is written anywhere: `12`, `12_3`, `12_[0-3%1]`, `12;cluster`.
pub(crate) fn job_id_of(text: &str) -> Option<JobId> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let plain = text[end..].is_empty() || text[end..].starts_with(['_', ';']);
    if plain { text[..end].parse().ok().map(JobId) } else { None }
}

/// Reads the number of a task; `N/A` is that of a job that is no array.
fn task_number(text: &str) -> Result<Option<u32>, ParseIntError> {
    match text.trim() {
        "N/A" => Ok(None),
        number => number.parse().map(Some),
    }
}

/// Returns the last field without the bar that ends it.
fn last_text(text: &str) -> String {
    let text = text.trim_end();
    text.strip_suffix('|').unwrap_or(text).trim().to_owned()
}

fn some_text(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty() && *text != "None assigned").map(str::to_owned)
}

/// Reads an exit code: as `squeue` of 22.05 writes it, the status of `wait(2)`, or as `CODE:SIGNAL`.
fn wait_status(text: &str) -> Option<Exit> {
    match text.trim().parse::<i32>() {
        Ok(status) => Some(of_parts(status >> 8, status & 0x7f)),
        Err(_) => code_and_signal(text),
    }
}

/// Reads `CODE:SIGNAL`.
fn code_and_signal(text: &str) -> Option<Exit> {
    let (code, signal) = text.trim().split_once(':')?;
    Some(of_parts(code.parse().ok()?, signal.parse().ok()?))
}

fn of_parts(code: i32, signal: i32) -> Exit {
    if signal == 0 {
        Exit { code: Some(code), signal: None }
    } else {
        Exit { code: None, signal: Some(signal) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>) -> Exit {
        Exit { code, signal }
    }

    /// Lines that `squeue` of Slurm 22.05 printed.
    #[test]
    fn lines_of_the_queue_as_captured() {
        let cases = [
            (
                "1|0|12|COMPLETED|0|0|n1|None|",
                Some(0),
                12,
                TaskState::Completed,
                Some(exit(Some(0), None)),
                Some("n1"),
                "None",
            ),
            (
                "1|1|13|FAILED|0|19200|n1|NonZeroExitCode|",
                Some(1),
                13,
                TaskState::Failed,
                Some(exit(Some(75), None)),
                Some("n1"),
                "NonZeroExitCode",
            ),
            (
                "1|4|16|FAILED|0|9|n2|JobLaunchFailure|",
                Some(4),
                16,
                TaskState::Failed,
                Some(exit(None, Some(9))),
                Some("n2"),
                "JobLaunchFailure",
            ),
            (
                "1|6|18|CANCELLED|0|15|n2|None|",
                Some(6),
                18,
                TaskState::Cancelled,
                Some(exit(None, Some(15))),
                Some("n2"),
                "None",
            ),
            ("1|5|17|RUNNING|0|0|n2|None|", Some(5), 17, TaskState::Running, None, Some("n2"), "None"),
            (
                "1|N/A|1|PENDING|0|0||DependencyNeverSatisfied|",
                None,
                1,
                TaskState::Pending,
                None,
                None,
                "DependencyNeverSatisfied",
            ),
            (
                "1|2|1|PENDING|2|0||launch failed requeued held|",
                Some(2),
                1,
                TaskState::Pending,
                None,
                None,
                "launch failed requeued held",
            ),
            (
                "1|2|1|PENDING|0|0||ReqNodeNotAvail, UnavailableNodes:n1,n2|",
                Some(2),
                1,
                TaskState::Pending,
                None,
                None,
                "ReqNodeNotAvail, UnavailableNodes:n1,n2",
            ),
            (
                "1|2|1|PENDING|0|0||drained: disk | fan, see #7|",
                Some(2),
                1,
                TaskState::Pending,
                None,
                None,
                "drained: disk | fan, see #7",
            ),
        ];
        for (line, task, job_id, state, exit, node, reason) in cases {
            let row = queue_row(line).unwrap();
            let node = node.map(str::to_owned);
            let seen = (row.job, row.task, row.job_id, row.state, row.exit, row.node, &*row.reason);
            assert_eq!(seen, (JobId(1), task, job_id, state, exit, node, reason), "{line}");
        }
        assert_eq!(queue_row("1|2|1|PENDING|2|0||None|").unwrap().restarts, Some(2));
        assert_eq!(queue_row("1|2|1|PENDING|N/A|0||None|").unwrap().restarts, None);
    }

    #[test]
    fn padded_fields_are_read_as_well() {
        let line = "1      |3   |9   |TIMEOUT  |1  |0:9 |n[1-2] |TimeLimit    |";
        let row = queue_row(line).unwrap();
        assert_eq!((row.task, row.job_id, row.restarts), (Some(3), 9, Some(1)));
        assert_eq!(
            (row.exit, row.node.as_deref(), &*row.reason),
            (Some(exit(None, Some(9))), Some("n[1-2]"), "TimeLimit")
        );
    }

    #[test]
    fn a_line_of_another_form_is_none() {
        let odd = [
            "",
            "|",
            "1|2|3",
            "x|2|3|RUNNING|0|0||",
            "1|[2-9%3]|1|PENDING|0|0||Priority|",
            "1|2|-3|RUNNING|0|0||None|",
        ];
        for line in odd {
            assert_eq!(queue_row(line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_the_accounting() {
        let output = "13_1|15|CANCELLED by 0|75:0|n1\n14|14|TIMEOUT|0:9|n1\n13_[1-3%1]|13|PENDING|0:0|None assigned\n13_2|16|RUNNING|0:0|n1\n\n";
        let rows = account_rows(output).unwrap();
        let seen: Vec<_> = rows.iter().map(|row| (row.job, row.task, row.job_id, row.exit)).collect();
        let expected = [
            (JobId(13), Some(1), 15, Some(exit(Some(75), None))),
            (JobId(14), None, 14, Some(exit(None, Some(9)))),
        ];
        assert_eq!(seen, expected);
        assert_eq!((&rows[0].state, &rows[1].state), (&TaskState::Cancelled, &TaskState::Timeout));
        for odd in ["13_x|16|FAILED|0:0|n1", "sacct is fine"] {
            assert_eq!(account_rows(odd), Err(odd));
        }
    }

    #[test]
    fn ids_of_jobs() {
        for text in ["12", " 12\n", "12_3", "12_[0-3%1]", "12;cluster"] {
            assert_eq!(job_id_of(text), Some(JobId(12)), "{text}");
        }
        for text in ["", "x", "12x", "Submitted batch job 12", "-1", "99999999999999999999"] {
            assert_eq!(job_id_of(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_printed_is_too_odd(line in "\\PC*", fields in proptest::collection::vec("[0-9N/A_:|-]{0,12}", 0..10)) {
            for line in [line, fields.join("|")] {
                drop((queue_rows(&line), account_rows(&line), account_row(&line), job_id_of(&line)));
            }
        }

        #[test]
        fn a_reason_survives_whatever_it_says(reason in "[ -~]{0,60}") {
            let row = queue_row(&format!("1|2|3|PENDING|0|0|n1|{reason}|")).unwrap();
            prop_assert_eq!(row.reason, reason.trim());
        }
    }
}
