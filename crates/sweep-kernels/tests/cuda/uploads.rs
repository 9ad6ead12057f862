//! Ways through page-locked memory, up and down.

use candle_core::{DType, Tensor};
use sweep_kernels::{Reading, Uploads, add};

use crate::support::{gpu, numbers, values};

/// More uploads than there are buffers, growing and shrinking, all alive at the end.
#[test]
fn uploads_keep_their_numbers_while_buffers_are_used_again() {
    let device = gpu();
    let mut uploads = Uploads::new();
    let sizes = [1, 17, 4096, 3, 5000, 5000, 2, 6000, 7, 9000];
    let sent = sizes.map(|size| numbers(size, size as u64).into_iter().map(|v| v as f32).collect::<Vec<_>>());
    let tensors = sent.clone().map(|sent| {
        let len = sent.len();
        uploads.tensor(sent, (1, len), &device).unwrap()
    });
    for (tensor, sent) in tensors.iter().zip(&sent) {
        assert_eq!(values(tensor), sent.iter().copied().map(f64::from).collect::<Vec<_>>());
    }
    assert!(uploads.tensor(vec![1.0; 6], (2, 4), &device).is_err());
}

/// What is read is what was there when it was asked for, of every type, whatever becomes of the tensor, of the buffers of
/// readings that nobody finished, and of those that are larger than they need be.
#[test]
fn readings_are_of_their_time() {
    let device = gpu();
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::U32] {
        for size in [5000, 3, 1, 0, 20_000, 64] {
            let sent = Tensor::arange(0_u32, size, &device).unwrap();
            let sent = sent.to_device(&candle_core::Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let tensor = sent.to_device(&device).unwrap();
            drop(Reading::new(&tensor).unwrap());
            let readings = [(); 3].map(|()| Reading::new(&tensor).unwrap());
            drop(tensor);
            // Likely to take the memory over.
            let others = [(); 4].map(|()| Tensor::zeros(size as usize, DType::F32, &device).unwrap());
            let _sum = add(&others[0], &others[1]).unwrap();
            for reading in readings {
                let found = reading.finish().unwrap();
                assert_eq!((found.dtype(), found.dims()), (dtype, sent.dims()));
                assert_eq!(values(&found), values(&sent), "{dtype:?}, {size}");
            }
        }
    }
}
