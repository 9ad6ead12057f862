//! Sweep files, assignments and epsilons that lie: each ends at once, in an error that names the place and the value, or in
//! a grid within the documented bounds.

use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use sweep_core::epsilon::Epsilon;
use sweep_core::{Assignment, Grid, MAX_RUNS, Problems, Resolve, Sweep};

/// Mutated files; each takes a few milliseconds to expand.
const FILES: u32 = 200;
/// Memory in KiB of a process that reads bombs: 1 GiB, of which the bounds leave most unused.
const MEMORY: u32 = 1 << 20;
/// Longest text of an error: forty problems of a few thousand characters.
const LONGEST_ERROR: usize = 1 << 20;
/// Names the file that [`child_that_reads_a_file`] reads.
const FILE: &str = "SWEEP_HOSTILE_FILE";

/// Everything is there.
struct Anything;

impl Resolve for Anything {
    fn weights(&self, path: &Path) -> Result<(PathBuf, String), String> {
        Ok((path.to_owned(), "d".repeat(64)))
    }

    fn dataset(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }

    fn pictures(&self, path: &Path) -> Result<(PathBuf, String), String> {
        self.weights(path)
    }
}

fn expand(text: &[u8]) -> Result<Grid, Problems> {
    Sweep::parse(text, &[])?.expand(&Anything)
}

fn refusal(text: &str) -> String {
    let error = expand(text.as_bytes()).expect_err("the file lies").to_string();
    assert!(error.len() < LONGEST_ERROR, "{} bytes of error", error.len());
    error
}

const SMALL: &str = "
name: small
run: {backbone: tiny-vit, dataset: shapes, target_epsilon: 4/255, epsilon_schedule: {kind: fixed}, epochs: 10}
";

#[test]
fn values_that_lie_are_refused_with_their_place() {
    let run = |keys: &str| SMALL.replace("epochs: 10", keys);
    let deep = format!("name: {}1{}", "[".repeat(500), "]".repeat(500));
    let cases = [
        (run("epochs: .nan"), "run.epochs: `NaN` is a number, expected an integer from 1 to 100000"),
        (run("epochs: -1"), "run.epochs: `-1` is an integer"),
        (run("epochs: 99999999999999999999"), "99999999999999999999"),
        (run("epochs: 9223372036854775807"), "run.epochs: `9223372036854775807` is an integer"),
        (run("epochs: 1e3"), "run.epochs: `1000.0` is a number"),
        (run("seed: -9223372036854775808"), "run.seed: `-9223372036854775808` is an integer"),
        (run("clip_norm: .inf"), "run.clip_norm: `inf` is a number"),
        (
            run("optimizer: {kind: adamw, learning_rate: .nan}"),
            "run.optimizer.learning_rate: `NaN` is a number",
        ),
        (run("optimizer: {kind: adamw, betas: [.nan, 0]}"), "run.optimizer.betas[0]: `NaN` is a number"),
        (SMALL.replace("4/255", ".nan"), "run.target_epsilon: `NaN` is not a fraction"),
        (SMALL.replace("4/255", "-1/255"), "run.target_epsilon: `-1/255` lies outside [0, 1]"),
        (SMALL.replace("4/255", "1/0"), "run.target_epsilon: `1/0` lies outside [0, 1]"),
        (
            SMALL.replace("4/255", "4294967296/4294967297"),
            "run.target_epsilon: `4294967296/4294967297` is not",
        ),
        (run("epochs: 1, epochs: 2"), "key `epochs` stands twice"),
        (run("epochs: !!python/object/apply:os.system [id]"), "run.epochs: `[\"id\"]` is a list"),
        (format!("{SMALL}---\nname: other"), "more than one document"),
        (deep, "recursion limit"),
        ("? [a]\n: b".to_owned(), "expected a text"),
        ("name: [".repeat(100_000), "more than 1000 levels of nesting"),
        ("- ".repeat(100_000), "more than 1000 levels of nesting"),
        ("? ".repeat(100_000), "more than 1000 levels of nesting"),
        ("a: &a [*a]".to_owned(), ""),
        ("\u{feff}%YAML 9.9\n---\nname: a".to_owned(), ""),
    ];
    for (text, expected) in cases {
        let error = refusal(&text);
        assert!(error.contains(expected), "expected {expected}: {error}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "..",
        ".",
        "../../x",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        "a/./b",
        "a\\b",
        "~/x",
        "a b",
        "${HOME}",
    ] {
        let backbone =
            format!("backbones: {{{name:?}: {{architecture: {{kind: vit}}, weights: {{kind: random}}}}}}");
        let dataset = format!(
            "datasets: {{{name:?}: {{source: {{kind: procedural, family: shapes, train: 9, test: 9}}}}}}"
        );
        let weights = |key: &str| {
            format!(
                "backbones: {{b: {{architecture: {{kind: vit}}, weights: {{kind: hub, repository: o/n, {key}: {name:?}}}}}}}"
            )
        };
        let hub = weights("repository").replace("repository: o/n, ", "");
        let split = format!(
            "datasets: {{d: {{source: {{kind: parquet, path: x}}, splits: {{kind: given, train: {name:?}}}}}}}"
        );
        for (section, place) in [
            (&backbone, "backbones."),
            (&dataset, "datasets."),
            (&weights("file"), "backbones.b.weights.file: "),
            (&weights("revision"), "backbones.b.weights.revision: "),
            (&hub, "backbones.b.weights.repository: "),
            (&split, "datasets.d.splits.train: "),
        ] {
            let error = refusal(&format!("{SMALL}{section}"));
            let expected = format!("`{name}` is a text, expected a name of at most 200 letters");
            assert!(error.contains(place) && error.contains(&expected), "{section}: {error}");
        }
    }
}

#[test]
fn what_grows_beyond_bounds_is_refused() {
    let numbers = |count: usize| (1..=count).map(|number| number.to_string()).collect::<Vec<_>>().join(", ");
    let points =
        (0..1000).map(|epoch| format!("{{epoch: {epoch}, fraction: 1}}")).collect::<Vec<_>>().join(", ");
    let long = format!("{{kind: piecewise, points: [{points}]}}");
    let piecewise = SMALL.replace("{kind: fixed}", &long).replace("epochs: 10", "epochs: 1000");
    let names = (0..5000).map(|name| format!("n{name}: {{}}")).collect::<Vec<_>>().join(", ");
    let excluded = "{backbone: nobody}, ".repeat(5000);
    let text = "x".repeat(900_000);
    let overrides = format!("overrides: [{{when: {{dataset: shapes}}, set: {{epsilon_schedule: {long}}}}}]");
    let cases = [
        (
            format!("{SMALL}matrix: {{seed: [{}], batch_size: [{}]}}", numbers(1000), numbers(1001)),
            "the grid has 1001000 points",
        ),
        (
            format!("{piecewise}matrix: {{seed: [{}]}}", numbers(50_000)),
            "values together, expected at most 10000000",
        ),
        (
            format!("{SMALL}{overrides}\nmatrix: {{seed: [{}]}}", numbers(50_000)),
            "values together, expected at most",
        ),
        (format!("{SMALL}datasets: {{{names}}}\nexclude: [{excluded}]"), "problems"),
        (format!("{SMALL}matrix: {{dataset: {text}}}"), "matrix.dataset"),
        (format!("{SMALL}{}: 1", &text[..1000]), "unknown key"),
        (format!("name: {text}"), "name"),
        (format!("name: small\nrun: [{text}]"), "run"),
        (
            format!("{SMALL}datasets: {{d: {{source: {{kind: parquet, path: x, image_column: {text}}}}}}}"),
            "expected a text of at most 1000 characters",
        ),
    ];
    for (text, expected) in cases {
        let error = refusal(&text);
        assert!(error.contains(expected), "expected {expected}: {error:.300}");
    }
}

/// What [`bombs_take_no_memory`] runs in a process of little memory; without a file there is nothing to do.
#[test]
fn child_that_reads_a_file() {
    if let Some(path) = std::env::var_os(FILE) {
        let text = std::fs::read(path).expect("the parent wrote it");
        assert!(expand(&text).expect_err("the file lies").to_string().len() < LONGEST_ERROR);
    }
}

#[test]
fn bombs_take_no_memory() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let text = "x".repeat(600_000);
    let bombs = [
        format!("a: &a {text}\nb: [{}]", "*a,".repeat(100_000)),
        format!("a: &a [{}]\nb: &b [{}]\nc: [{}]", "1,".repeat(5000), "*a,".repeat(5000), "*b,".repeat(5000)),
        format!("name: small\nmatrix: {{dataset: [{}]}}", "1, ".repeat(150_000)),
        format!("{SMALL}exclude: [{}]", "{backbone: x}, ".repeat(30_000)),
        format!("{SMALL}overrides: [{}]", format!("{{{}: 1}}, ", "y".repeat(5000)).repeat(150)),
        "[".repeat(1_000_000),
    ];
    for (number, bomb) in bombs.iter().enumerate() {
        let path = folder.join(format!("bomb{number}.yaml"));
        std::fs::write(&path, bomb).expect("the folder of tests can be written");
        let limited = format!("ulimit -v {MEMORY} && exec \"$0\" --exact child_that_reads_a_file");
        let program = std::env::current_exe().expect("a test has a program");
        let output = Command::new("sh").args(["-c", &limited]).arg(program).env(FILE, &path).output();
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "bomb {number}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    /// A digit, and what stands in its place.
    Number(prop::sample::Index, &'static str),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let place = any::<prop::sample::Index>;
    let byte = prop::sample::select(b"\0\n\t :,-[]{}&*!?|>'\"%@`#~/.0\xff".to_vec());
    let number = prop::sample::select(vec![
        "-1",
        "0",
        "99999999999999999999",
        "9223372036854775807",
        ".nan",
        "-.inf",
        "1e999",
        "0x7f",
        "~",
        "''",
        "100001",
        "1/0",
    ]);
    let mutation = prop_oneof![
        3 => (place(), byte).prop_map(|(place, byte)| Mutation::Byte(place, byte)),
        1 => place().prop_map(Mutation::Cut),
        2 => (place(), place(), place()).prop_map(|(from, to, at)| Mutation::Splice(from, to, at)),
        4 => (place(), number).prop_map(|(place, number)| Mutation::Number(place, number)),
    ];
    prop::collection::vec(mutation, 1..4)
}

fn mutated(text: &str, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let place = |index: &prop::sample::Index| index.index(bytes.len());
        match mutation {
            Mutation::Byte(index, byte) => {
                let place = place(index);
                bytes[place] = *byte;
            }
            Mutation::Cut(index) => bytes.truncate(index.index(bytes.len())),
            Mutation::Splice(from, to, at) => {
                let (from, to, at) = (place(from), place(to), place(at));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(at..at, piece);
            }
            Mutation::Number(index, number) => {
                let digits: Vec<usize> =
                    (0..bytes.len()).filter(|place| bytes[*place].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    let place = digits[index.index(digits.len())];
                    bytes.splice(place..=place, number.bytes());
                }
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: FILES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_are_grids_or_problems(quick: bool, mutations in mutations()) {
        let text = if quick { include_str!("../../../sweeps/quickstart.yaml") } else { include_str!("../../../sweeps/paper.yaml") };
        match expand(&mutated(text, &mutations)) {
            Ok(grid) => prop_assert!((1..=MAX_RUNS).contains(&grid.runs.len())),
            Err(problems) => prop_assert!(problems.iter().count() > 0 && problems.to_string().len() < LONGEST_ERROR),
        }
    }

    #[test]
    fn any_bytes_are_a_sweep_or_problems(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(expand(&bytes).is_err());
    }

    #[test]
    fn any_text_of_yaml_is_a_sweep_or_problems(text in "[a-c&*!?|>'\"%@`#~,:{}\\[\\] \n-]{0,80}") {
        drop(expand(text.as_bytes()));
    }

    #[test]
    fn any_assignment_is_one_or_a_problem(text in "[+~]?[a-z._-]{0,30}=?.{0,40}") {
        if let Ok(assignment) = text.parse::<Assignment>() {
            drop(Sweep::parse(SMALL.as_bytes(), &[assignment]));
        }
    }

    #[test]
    fn any_text_is_an_epsilon_within_bounds_or_none(text in "[0-9./ +e-]{0,30}|.{0,20}") {
        if let Ok(epsilon) = text.parse::<Epsilon>() {
            prop_assert!((0.0..=1.0).contains(&epsilon.value()) && epsilon.grid().len() <= 257);
        }
    }
}
