//! Uploads through page-locked memory.

use sweep_kernels::Uploads;

use crate::support::{gpu, numbers, values};

/// More uploads than there are buffers, growing and shrinking, all alive at the end.
#[test]
fn uploads_keep_their_numbers_while_buffers_are_used_again() {
    let device = gpu();
    let mut uploads = Uploads::new();
    let sizes = [1, 17, 4096, 3, 5000, 5000, 2];
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
