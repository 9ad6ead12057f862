//! Batches: which images in which order, and loading them ahead of the computation.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use sweep_core::random::{Purpose, Stream};

use crate::augment::Augmenter;
use crate::dataset::Split;
use crate::error::{Error, Result};

/// Returns the positions 0..`len` of a training split in the order in which `epoch` visits them.
///
/// A pure function of its arguments, so that a resumed epoch continues the same order.
pub fn epoch_order(len: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len).collect();
    Stream::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
    order
}

/// Images and labels in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// (N, 3, height, width), row-major, in [0, 1]: the 8-bit sample divided by 255.
    pub images: Vec<f32>,
    /// (N), each in 0..classes.
    pub labels: Vec<u32>,
    /// (N), what numbers each image for keyed randomness (see [`Split::index`]).
    pub indices: Vec<u32>,
}

impl Batch {
    /// Returns the number of images, N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl Split {
    /// Returns the images at `positions`, in this order, changed by `augmenter` where there is one.
    ///
    /// Images are converted in parallel; the result does not depend on the number of threads.
    pub fn batch(&self, positions: &[u32], augmenter: Option<&Augmenter>) -> Result<Batch> {
        let length = self.image_size() as usize * self.image_size() as usize * 3;
        let mut images = vec![0.0; positions.len() * length];
        let jobs = images.par_chunks_exact_mut(length).zip(positions);
        jobs.try_for_each(|(output, position)| self.fill(*position, augmenter, output))?;
        let labels = positions.iter().map(|position| self.label(*position)).collect::<Result<_>>()?;
        let indices = positions.iter().map(|position| self.index(*position)).collect::<Result<_>>()?;
        Ok(Batch { images, labels, indices })
    }

    fn fill(&self, position: u32, augmenter: Option<&Augmenter>, output: &mut [f32]) -> Result<()> {
        let pixels = self.image(position)?;
        match augmenter {
            None => planes(pixels, output),
            Some(augmenter) => {
                let mut changed = pixels.to_vec();
                augmenter.apply(&mut changed, self.image_size(), self.index(position)?);
                planes(&changed, output);
            }
        }
        Ok(())
    }

    /// Returns every image once, in order, `size` at a time (the last batch may be smaller), loaded ahead.
    pub fn batches_in_order(&self, size: NonZeroUsize) -> Result<Batches> {
        Batches::start(self.clone(), (0..self.len()).collect(), size, None)
    }

    /// Returns every image once in the order of a training epoch, `size` at a time (the last batch may be smaller),
    /// augmented and loaded ahead.
    pub fn training_batches(
        &self,
        size: NonZeroUsize,
        seed: u64,
        epoch: u64,
        augmenter: Augmenter,
    ) -> Result<Batches> {
        Batches::start(self.clone(), epoch_order(self.len(), seed, epoch), size, Some(augmenter))
    }
}

/// Turns (height, width, 3) bytes into (3, height, width) numbers in [0, 1].
fn planes(pixels: &[u8], output: &mut [f32]) {
    let plane = output.len() / 3;
    for (channel, output) in output.chunks_exact_mut(plane).enumerate() {
        for (value, sample) in output.iter_mut().zip(pixels[channel..].iter().step_by(3)) {
            *value = f32::from(*sample) / 255.0;
        }
    }
}

/// Batches made by a background thread, at most two ahead of the consumer.
///
/// An error is handed over in place of the batch it prevented, and ends the iteration. Dropping the iterator ends the
/// thread.
#[derive(Debug)]
pub struct Batches {
    received: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    remaining: usize,
    waited: Duration,
}

impl Batches {
    /// Returns how long the consumer has waited for batches so far: 0 where loading keeps up.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Starts loading the images of `split` at the positions of `order`, `size` at a time.
    pub fn start(
        split: Split,
        order: Vec<u32>,
        size: NonZeroUsize,
        augmenter: Option<Augmenter>,
    ) -> Result<Self> {
        let remaining = order.len().div_ceil(size.get());
        // One batch waits in the channel while the thread holds the next.
        let (sender, receiver) = sync_channel(1);
        let work = move || load(&split, &order, size, augmenter.as_ref(), &sender);
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(work);
        let thread = thread.map_err(Error::io("start a loader thread for", "the dataset".as_ref()))?;
        Ok(Self { received: Some(receiver), thread: Some(thread), remaining, waited: Duration::ZERO })
    }

    /// Ends the thread; the order matters, because a thread that waits to send ends when the receiver is gone.
    fn stop(&mut self) {
        self.remaining = 0;
        self.received = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the missing batch.
            drop(thread.join());
        }
    }
}

fn load(
    split: &Split,
    order: &[u32],
    size: NonZeroUsize,
    augmenter: Option<&Augmenter>,
    sender: &SyncSender<Result<Batch>>,
) {
    for positions in order.chunks(size.get()) {
        let batch = split.batch(positions, augmenter);
        let failed = batch.is_err();
        // The consumer is gone when sending fails.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            return None;
        }
        self.remaining -= 1;
        let begin = Instant::now();
        let received = self.received.as_ref().and_then(|receiver| receiver.recv().ok());
        self.waited += begin.elapsed();
        let batch = received.unwrap_or(Err(Error::LoaderStopped));
        if batch.is_err() {
            self.stop();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error ends the iteration early.
        (self.remaining.min(1), Some(self.remaining))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}
