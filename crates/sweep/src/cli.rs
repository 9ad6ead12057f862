//! The command line: definitions only.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sweep_core::Assignment;
use sweep_core::epsilon::Epsilon;
use sweep_core::spec::{Precision, RunId};
use sweep_report::pairs::Pairing;
use sweep_report::{Condition, Key};
use sweep_store::{At, Metric, View};
use sweep_worker::NamedAttack;

use crate::executor::ExecutorArgs;

/// Sweeps of robust fine-tuning: expand a grid, train every run, compare.
#[derive(Debug, Parser)]
#[command(name = "sweep", version, about, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Folder of the database, runs and caches.
    #[arg(long, global = true, env = "SWEEP_HOME", default_value = "runs")]
    pub(crate) home: PathBuf,

    /// The database, where it cannot lie in the home folder: on a local disk if that folder is on a network.
    #[arg(long, global = true, env = "SWEEP_DATABASE", value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all runs succeeded; 1 unexpected; 2 bad input, nothing was touched; \
3 some runs failed or are cancelled; 130 interrupted, the same command goes on.
Standard output is data, standard error is everything else. SWEEP_LOG sets the log filter (such as `debug`).";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a sweep; run it again to go on where it was.
    Run(RunArgs),
    /// Show what a sweep would run, what is done already, and what the rest costs.
    Plan(PlanArgs),
    /// Bring everything that a sweep takes from the Hub, ahead of time: for nodes without a network.
    Fetch(FetchArgs),
    /// Look at datasets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Check what runs need: home folder, database, disk space, devices, the Hub and its cache.
    Doctor(DoctorArgs),
    /// Show how the runs stand.
    Status(StatusArgs),
    /// Show everything about one run.
    Show(ShowArgs),
    /// Print the log of a run's last attempt.
    Logs(LogsArgs),
    /// Say where a run stands, why, and what happens next.
    Explain(ExplainArgs),
    /// Let failed or cancelled runs run again.
    Retry(SelectArgs),
    /// Take runs out; running ones save their work and leave.
    Cancel(SelectArgs),
    /// Delete checkpoints that no run needs.
    Gc(GcArgs),
    /// Put a question to the results database in SQL (read-only).
    Query(QueryArgs),
    /// Compare runs: rows × columns, seeds folded.
    Compare(CompareArgs),
    /// Measure a model at more radii, under other attacks or on other data.
    Evaluate(EvaluateArgs),
    /// Write the paper's figures and tables of a sweep as one HTML page and files.
    Report(ReportArgs),
    /// Show a running grid in the browser: the grid, its runs, live curves, comparisons (read-only).
    Serve(ServeArgs),
    /// Write results in the form of other programs: CSV, JSON, Parquet, a folder for MLflow.
    Export(ExportArgs),
    /// Make the database again from the files of the home folder; the old one is kept beside it.
    Rebuild,
    /// Print the JSON Schema of a sweep file, for editors.
    Schema,
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Carry out one attempt at one run; started by the scheduler.
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Do the runs of one task of an array; started by Slurm.
    #[command(hide = true)]
    Task(TaskArgs),
}

/// A sweep file and changes to it.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// The sweep file; built in are `quickstart`, `paper`, `diagnosis`, `ablation`, `schedules`, `phenomenon`
    /// and `pretrain`.
    pub(crate) file: PathBuf,

    /// Change the file: a.b=VALUE, +a.b=VALUE to add, ~a.b to remove. May be repeated.
    #[arg(long, value_name = "CHANGE", value_parser = assignment)]
    pub(crate) set: Vec<Assignment>,
}

fn assignment(text: &str) -> Result<Assignment, String> {
    text.parse().map_err(|problem: sweep_core::Problem| problem.to_string())
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,

    /// Ask the Hub again what branches mean now; runs of branches that moved get other ids.
    #[arg(long)]
    pub(crate) update: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Classes and sizes of the splits, and a picture of every class.
    Show(DataShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DataShowArgs {
    /// The dataset, by the name that a sweep file would use.
    pub(crate) name: String,

    /// Sweep file that defines the dataset. Default: the built-in datasets.
    #[arg(long, value_name = "FILE")]
    pub(crate) sweep: Option<PathBuf>,

    /// Side of the pictures in pixels.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub(crate) size: u32,

    /// Write a contact sheet: the first training picture of each class, in the order of the classes (PNG).
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) form: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) form: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,

    /// Device slots: cpu, cpu:2, cuda:0,1, cuda:0*2. Default: those of the sweep file; else one worker on every GPU, or on
    /// all cores where there is none or the build has no CUDA.
    #[arg(long)]
    pub(crate) devices: Option<String>,

    /// Threads of a CPU worker. Default: the cores divided by the CPU slots.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,

    /// Seconds that a stopped worker has to save its work.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) grace: u64,

    /// Stop after this many failed runs.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_fail: Option<u32>,

    /// Go on even if the first three runs all fail.
    #[arg(long)]
    pub(crate) no_early_stop: bool,

    /// Run failed runs again; cancelled ones stay out until `sweep retry`.
    #[arg(long)]
    pub(crate) retry_failed: bool,

    /// Seconds before a run that failed for a passing reason is tried again; it doubles with every failure without progress.
    #[arg(long, value_name = "SECONDS", env = "SWEEP_RETRY_DELAY", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) retry_delay: u64,

    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,

    /// Worker program, for tests. Default: this program.
    #[arg(long, hide = true, env = "SWEEP_WORKER")]
    pub(crate) worker: Option<PathBuf>,

    /// How many times faster than usual Slurm and its tasks are looked at, for tests.
    #[arg(long, hide = true, env = "SWEEP_SLURM_HURRY", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) hurry: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Only the summary, not the runs.
    #[arg(long)]
    pub(crate) summary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only the runs of this sweep, by name.
    #[arg(long)]
    pub(crate) sweep: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The run: any prefix of its id that fits one run only.
    pub(crate) run: String,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The run: any prefix of its id that fits one run only.
    pub(crate) run: String,

    /// Number of the attempt. Default: the last one.
    #[arg(long)]
    pub(crate) attempt: Option<u32>,

    /// The events of the attempt instead of its log.
    #[arg(long)]
    pub(crate) events: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The run: any prefix of its id that fits one run only.
    pub(crate) run: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SelectArgs {
    /// The runs: prefixes of ids that fit one run only.
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<String>,

    /// All runs of this sweep, by name, that it makes sense for.
    #[arg(long, value_name = "NAME")]
    pub(crate) sweep: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Only say what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The last checkpoints of finished runs too: their models stay, but a run with more epochs starts anew.
    #[arg(long)]
    pub(crate) finished: bool,

    #[command(flatten)]
    pub(crate) form: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// One SELECT; the views `results`, `curves`, `accuracy_over_epsilon`, `severity` and `gates` are a good start.
    pub(crate) sql: String,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Most rows.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) limit: usize,

    /// Most seconds; a query that takes longer is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct CompareArgs {
    /// Only the runs of this sweep, by name. Default: the sweep that ran last.
    #[arg(long)]
    pub(crate) sweep: Option<String>,

    /// Only runs that fit: `KEY=VALUE,VALUE`, `KEY!=VALUE`, `KEY>=VALUE`, …; may be repeated, all must fit. `state` is a key.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(crate) conditions: Vec<Condition>,

    /// Keys of the sweep file that name a row, such as `epsilon_schedule.start`. Default: those that vary, but the
    /// columns' and the seed.
    #[arg(long, value_delimiter = ',', value_name = "KEY", conflicts_with_all = ["pair", "paper"])]
    pub(crate) rows: Vec<Key>,

    /// Keys whose values are the columns; `none` for one column a metric.
    #[arg(long, value_delimiter = ',', default_value = "epsilon_schedule", value_name = "KEY", conflicts_with_all = ["pair", "paper"])]
    pub(crate) columns: Vec<Key>,

    /// What is compared: clean, robust, robust@EPSILON, expected_robustness, delay, delay_above_chance, clean_drop,
    /// validation_clean, train_seconds. Default: clean,robust,expected_robustness.
    #[arg(long, value_delimiter = ',', conflicts_with = "paper")]
    pub(crate) metric: Vec<Metric>,

    /// `last`: weights of the last epoch on the test split. `epoch:N`: after N epochs on the validation split.
    #[arg(long, value_name = "MOMENT", default_value = "last", conflicts_with = "paper")]
    pub(crate) at: At,

    /// Order rows by their mean of this metric, the best first.
    #[arg(long, value_name = "METRIC", conflicts_with_all = ["pair", "paper"])]
    pub(crate) sort: Option<Metric>,

    /// Add Wilson's 95 % interval to accuracies of a single run.
    #[arg(long, conflicts_with_all = ["pair", "paper"])]
    pub(crate) interval: bool,

    /// Pair runs that are equal in everything but KEY, and test the differences SECOND - FIRST.
    #[arg(long, value_name = "KEY=FIRST,SECOND", conflicts_with = "paper")]
    pub(crate) pair: Option<Pairing>,

    /// One test for each value of these keys. Default: one over all pairs.
    #[arg(long, value_delimiter = ',', value_name = "KEY", requires = "pair")]
    pub(crate) by: Vec<Key>,

    /// List the pairs instead of the tests.
    #[arg(long, requires = "pair")]
    pub(crate) each: bool,

    /// Make every seed a pair of its own instead of the mean over seeds.
    #[arg(long, requires = "pair")]
    pub(crate) each_seed: bool,

    /// Lay the runs beside the published numbers of the paper, where model, dataset, objective, epsilon and schedule agree.
    #[arg(long)]
    pub(crate) paper: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl CompareArgs {
    /// Returns whether there are to be no columns but the metrics.
    pub(crate) fn lists(&self) -> bool {
        matches!(&self.columns[..], [one] if one.name() == "none")
    }
}

const COMPARE_EXAMPLES: &str = "\
Examples:
  sweep compare --where backbone=vit,swin --where 'target_epsilon>=4/255' --interval
  sweep compare --rows epsilon_schedule.start --columns epsilon_schedule.end --metric expected_robustness
  sweep compare --metric clean,robust@8/255,delay --format latex
  sweep compare --pair epsilon_schedule=fixed,ramp:12-37 --by target_epsilon
  sweep compare --paper";

#[derive(Debug, Args)]
#[command(after_help = EVALUATE_EXAMPLES)]
pub(crate) struct EvaluateArgs {
    /// The model: any prefix of the id of a run that has succeeded, or a folder with config.json and model.safetensors
    /// (a run's own, or timm's).
    pub(crate) checkpoint: String,

    /// The images, by the name that a sweep file would use. Default: those of the run.
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,

    /// Sweep file that defines the dataset. Default: the built-in datasets.
    #[arg(long, value_name = "FILE", requires = "dataset")]
    pub(crate) sweep: Option<PathBuf>,

    /// The split, every image of it.
    #[arg(long, value_enum, default_value_t = SplitName::Test)]
    pub(crate) split: SplitName,

    /// METHOD-LOSS: apgd-STEPS, pgd-STEPS or fgsm, then ce, dlr or tRANK (targeted); -xCOUNT for random starts. Or autoattack, or
    /// one of its parts: apgd-STEPS-t, fab-STEPS, square-QUERIES.
    #[arg(long, default_value = "apgd-10-ce")]
    pub(crate) attack: NamedAttack,

    /// The ball.
    #[arg(long, value_enum, default_value_t = NormName::Linf)]
    pub(crate) norm: NormName,

    /// Radii on pixels in [0, 1], such as 0,4/255,8/255; 0..8/255 is every multiple of 1/255.
    #[arg(long, value_name = "RADII", value_delimiter = ',', default_value = "0..4/255", value_parser = radii)]
    pub(crate) epsilon: Vec<Radii>,

    /// Write what became of every image: one row an image and radius, by the ending `.csv` or `.jsonl`.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Form of the rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Side of the images in pixels, for networks that take any. Default: that of the run or of config.json.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(8..=2048))]
    pub(crate) input_size: Option<u32>,

    /// Images a forward pass; what fits the memory.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) batch_size: u32,

    /// Seed of the attack's random numbers. With another one than 0 the points of such an attack join no results.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// What computes: cpu, or cuda:0, the first GPU that CUDA_VISIBLE_DEVICES leaves.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,

    /// What it computes in: f32, tf32 or bf16; the latter two on GPUs. Default: that of the run, f32 for other models.
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,

    /// Threads that compute. Default: all cores.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
}

const EVALUATE_EXAMPLES: &str = "\
The count is strict: an image is correct if its clean version and every point that the attack visited are.
Points of a run's final model on the run's own images join the results; what is there already is not measured again.

Examples:
  sweep evaluate 3f2a9c --epsilon 0..16/255
  sweep evaluate 3f2a9c --attack autoattack --epsilon 4/255,8/255 --output outcomes.csv
  sweep evaluate models/resnet --dataset cub20 --sweep birds.yaml --attack apgd-10-ce-x5 --epsilon 0,2/255";

/// Radii as they are written between two commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Radii(pub(crate) Vec<Epsilon>);

fn radii(text: &str) -> Result<Radii, String> {
    let one = |text: &str| {
        text.parse::<Epsilon>().map_err(|error| match error.hint() {
            Some(hint) => format!("{error}\n  hint: {hint}"),
            None => error.to_string(),
        })
    };
    let Some((first, last)) = text.split_once("..") else { return Ok(Radii(vec![one(text)?])) };
    let (first, last) = (one(first)?, one(last)?);
    let points: Vec<Epsilon> = last.grid().into_iter().filter(|point| *point >= first).collect();
    if points.is_empty() {
        Err(format!("`{text}` is empty: {first} is larger than {last}"))
    } else {
        Ok(Radii(points))
    }
}

/// A split by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    /// Training images.
    Train,
    /// Validation images.
    Validation,
    /// Test images.
    Test,
}

/// A norm by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NormName {
    /// Largest absolute change of a pixel's channel.
    Linf,
    /// Euclidean length of the change.
    L2,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The sweep, by name. Default: the sweep that ran last.
    pub(crate) sweep: Option<String>,

    /// Folder of the report, `report.html` and `figures/`; it appears whole, and replaces nothing but a report.
    #[arg(long, short, value_name = "FOLDER", default_value = "report")]
    pub(crate) output: PathBuf,

    /// Forms of the figures' own files.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FORM", default_value = "svg,png")]
    pub(crate) figures: Vec<FigureForm>,
}

/// Form of a figure's own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FigureForm {
    /// Vectors, for papers.
    Svg,
    /// Pixels, for slides.
    Png,
    /// No file; figures are in the page all the same.
    None,
}

#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub(crate) struct ServeArgs {
    /// The sweep that the first page shows, by name. Default: the only one, or a list.
    #[arg(long, value_name = "NAME")]
    pub(crate) sweep: Option<String>,

    /// Where to listen; port 0 takes one that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) address: SocketAddr,

    /// What readers must show; needed where other machines can reach the address.
    #[arg(long, value_name = "TOKEN", env = "SWEEP_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

const SERVE_EXAMPLES: &str = "\
Prints the address of the first page on standard output and answers until Ctrl-C. Nothing can be changed through it.

Examples:
  sweep serve
  sweep serve --sweep paper --address 127.0.0.1:0
  SWEEP_TOKEN=$(openssl rand -hex 16) sweep serve --address 0.0.0.0:8080
  ssh -L 8080:127.0.0.1:8080 HOST      # the better way to a grid on another machine";

#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Only the runs of this sweep, by name.
    #[arg(long)]
    pub(crate) sweep: Option<String>,

    /// What is exported, with all its rows.
    #[arg(long, value_name = "TABLE", default_value = "results", value_parser = view())]
    pub(crate) table: View,

    /// Write here instead of standard output; the file appears whole or not at all.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Form of the rows. Default: what the ending of FILE says, otherwise csv.
    #[arg(long, value_enum)]
    pub(crate) format: Option<ExportFormat>,

    /// Write a folder that MLflow shows instead: a sweep is an experiment, with parameters, metrics over epochs and tags.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["table", "output", "format"])]
    pub(crate) mlflow: Option<PathBuf>,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  sweep export --output results.parquet
  sweep export --table curves --sweep birds --output curves.csv
  sweep export --mlflow mlruns
  MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri mlruns

MLflow asks for that variable before it opens a folder. Without it, turn the folder into its database, once an export:
  mlflow migrate-filestore --source mlruns --target sqlite:///mlflow.db
  mlflow ui --backend-store-uri sqlite:///mlflow.db";

fn view() -> impl TypedValueParser<Value = View> {
    PossibleValuesParser::new(View::ALL.map(View::name))
        .try_map(|name| View::ALL.into_iter().find(|view| view.name() == name).ok_or("no such table"))
}

/// Form in which a view is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Comma-separated values with a header.
    Csv,
    /// An array of objects.
    Json,
    /// Apache Parquet with typed columns, for data frames; needs --output.
    Parquet,
    /// For reading.
    Table,
    /// A Markdown table.
    Markdown,
    /// A LaTeX table with the rules of booktabs.
    Latex,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Form of the rows.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Form in which rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For reading.
    Table,
    /// An array of objects.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// A Markdown table.
    Markdown,
    /// A LaTeX table with the rules of booktabs.
    Latex,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The run.
    #[arg(long)]
    pub(crate) run: RunId,

    /// Number of the attempt.
    #[arg(long)]
    pub(crate) attempt: u32,

    /// Threads that compute.
    #[arg(long)]
    pub(crate) threads: usize,

    /// Device.
    #[arg(long)]
    pub(crate) device: String,

    /// Seconds after which a checkpoint is written within an epoch.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub(crate) checkpoint_every: u64,

    /// When it must be gone, in seconds since 1970: no epoch is begun that would not be over by then.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) until: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// What the tasks of the array are to do, a line each.
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: PathBuf,

    /// Number of the task, from 0.
    #[arg(long)]
    pub(crate) task: u32,
}
