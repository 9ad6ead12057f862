//! The exponential moving average of a model's weights.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::element::Element;
use crate::host::{Host, overwrite, with_element};
use crate::native::{CHUNK, vectorized};
use crate::{Error, ParameterId, Parameters, Result};

#[cfg(feature = "cuda")]
mod cuda;

/// Moves `average` towards `current`: `average = decay · average + (1 - decay) · current`, as timm's `ModelEmaV3` with a
/// constant decay.
///
/// Every floating-point tensor is averaged, the running statistics of batch norms too; a counter (`num_batches_tracked`)
/// is copied. At a decay of 0 the average becomes `current`, bit for bit.
///
/// # Errors
/// [`Error::Setting`] for a decay outside [0, 1], [`Error::Shape`] if the two are not parameters of one model.
pub fn move_average(average: &mut Parameters, current: &Parameters, decay: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&decay) {
        return Err(Error::Setting { name: "decay", value: decay, expected: "a number in [0, 1]" });
    }
    let (mut averaged, mut counters) = (Vec::new(), Vec::new());
    for ((id, name, mean), (_, other, value)) in average.iter().zip(current.iter()) {
        if name != other || mean.dims() != value.dims() {
            let expected = format!("`{name}` of shape {:?}, not `{other}`", mean.dims());
            return Err(Error::Shape { operation: "move_average", got: value.dims().to_vec(), expected });
        }
        if mean.dtype().is_float() {
            averaged.push(id);
        } else {
            counters.push((id, value.clone()));
        }
    }
    interpolate_all(average, current, &averaged, decay)?;
    counters.into_iter().try_for_each(|(id, value)| average.set(id, value))
}

/// Moves the parameters `ids`.
fn interpolate_all(
    average: &mut Parameters,
    current: &Parameters,
    ids: &[ParameterId],
    decay: f64,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = average.gpu()? {
        return cuda::interpolate_all(&gpu, average, current, ids, decay);
    }
    for id in ids {
        let (mean, value) = (average.get(*id), current.get(*id));
        with_element!("move_average", mean, T => interpolate::<T>(mean, value, decay))?;
    }
    Ok(())
}

/// The two forms are PyTorch's `lerp`, each exact at its end of the range.
fn interpolate<T: Element>(mean: &Tensor, value: &Tensor, decay: f64) -> Result<()> {
    let host = Host::new(value)?;
    let values = host.read::<T>()?;
    let (keep, weight) = (T::from_f64(decay), T::from_f64(1.0 - decay));
    let is_near = decay > 0.5;
    overwrite("move_average", mean, |mean: &mut [T]| {
        mean.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(mean, values)| {
            vectorized(
                #[inline(always)]
                || {
                    for (mean, value) in mean.iter_mut().zip(values) {
                        let way = *value - *mean;
                        *mean = if is_near { *mean + weight * way } else { *value - keep * way };
                    }
                },
            );
        });
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// A weight, a running statistic and a counter.
    fn parameters(weight: &[f64], mean: f64, updates: i64) -> Parameters {
        let mut parameters = Parameters::new();
        let tensor =
            |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        parameters.add("weight", tensor(weight)).unwrap();
        parameters.add_buffer("running_mean", tensor(&[mean])).unwrap();
        parameters.add_buffer("updates", Tensor::new(updates, &Device::Cpu).unwrap()).unwrap();
        parameters
    }

    fn numbers(parameters: &Parameters) -> Vec<f64> {
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        parameters.iter().flat_map(|(.., tensor)| flat(tensor).unwrap()).collect()
    }

    /// What `torch.lerp` gives for these numbers in f32, and a copy of the counter, as in `ModelEmaV3`.
    #[test]
    fn weights_and_statistics_are_averaged_and_counters_copied() {
        let mut average = parameters(&[1.0, -2.0], 4.0, 0);
        let current = parameters(&[2.0, 2.0], 0.0, 7);
        move_average(&mut average, &current, 0.75).unwrap();
        assert_eq!(numbers(&average), [1.25, -1.0, 3.0, 7.0]);
        move_average(&mut average, &current, 0.25).unwrap();
        assert_eq!(numbers(&average), [1.8125, 1.25, 0.75, 7.0]);
        assert_eq!(numbers(&current), [2.0, 2.0, 0.0, 7.0]);
    }

    #[test]
    fn the_ends_of_the_range_are_exact() {
        let current = parameters(&[0.1, 1e-8], 3.3, 1);
        let mut average = parameters(&[1e8, -0.7], -1e7, 0);
        let before = numbers(&average);
        move_average(&mut average, &current, 1.0).unwrap();
        assert_eq!(numbers(&average)[..3], before[..3]);
        move_average(&mut average, &current, 0.0).unwrap();
        assert_eq!(numbers(&average), numbers(&current));
    }

    #[test]
    fn another_model_and_an_impossible_decay_are_refused() {
        let mut average = parameters(&[1.0, 2.0], 0.0, 0);
        let other = parameters(&[1.0], 0.0, 0);
        assert!(matches!(move_average(&mut average, &other, 0.5), Err(Error::Shape { .. })));
        for decay in [-0.1, 1.1, f64::NAN] {
            let current = parameters(&[1.0, 2.0], 0.0, 0);
            assert!(matches!(move_average(&mut average, &current, decay), Err(Error::Setting { .. })));
        }
    }
}
