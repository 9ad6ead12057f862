//! The event file on a full disk. Alone in its program: the limit on file sizes holds for a whole process.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use sweep_core::event::{Event, FailureClass, Record};
use sweep_testkit::Workspace;
use sweep_worker::{Error, EventLog};

/// Tells the second process which file to write.
const FILE_VARIABLE: &str = "SWEEP_TEST_EVENTS";
/// Longer than the limit, one block of 512 or 1,024 bytes by the shell.
const TOO_LONG: usize = 4096;

#[test]
fn a_line_that_does_not_fit_is_taken_back() {
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        return write_with_little_room(Path::new(&path));
    }
    let workspace = Workspace::new();
    let path = workspace.home().join("events.jsonl");
    // With the signal ignored, a write past the limit fails as one on a full disk does: after a part of it.
    let script = r#"trap '' XFSZ; ulimit -f 1; exec "$0" --exact a_line_that_does_not_fit_is_taken_back"#;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(FILE_VARIABLE, &path);
    // Into pipes: the limit would hold for a file that the tests' output goes to.
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = records.iter().map(|record| record.sequence).collect();
    assert_eq!(numbers, [0, 1]);
    assert!(text.ends_with('\n'));
}

fn write_with_little_room(path: &Path) {
    let log = EventLog::create(path).unwrap();
    log.write(Event::Interrupted { epochs: 0 }).unwrap();
    let message = "x".repeat(TOO_LONG);
    let failure = log.write(Event::Failed { class: FailureClass::Storage, message });
    assert!(matches!(failure, Err(Error::Io { .. })), "{failure:?}");
    log.write(Event::Succeeded).unwrap();
}
