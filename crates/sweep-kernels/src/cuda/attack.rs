//! Attacks on a classifier with everything that belongs to an image kept on the GPU: `cuda/attack.cu`.
//!
//! This is the arithmetic alone: what an attack means, what is an error and what is reported is decided by the crate
//! `sweep-attacks`. A [`Walk`] is one search of all images; between its calls the caller asks the classifier. Nothing waits
//! for the GPU but [`PendingLog::finish`], [`Walk::read_answers`] and [`Inspection::read`].

use candle_core::{DType, Device, Tensor};

use super::{Argument, Gpu, Grid, convert};
use crate::{Error, Reading, Result};

/// Words that are logged for each image and query (`Field` in `cuda/attack.cu`).
const FIELDS: usize = 5;
/// Words that are known about each image (`State`).
const STATE: usize = 5;
/// Words that an inspection finds out about each image.
const REPORT: usize = 4;
/// Pixels of one image that one block works on: four accesses of 16 bytes for each of its threads.
const SEGMENT: usize = 4096;
/// Threads of a block.
const THREADS: u32 = 256;
/// Rows of logits in a block, one warp each.
const ROWS_PER_BLOCK: usize = 8;
/// Share of the new gradient step in moves with momentum after the first (alpha in paper section D).
const GRADIENT_SHARE: f32 = 0.75;
/// Stands for a plain projected step.
const NO_MOMENTUM: f32 = -1.0;

/// How perturbations are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Largest absolute change of a pixel.
    Linf,
    /// Euclidean length of the change.
    L2,
}

/// The loss of an image, by its number in `cuda/attack.cu`; `sweep-attacks` has the formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Cross entropy with the label.
    CrossEntropy,
    /// Difference of logits ratio; three classes at least.
    Dlr,
    /// The same towards one class; four classes at least.
    TargetedDlr,
    /// Divergence of the prediction from given probabilities.
    KullbackLeibler,
}

/// What one image's logits are pushed away from or towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The loss.
    pub kind: Kind,
    /// The true class. Labels must exist: kernels do not check.
    pub label: u32,
    /// The class to be mistaken for; of [`Kind::TargetedDlr`] alone.
    pub target: u32,
}

/// The goals of N images on the GPU. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Goals {
    gpu_table: Tensor,
    clean: Option<Tensor>,
}

impl Goals {
    /// One goal per image. `clean` are N × classes probabilities, for [`Kind::KullbackLeibler`].
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] unless `device` is a GPU; failures of the driver.
    pub fn new(device: &Device, goals: &[Goal], clean: Option<&[f32]>) -> Result<Self> {
        let gpu = Gpu::new(device)?;
        let kinds = goals.iter().map(|goal| goal.kind as u32);
        let labels = goals.iter().map(|goal| goal.label);
        let table: Vec<u32> = kinds.chain(labels).chain(goals.iter().map(|goal| goal.target)).collect();
        let clean = clean.map(|clean| gpu.upload(clean)).transpose()?;
        Ok(Self { gpu_table: gpu.upload(&table)?, clean })
    }

    /// Makes the wrong class of `rank` (1 for the most likely) of each row of `logits` (N, classes; F32 or BF16) the target
    /// of that image. There must be more than `rank` classes.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn choose_targets(&mut self, logits: &Tensor, rank: usize) -> Result<()> {
        let (rows, classes) = logits.dims2()?;
        let gpu = Gpu::of(logits)?;
        let arguments = [gpu.at(logits)?, gpu.at(&self.gpu_table)?, rank.into(), rows.into(), classes.into()];
        gpu.launch_typed("attack_targets", logits.dtype(), rows_of_logits(rows), &arguments)
    }

    /// Makes the predictions of `logits` (N, classes; F32 or BF16) the probabilities to diverge from.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn diverge_from(&mut self, logits: &Tensor) -> Result<()> {
        let (rows, classes) = logits.dims2()?;
        let gpu = Gpu::of(logits)?;
        let clean = gpu.empty((rows, classes), DType::F32)?;
        let arguments = [gpu.at(logits)?, gpu.at(&clean)?, rows.into(), classes.into()];
        gpu.launch_typed("attack_probabilities", logits.dtype(), rows_of_logits(rows), &arguments)?;
        self.clean = Some(clean);
        Ok(())
    }
}

fn rows_of_logits(rows: usize) -> Grid {
    Grid::blocks(rows.div_ceil(ROWS_PER_BLOCK) as u32, THREADS)
}

/// The settings of a search.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The norm of the ball.
    pub norm: Norm,
    /// Its radius, in units of a pixel's range.
    pub radius: f32,
    /// Size of the first step, in the norm.
    pub first_step_size: f32,
    /// Steps, each after a query; one more query follows the last.
    pub steps: usize,
    /// APGD's momentum and control of step sizes, which need the best points; else constant plain steps.
    pub is_adaptive: bool,
    /// Points of largest loss are wanted.
    pub keeps_best: bool,
    /// First misclassified points are wanted.
    pub keeps_misclassified: bool,
}

/// How the pixels of images are cut into parts, one for each block.
#[derive(Clone, Copy)]
struct Cut {
    pixels: usize,
    segments: usize,
}

impl Cut {
    fn of(images: &Tensor) -> Result<Self> {
        let (_, channels, rows, columns) = images.dims4()?;
        let pixels = channels * rows * columns;
        if pixels == 0 || i32::try_from(pixels).is_err() {
            let expected = "images of 1 to 2³¹ - 1 pixels".to_owned();
            return Err(Error::Shape { operation: "attack", got: images.dims().to_vec(), expected });
        }
        Ok(Self { pixels, segments: pixels.div_ceil(SEGMENT) })
    }

    fn grid(self, rows: usize) -> Result<Grid> {
        match u32::try_from(rows * self.segments) {
            Ok(blocks @ 1..=0x7FFF_FFFF) => Ok(Grid::blocks(blocks, THREADS)),
            _ => Err(Error::Shape {
                operation: "attack",
                got: vec![rows, self.pixels],
                expected: "1 to 2³¹ - 1 parts of images".to_owned(),
            }),
        }
    }

    fn arguments(self) -> [Argument; 3] {
        [self.pixels.into(), SEGMENT.into(), self.segments.into()]
    }
}

/// Runs the kernel `name`, which copies rows of pixels.
fn copy_rows(gpu: &Gpu, name: &str, from: &Tensor, to: &Tensor, list: Option<&Tensor>) -> Result<()> {
    let cut = Cut::of(to)?;
    let pointers = [gpu.at(from)?, gpu.at(to)?, gpu.at_or_none(list)?];
    gpu.launch(name, cut.grid(to.dim(0)?)?, &[pointers, cut.arguments()].concat())
}

/// The rows of `from` that `list` (U32) names, or all without a list, by the kernel `name`.
fn picked(gpu: &Gpu, name: &str, from: &Tensor, list: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = from.dims().to_vec();
    dims[0] = list.map_or(dims[0], Tensor::elem_count);
    let to = gpu.empty(dims, DType::F32)?;
    copy_rows(gpu, name, from, &to, list)?;
    Ok(to)
}

/// What is wrong with the images of a batch and how far points are from them, found out on the GPU.
#[derive(Debug)]
pub struct Inspection {
    report: Tensor,
}

/// What [`Inspection`] found out about one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inspected {
    /// The first pixel outside [0, 1], a NaN included.
    pub pixel_out_of_range: Option<f32>,
    /// Distance of the point from the image, in the norm; squares are summed in f64.
    pub distance: f32,
    /// Whether all pixels of the point are in [0, 1]. True without a point.
    pub point_is_image: bool,
}

impl Inspection {
    /// Looks at `images` and, in the same shape, at points near them. F32, (N, C, H, W), N not 0.
    ///
    /// # Errors
    /// Failures of the driver, tensors that are no such images.
    pub fn new(norm: Norm, images: &Tensor, points: Option<&Tensor>) -> Result<Self> {
        let report = Gpu::of(images)?.empty(REPORT * images.dim(0)?, DType::U32)?;
        let inspection = Self { report };
        inspection.enqueue(norm, images, points)?;
        Ok(inspection)
    }

    fn enqueue(&self, norm: Norm, images: &Tensor, points: Option<&Tensor>) -> Result<()> {
        let (gpu, count, cut) = (Gpu::of(images)?, images.dim(0)?, Cut::of(images)?);
        let pointers = [gpu.at(images)?, gpu.at_or_none(points)?, gpu.at(&self.report)?];
        let is_l2 = usize::from(norm == Norm::L2);
        let sizes = [cut.pixels.into(), count.into(), is_l2.into()];
        gpu.launch("attack_inspect", Grid::blocks(count as u32, 1024), &[pointers, sizes].concat())
    }

    /// One result per image. Waits for the GPU.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn read(&self) -> Result<Vec<Inspected>> {
        Ok(inspected(&words(Reading::new(&self.report)?)?))
    }
}

fn inspected(words: &[u32]) -> Vec<Inspected> {
    let count = words.len() / REPORT;
    let result = |image: usize| Inspected {
        pixel_out_of_range: (words[image] != 0).then(|| f32::from_bits(words[count + image])),
        distance: f32::from_bits(words[2 * count + image]),
        point_is_image: words[3 * count + image] != 0,
    };
    (0..count).map(result).collect()
}

/// One search of images for points of large loss.
///
/// In turn: ask the classifier at [`Walk::points`], give it [`Walk::answer`]'s gradient, and [`Walk::advance`] along what it
/// returns, as often as there are steps; then ask once more, and [`Walk::keep`].
///
/// The points that are given to the classifier are overwritten once the search moves on.
pub struct Walk {
    gpu: Gpu,
    rules: Rules,
    cut: Cut,
    goals: Goals,
    center: Tensor,
    /// Images that are still asked, by row of the batch; all without a list.
    rows: Option<Tensor>,
    point: Tensor,
    previous: Tensor,
    best_point: Option<Tensor>,
    best_gradient: Option<Tensor>,
    misclassified: Option<Tensor>,
    state: Tensor,
    /// One slot for each query and one for the step size after the last, then the inspection.
    log: Tensor,
    /// Queries that were answered.
    asked: usize,
}

impl Walk {
    /// Places the images that `rows` names (in order; all without) at their `starts`, clamped to [0, 1], or where they are.
    ///
    /// `images` are (N, C, H, W), F32 and contiguous; `starts` (as many as `rows` names, C, H, W).
    ///
    /// # Errors
    /// Tensors that are not as described; failures of the driver.
    pub fn new(
        rules: Rules,
        images: &Tensor,
        starts: Option<&Tensor>,
        rows: Option<&[u32]>,
        goals: Goals,
    ) -> Result<Self> {
        let (gpu, cut, count) = (Gpu::of(images)?, Cut::of(images)?, images.dim(0)?);
        let rows = rows.map(|rows| gpu.upload(rows)).transpose()?;
        let point = match (starts, &rows) {
            (Some(starts), _) => picked(&gpu, "attack_points", starts, None)?,
            (None, Some(rows)) => picked(&gpu, "attack_points", images, Some(rows))?,
            // Nothing writes to the first point.
            (None, None) => images.clone(),
        };
        let memory = |wanted: bool| wanted.then(|| gpu.empty(images.shape(), DType::F32)).transpose();
        let keeps_best = rules.keeps_best || rules.is_adaptive;
        Ok(Self {
            rules,
            cut,
            goals,
            center: images.clone(),
            rows,
            previous: point.clone(),
            point,
            best_point: memory(keeps_best)?,
            best_gradient: memory(rules.is_adaptive)?,
            misclassified: memory(rules.keeps_misclassified)?,
            state: gpu.empty(STATE * count, DType::U32)?,
            log: gpu.zeros((rules.steps + 2) * FIELDS * count + REPORT * count, DType::U32)?,
            asked: 0,
            gpu,
        })
    }

    /// Inspects all images, and their start points where all have one; [`Log::inspected`] tells the result.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn inspect(&self, with_points: bool) -> Result<()> {
        let (size, count) = (self.log.elem_count(), self.count());
        let report = self.log.narrow(0, size - REPORT * count, REPORT * count)?;
        Inspection { report }.enqueue(self.rules.norm, &self.center, with_points.then_some(&self.point))
    }

    /// Images altogether.
    fn count(&self) -> usize {
        self.center.dims()[0]
    }

    /// Where the classifier is to be asked: (M, C, H, W) for the M images that are left.
    pub fn points(&self) -> &Tensor {
        &self.point
    }

    /// Points of largest loss so far (N, C, H, W), where the rules keep them; those of images that were never asked are
    /// undefined.
    pub fn best_points(&self) -> Option<&Tensor> {
        self.best_point.as_ref()
    }

    /// Takes in the logits (M, classes; F32 or BF16) at the current points. `window` is the number of steps whose progress
    /// is to be checked now, for adaptive rules. Returns the gradient of the sum of the losses with respect to the logits,
    /// unless this was the last query.
    ///
    /// # Errors
    /// Failures of the driver; [`Error::Shape`] for logits of another number of images, or after the last query.
    pub fn answer(&mut self, logits: &Tensor, window: Option<usize>) -> Result<Option<Tensor>> {
        let (rows, classes) = logits.dims2()?;
        if rows != self.point.dim(0)? || self.asked > self.rules.steps {
            let expected = format!("({}, classes), {} times", self.point.dim(0)?, self.rules.steps + 1);
            return Err(Error::Shape { operation: "attack", got: logits.dims().to_vec(), expected });
        }
        let gpu = &self.gpu;
        let is_last = self.asked == self.rules.steps;
        let gradient = (!is_last).then(|| gpu.empty(logits.shape(), logits.dtype())).transpose()?;
        let arguments = [
            gpu.at(logits)?,
            gpu.at_or_none(gradient.as_ref())?,
            gpu.at(&self.goals.gpu_table)?,
            gpu.at_or_none(self.goals.clean.as_ref())?,
            gpu.at(&self.log)?,
            gpu.at(&self.state)?,
            gpu.at_or_none(self.rows.as_ref())?,
            rows.into(),
            classes.into(),
            self.count().into(),
            self.asked.into(),
            self.rules.steps.into(),
            window.unwrap_or(0).into(),
            self.rules.first_step_size.into(),
        ];
        gpu.launch_typed("attack_answer", logits.dtype(), rows_of_logits(rows), &arguments)?;
        self.asked += 1;
        Ok(gradient)
    }

    /// The log of the last query that was answered.
    fn slot(&self) -> Result<Tensor> {
        let words = FIELDS * self.count();
        Ok(self.log.narrow(0, (self.asked - 1) * words, words)?)
    }

    /// The answers to the last query, for all N images; those of images that have left are zero. Waits for the GPU.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn read_answers(&self) -> Result<Vec<Answer>> {
        let log = Log { words: words(Reading::new(&self.slot()?)?)?, count: self.count(), queries: 1 };
        Ok((0..log.count).map(|image| log.answer(0, image)).collect())
    }

    /// Moves along `gradient` (shape of [`Walk::points`]), the gradient of the losses with respect to the points.
    ///
    /// # Errors
    /// Failures of the driver; a gradient of another shape.
    pub fn advance(&mut self, gradient: &Tensor) -> Result<()> {
        let gradient = self.as_gradient(gradient)?;
        let next = self.gpu.empty(self.point.shape(), DType::F32)?;
        match self.rules.norm {
            Norm::Linf => self.advance_linf(&gradient, &next)?,
            Norm::L2 => self.advance_l2(&gradient, &next)?,
        }
        self.previous = std::mem::replace(&mut self.point, next);
        Ok(())
    }

    fn as_gradient(&self, gradient: &Tensor) -> Result<Tensor> {
        if gradient.dims() == self.point.dims() {
            return convert(gradient, DType::F32);
        }
        let expected = format!("{:?}", self.point.dims());
        Err(Error::Shape { operation: "attack", got: gradient.dims().to_vec(), expected })
    }

    fn share(&self) -> f32 {
        match self.asked {
            _ if !self.rules.is_adaptive => NO_MOMENTUM,
            1 => 1.0,
            _ => GRADIENT_SHARE,
        }
    }

    /// Whether pixels can go four at a time: rows and tensors begin at multiples of 16 bytes.
    fn packs(&self, tensors: &[&Tensor]) -> Result<Argument> {
        let mut fits = self.cut.pixels.is_multiple_of(4);
        for tensor in tensors {
            fits &= self.gpu.address(tensor)?.is_multiple_of(16);
        }
        Ok(usize::from(fits).into())
    }

    /// Best points, best gradients and misclassified points, lists of rows and states: what observing pixels needs.
    fn memories(&self) -> Result<[Argument; 5]> {
        let gpu = &self.gpu;
        Ok([
            gpu.at_or_none(self.best_point.as_ref())?,
            gpu.at_or_none(self.best_gradient.as_ref())?,
            gpu.at_or_none(self.misclassified.as_ref())?,
            gpu.at_or_none(self.rows.as_ref())?,
            gpu.at(&self.state)?,
        ])
    }

    fn advance_linf(&self, gradient: &Tensor, next: &Tensor) -> Result<()> {
        let gpu = &self.gpu;
        let tensors = [&self.point, &self.previous, gradient, &self.center, next];
        let mut arguments = Vec::with_capacity(18);
        for tensor in tensors {
            arguments.push(gpu.at(tensor)?);
        }
        arguments.extend(self.memories()?);
        arguments.extend([gpu.at(&self.slot()?)?, self.rules.radius.into(), self.share().into()]);
        arguments.extend(self.cut.arguments());
        arguments.extend([self.count().into(), self.packs(&tensors)?]);
        gpu.launch("attack_move_linf", self.cut.grid(self.point.dim(0)?)?, &arguments)
    }

    fn advance_l2(&self, gradient: &Tensor, next: &Tensor) -> Result<()> {
        let (gpu, rows) = (&self.gpu, self.point.dim(0)?);
        let grid = self.cut.grid(rows)?;
        let [pixels, segment, segments] = self.cut.arguments();
        let packs = self.packs(&[&self.point, &self.previous, gradient, &self.center, next])?;
        let sizes = [pixels, segment, segments, self.count().into(), packs];
        let sums = || gpu.empty((rows, self.cut.segments), DType::F64);
        let (slopes, reaches, lengths) = (sums()?, sums()?, sums()?);
        let (point, previous, gradient) = (gpu.at(&self.point)?, gpu.at(&self.previous)?, gpu.at(gradient)?);
        let (center, next) = (gpu.at(&self.center)?, gpu.at(next)?);
        let (slopes, reaches, lengths) = (gpu.at(&slopes)?, gpu.at(&reaches)?, gpu.at(&lengths)?);
        let (list, slot) = (gpu.at_or_none(self.rows.as_ref())?, gpu.at(&self.slot()?)?);
        let (radius, share) = (self.rules.radius.into(), self.share());

        let observe = [&[point, gradient, slopes][..], &self.memories()?, &[slot], &sizes].concat();
        gpu.launch("attack_observe_l2", grid, &observe)?;
        let reach = [&[point, gradient, center, slopes, reaches, list, slot][..], &sizes].concat();
        gpu.launch("attack_reach_l2", grid, &reach)?;
        let step = [point, previous, gradient, center, next, slopes, reaches, lengths, list, slot];
        let step = [&step[..], &[radius, share.into()], &sizes].concat();
        gpu.launch("attack_step_l2", grid, &step)?;
        if self.rules.is_adaptive {
            let pull = [center, next, lengths, list, radius, pixels, segment, segments, packs];
            gpu.launch("attack_pull_l2", grid, &pull)?;
        }
        Ok(())
    }

    /// Keeps what the last answer says is to be kept of the current points, without a move; does so again what
    /// [`Walk::advance`] does.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn keep(&self) -> Result<()> {
        if self.best_point.is_none() && self.misclassified.is_none() {
            return Ok(());
        }
        let [best_point, _, misclassified, rows, state] = self.memories()?;
        let pointers = [self.gpu.at(&self.point)?, best_point, misclassified, rows, state];
        let arguments = [&pointers[..], &self.cut.arguments(), &[self.count().into()]].concat();
        self.gpu.launch("attack_keep", self.cut.grid(self.point.dim(0)?)?, &arguments)
    }

    /// Goes on with the images `kept` alone, which stand in the rows `places` of the batch. Returns their part of
    /// `gradient`.
    ///
    /// # Errors
    /// Failures of the driver; a gradient of another shape.
    pub fn retain(&mut self, kept: &[u32], places: &[u32], gradient: &Tensor) -> Result<Tensor> {
        let gradient = self.as_gradient(gradient)?;
        let places = self.gpu.upload(places)?;
        let gradient = picked(&self.gpu, "attack_slopes", &gradient, Some(&places))?;
        // The first query has no point before it.
        let is_start = self.asked == 1;
        let point = picked(&self.gpu, "attack_points", &self.point, Some(&places))?;
        self.previous = if is_start {
            point.clone()
        } else {
            picked(&self.gpu, "attack_points", &self.previous, Some(&places))?
        };
        self.point = point;
        self.rows = Some(self.gpu.upload(kept)?);
        Ok(gradient)
    }

    /// Puts into `points` (N, C, H, W) the point that `choices` names for each image.
    ///
    /// # Errors
    /// Failures of the driver; [`Error::Shape`] where the rules keep no such points.
    pub fn select(&self, points: &Tensor, choices: &[Choice]) -> Result<()> {
        let (Some(best_point), Some(misclassified)) = (&self.best_point, &self.misclassified) else {
            let expected = "rules that keep best and misclassified points".to_owned();
            return Err(Error::Shape { operation: "attack", got: points.dims().to_vec(), expected });
        };
        let gpu = &self.gpu;
        let choices = gpu.upload(&choices.iter().map(|choice| *choice as u32).collect::<Vec<_>>())?;
        let pointers = [gpu.at(points)?, gpu.at(misclassified)?, gpu.at(best_point)?, gpu.at(&choices)?];
        let arguments = [&pointers[..], &self.cut.arguments()].concat();
        gpu.launch("attack_select", self.cut.grid(self.count())?, &arguments)
    }

    /// The whole log, as it is after what was enqueued so far. Waits for nothing.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn log(&self) -> Result<PendingLog> {
        Ok(PendingLog { words: Reading::new(&self.log)?, count: self.count(), queries: self.asked })
    }
}

/// A [`Log`] on its way to the host.
#[must_use = "the log tells what went wrong"]
pub struct PendingLog {
    words: Reading,
    count: usize,
    queries: usize,
}

impl PendingLog {
    /// The log. Waits until it is there.
    ///
    /// # Errors
    /// Failures of the driver.
    pub fn finish(self) -> Result<Log> {
        let Self { words: reading, count, queries } = self;
        Ok(Log { words: words(reading)?, count, queries })
    }
}

fn words(reading: Reading) -> Result<Vec<u32>> {
    Ok(reading.finish()?.to_vec1()?)
}

/// Which of the points of a [`Walk`] is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Choice {
    /// None: what is there stays.
    Neither,
    /// The first misclassified point.
    Misclassified,
    /// The point of largest loss.
    Best,
}

/// A copy of `images` (N, C, H, W; F32 and contiguous), whose pixels are in [0, 1].
///
/// # Errors
/// Tensors that are no such images; failures of the driver.
pub fn copy(images: &Tensor) -> Result<Tensor> {
    picked(&Gpu::of(images)?, "attack_points", images, None)
}

/// What was logged about one image at one query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// The loss.
    pub loss: f32,
    /// The most likely class.
    pub prediction: u32,
    /// Size of the step that led to the query; 0 for the first.
    pub step_size: f32,
    /// Whether the gradient, where one was taken, has an entry other than zero.
    pub has_slope: bool,
    /// Whether all entries of the gradient, where one was taken, are finite.
    pub is_finite: bool,
}

/// What a [`Walk`] found, on the host.
#[derive(Clone, Debug)]
pub struct Log {
    words: Vec<u32>,
    count: usize,
    queries: usize,
}

impl Log {
    /// Queries that were answered.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// What was logged about `image` at `query`. At the query after the last, only the step size says something: what a
    /// further step would have had.
    pub fn answer(&self, query: usize, image: usize) -> Answer {
        let word = |field: usize| self.words[(query * FIELDS + field) * self.count + image];
        Answer {
            loss: f32::from_bits(word(0)),
            prediction: word(1),
            step_size: f32::from_bits(word(2)),
            has_slope: word(3) != 0,
            is_finite: word(4) == 0,
        }
    }

    /// What [`Walk::inspect`] found.
    pub fn inspected(&self) -> Vec<Inspected> {
        inspected(&self.words[self.words.len() - REPORT * self.count..])
    }
}
