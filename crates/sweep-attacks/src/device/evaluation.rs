//! Evaluations on a GPU: the ledger is on the host, the points are not.

use candle_core::{Device, Tensor};
use sweep_kernels::Classifier;
use sweep_kernels::attack_steps::{Choice, Inspection, Rules, Walk, copy};

use super::aims::Aims;
use super::search::{Search, rules, trajectories};
use super::{check, check_pixels, device_norm, is_admissible};
use crate::attack::{Aim, Attack};
use crate::ball::Ball;
use crate::evaluation::{BrokenSamples, Found, Start};
use crate::host::with_host_slice;
use crate::input::check_label_count;
use crate::report::{Effort, Evaluation, Outcome};
use crate::sample::Plan;
use crate::{Error, Result};

/// [`Attack::evaluate`] on a GPU.
pub(crate) fn evaluate(
    attack: &Attack,
    model: &dyn Classifier,
    images: &Tensor,
    labels: &[u32],
    epsilon: f64,
    start: Start<'_>,
    broken: BrokenSamples,
) -> Result<Evaluation> {
    check_label_count(images, labels)?;
    let count = check(images, epsilon)?;
    let mut aims = Aims::new(attack.loss(), Aim::Labels(labels), images.device())?;
    let plan = attack.plan::<f32>(epsilon, broken == BrokenSamples::Leave);
    let mut effort = Effort::default();
    let outcomes = match count {
        0 => Vec::new(),
        _ => clean_pass(model, images, &mut aims, &plan, &mut effort)?,
    };
    if epsilon > 0.0 && matches!(start, Start::Clean) {
        attack.check_clean_start()?;
    }
    let searches = start.searches(epsilon);
    if count == 0 || searches == 0 {
        return Ok(Evaluation { outcomes, points: images.clone(), effort });
    }
    let centers = Centers::new(images, start)?;
    let mut ledger = Ledger { images, outcomes, is_searched: vec![false; count], points: copy(images)? };
    for restart in 0..searches {
        let searched = ledger.searched(&plan);
        if searched.is_empty() {
            break;
        }
        let starts = centers.starts(&plan, start, &searched, restart)?;
        let starts = starts.map(|starts| starts.to_device(images.device())).transpose()?;
        effort += ledger.search(model, &plan, &aims, searched, starts.as_ref())?;
    }
    ledger.check_inside(&plan, epsilon)?;
    Ok(Evaluation { outcomes: ledger.outcomes, points: ledger.points, effort })
}

/// Classifies the clean images.
fn clean_pass(
    model: &dyn Classifier,
    images: &Tensor,
    aims: &mut Aims<'_>,
    plan: &Plan<f32>,
    effort: &mut Effort,
) -> Result<Vec<Outcome>> {
    effort.forward_images += images.dims()[0];
    let logits = model.logits(images)?;
    aims.settle(&logits)?;
    let one_query = Rules { steps: 0, is_adaptive: false, ..rules(plan, false) };
    let mut walk = Walk::new(one_query, images, None, None, aims.goals())?;
    walk.inspect(false)?;
    walk.answer(&logits, None)?;
    let log = walk.log()?.finish()?;
    check_pixels(&log.inspected())?;
    let answers = aims.labels().iter().enumerate().map(|(sample, &label)| {
        let (loss, prediction) = (log.answer(0, sample).loss.into(), log.answer(0, sample).prediction);
        if f64::is_finite(loss) {
            Ok(Outcome::of_clean(prediction, label, loss))
        } else {
            Err(Error::NonFiniteLoss { sample, query: 0, loss })
        }
    });
    answers.collect()
}

/// The clean images on the host, where random starts are drawn around them.
struct Centers {
    dims: [usize; 3],
    pixels: Vec<f32>,
}

impl Centers {
    /// Waits for the GPU, unless nothing is random.
    fn new(images: &Tensor, start: Start<'_>) -> Result<Self> {
        let (_, channels, rows, columns) = images.dims4()?;
        let pixels = match start {
            Start::Clean => Vec::new(),
            Start::Random { .. } => with_host_slice(images, <[f32]>::to_vec)?,
        };
        Ok(Self { dims: [channels, rows, columns], pixels })
    }

    /// Where the searches of these images start, on the host, unless at the images themselves.
    fn starts(
        &self,
        plan: &Plan<f32>,
        start: Start<'_>,
        searched: &[u32],
        restart: usize,
    ) -> Result<Option<Tensor>> {
        let Start::Random { generator, .. } = start else { return Ok(None) };
        let [channels, rows, columns] = self.dims;
        let pixels_per_image = channels * rows * columns;
        let mut points = Vec::with_capacity(searched.len() * pixels_per_image);
        for &image in searched {
            let center = &self.pixels[image as usize * pixels_per_image..][..pixels_per_image];
            let ball = Ball { norm: plan.norm, center, radius: plan.radius };
            points.extend(ball.random_point(&mut *generator(image as usize, restart)));
        }
        let shape = (searched.len(), channels, rows, columns);
        Ok(Some(Tensor::from_vec(points, shape, &Device::Cpu)?))
    }
}

/// What is known about the images so far.
struct Ledger<'a> {
    images: &'a Tensor,
    outcomes: Vec<Outcome>,
    is_searched: Vec<bool>,
    /// What [`Evaluation::points`] will be.
    points: Tensor,
}

impl Ledger<'_> {
    /// The images that another search could tell something about.
    fn searched(&self, plan: &Plan<f32>) -> Vec<u32> {
        let outcomes = (0..).zip(&self.outcomes);
        let searched = outcomes.filter(|(_, outcome)| !plan.broken_leave || outcome.still_correct);
        searched.map(|(image, _)| image).collect()
    }

    /// Searches some images once and adds what was found.
    fn search(
        &mut self,
        model: &dyn Classifier,
        plan: &Plan<f32>,
        aims: &Aims<'_>,
        searched: Vec<u32>,
        starts: Option<&Tensor>,
    ) -> Result<Effort> {
        let rows = (searched.len() < self.outcomes.len()).then_some(searched.as_slice());
        let walk = Walk::new(rules(plan, true), self.images, starts, rows, aims.goals())?;
        let images = searched.iter().map(|&image| image as usize).collect();
        let mut search = Search::new(model, plan, aims, walk, searched);
        search.run()?;
        let effort = search.effort();
        let walk = search.into_walk();
        let mut choices = vec![Choice::Neither; self.outcomes.len()];
        for (image, trajectory) in trajectories(&walk.log()?.finish()?, plan, aims.labels(), images)? {
            let is_first = !std::mem::replace(&mut self.is_searched[image], true);
            choices[image] = match self.outcomes[image].merge(&trajectory, is_first) {
                Found::Nothing => Choice::Neither,
                Found::Misclassified => Choice::Misclassified,
                Found::Best => Choice::Best,
            };
        }
        walk.select(&self.points, &choices)?;
        Ok(effort)
    }

    /// Refuses points that an attack may not report. Waits for the GPU.
    fn check_inside(&self, plan: &Plan<f32>, epsilon: f64) -> Result<()> {
        let inspected = Inspection::new(device_norm(plan.norm), self.images, Some(&self.points))?.read()?;
        let pixels = self.images.elem_count() / inspected.len();
        match inspected.iter().position(|point| !is_admissible(plan.norm, point, plan.radius, pixels)) {
            Some(sample) => Err(Error::OutsideBall { sample, epsilon }),
            None => Ok(()),
        }
    }
}
