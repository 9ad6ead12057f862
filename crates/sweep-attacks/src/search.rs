//! The loop that all attacks share: ask the classifier, let every image observe its answer, move, ask again.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sweep_kernels::Classifier;

use crate::element::Element;
use crate::host::with_host_slice;
use crate::input::check_gradient;
use crate::objective::{class_count, most_likely};
use crate::report::Effort;
use crate::sample::{Answer, Candidate, Plan, Sample};
use crate::{Error, Result};

/// The images still under attack, and those that are done.
pub(crate) struct Search<'a, T> {
    model: &'a dyn Classifier,
    plan: &'a Plan<T>,
    image_dims: [usize; 3],
    device: Device,
    active: Vec<Sample<T>>,
    finished: Vec<Sample<T>>,
    effort: Effort,
}

/// Answers for the active images, and the gradients if any of them goes on.
struct Answers<T> {
    answers: Vec<Answer<T>>,
    gradient: Option<Tensor>,
}

impl<'a, T: Element> Search<'a, T> {
    /// Prepares a search; `like` gives the image size and the device.
    pub(crate) fn new(
        model: &'a dyn Classifier,
        plan: &'a Plan<T>,
        like: &Tensor,
        candidates: Vec<Candidate<T>>,
    ) -> Result<Self> {
        let (_, channels, rows, columns) = like.dims4()?;
        Ok(Self {
            model,
            plan,
            image_dims: [channels, rows, columns],
            device: like.device().clone(),
            active: candidates.into_iter().map(|candidate| Sample::new(candidate, plan)).collect(),
            finished: Vec::new(),
            effort: Effort::default(),
        })
    }

    /// Makes all steps. The samples come back in the order of the candidates' indices.
    pub(crate) fn run(mut self) -> Result<(Vec<Sample<T>>, Effort)> {
        for query in 0..=self.plan.steps {
            if self.active.is_empty() {
                break;
            }
            let images = self.next_images(query)?;
            let answers = self.ask(&images, query)?;
            self.observe(answers)?;
        }
        let mut samples = self.finished;
        samples.append(&mut self.active);
        samples.sort_by_key(|sample| sample.index);
        Ok((samples, self.effort))
    }

    /// Moves every active image, unless it is yet to be queried at its start, and puts them into one tensor.
    fn next_images(&mut self, query: usize) -> Result<Tensor> {
        let [channels, rows, columns] = self.image_dims;
        let pixels_per_image = channels * rows * columns;
        let mut pixels = vec![T::zero(); self.active.len() * pixels_per_image];
        let slots = pixels.par_chunks_mut(pixels_per_image.max(1));
        self.active.par_iter_mut().zip(slots).for_each(|(sample, slot)| {
            if query > 0 {
                sample.advance(self.plan);
            }
            slot.copy_from_slice(&sample.point);
        });
        let shape = (self.active.len(), channels, rows, columns);
        Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?.to_device(&self.device)?)
    }

    /// The classifier's answers. No gradient is taken after the last step, nor when every image leaves.
    fn ask(&mut self, images: &Tensor, query: usize) -> Result<Answers<T>> {
        self.effort.forward_images += self.active.len();
        if query == self.plan.steps {
            let logits = self.model.logits(images)?;
            let (answers, _) = self.read_logits(&logits, query)?;
            return Ok(Answers { answers, gradient: None });
        }
        let (logits, tape) = self.model.record(images)?;
        let (answers, logits_gradient) = self.read_logits(&logits, query)?;
        let all_leave =
            self.active.iter().zip(&answers).all(|(s, &answer)| s.leaves_after(answer, self.plan));
        if all_leave {
            return Ok(Answers { answers, gradient: None });
        }
        self.effort.backward_images += self.active.len();
        let gradient = self.model.input_gradient(tape, logits_gradient)?;
        check_gradient(images, &gradient)?;
        Ok(Answers { answers, gradient: Some(gradient) })
    }

    /// Losses and predictions, and the gradient of the sum of the losses with respect to the logits.
    fn read_logits(&self, logits: &Tensor, query: usize) -> Result<(Vec<Answer<T>>, Tensor)> {
        let classes = class_count(logits, self.active.len())?;
        for sample in &self.active {
            sample.objective.check(sample.index, classes)?;
        }
        let mut gradient = vec![T::zero(); self.active.len() * classes];
        let answers: Vec<Answer<T>> = with_host_slice(logits, |rows: &[T]| {
            let rows = rows.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes));
            let answer = |(sample, (row, gradient)): (&Sample<T>, (&[T], &mut [T]))| Answer {
                loss: sample.objective.evaluate(row, gradient),
                prediction: most_likely(row) as u32,
            };
            self.active.iter().zip(rows).map(answer).collect()
        })?;
        for (sample, answer) in self.active.iter().zip(&answers) {
            if !answer.loss.is_finite() {
                return Err(Error::NonFiniteLoss { sample: sample.index, query, loss: answer.loss.to_f64() });
            }
        }
        let gradient = Tensor::from_vec(gradient, logits.dims(), &Device::Cpu)?;
        Ok((answers, gradient.to_dtype(logits.dtype())?.to_device(logits.device())?))
    }

    /// Lets every active image see its answer, and takes those that leave out of the batch.
    fn observe(&mut self, Answers { answers, gradient }: Answers<T>) -> Result<()> {
        match &gradient {
            None => self.observe_each(&answers, |_| None)?,
            Some(gradient) => with_host_slice(gradient, |slopes: &[T]| {
                let pixels_per_image = slopes.len() / answers.len();
                self.observe_each(&answers, |row| Some(&slopes[row * pixels_per_image..][..pixels_per_image]))
            })??,
        }
        let (mut stay, mut leave) = (Vec::with_capacity(answers.len()), Vec::new());
        for (sample, answer) in self.active.drain(..).zip(answers) {
            let destination = if sample.leaves_after(answer, self.plan) { &mut leave } else { &mut stay };
            destination.push(sample);
        }
        self.active = stay;
        self.finished.append(&mut leave);
        Ok(())
    }

    /// `gradient_of` gives the gradient of the image in that row of the batch.
    fn observe_each<'g>(
        &mut self,
        answers: &[Answer<T>],
        gradient_of: impl Fn(usize) -> Option<&'g [T]> + Sync,
    ) -> Result<()> {
        let observations = self.active.par_iter_mut().zip(answers).enumerate();
        let results: Vec<Result<()>> = observations
            .map(|(row, (sample, &answer))| sample.observe(self.plan, answer, gradient_of(row)))
            .collect();
        // In batch order, so that the same sample is named whichever thread was first.
        results.into_iter().collect()
    }
}
