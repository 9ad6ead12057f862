//! Products against sums in f64. They need a GPU, or the emulated device.

use candle_core::{DType, Device, Tensor};

use super::{Matrix, Product};
use crate::cuda::Gpu;
use crate::parameters::Compute;

/// Largest error in F32, relative to the largest element: sums of some dozens of products.
const F32_TOLERANCE: f64 = 1e-5;
/// Rounding the result to BF16, whose numbers have 8 bits.
const BF16_TOLERANCE: f64 = 5e-3;

/// Multiples of 1/16 in [-1, 1), exact in every dtype.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let draw = |index: u64| {
        let mixed = (index + seed * 7919).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 59;
        mixed as f64 / 16.0 - 1.0
    };
    (0..count as u64).map(draw).collect()
}

fn upload(values: &[f64], dtype: DType) -> Tensor {
    let gpu = Device::new_cuda(0).unwrap();
    let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap().to_device(&gpu).unwrap()
}

fn download(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// A matrix as it lies in memory, for the reference.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    columns: usize,
    first: usize,
    row_stride: usize,
    is_transposed: bool,
}

impl Layout {
    fn new(rows: usize, columns: usize, is_transposed: bool, padding: usize) -> Self {
        let (rows, columns) = if is_transposed { (columns, rows) } else { (rows, columns) };
        let row_stride = columns + padding;
        Self { rows, columns, first: padding, row_stride, is_transposed }
    }

    fn elements(&self) -> usize {
        self.first + self.rows * self.row_stride
    }

    fn at(&self, row: usize, column: usize) -> usize {
        let (row, column) = if self.is_transposed { (column, row) } else { (row, column) };
        self.first + row * self.row_stride + column
    }

    fn matrix<'a>(&self, tensor: &'a Tensor) -> Matrix<'a> {
        let matrix = Matrix::new(tensor, self.rows, self.columns).strided(self.first, self.row_stride);
        if self.is_transposed { matrix.transposed() } else { matrix }
    }
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let scale = expected.iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= tolerance, "{what}: element {index} is {found}, not {expected}");
    }
}

#[test]
fn products_follow_transpositions_and_strides() {
    let gpu = Gpu::new(&Device::new_cuda(0).unwrap()).unwrap();
    let kinds = [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)];
    let sizes = [(5, 7, 9), (33, 16, 24), (1, 40, 3)];
    for ((operands, result), (rows, inner, columns)) in
        kinds.into_iter().flat_map(|kind| sizes.map(|sizes| (kind, sizes)))
    {
        for choice in 0..16 {
            let bit = |index: usize| choice >> index & 1 == 1;
            let (padding, adds) = (if bit(2) { 8 } else { 0 }, bit(3));
            let what =
                format!("{operands:?} to {result:?}, {rows} x {inner} x {columns}, choice {choice:04b}");
            let left = Layout::new(rows, inner, bit(0), padding);
            let right = Layout::new(inner, columns, bit(1), padding);
            let out = Layout::new(rows, columns, false, padding);
            let (a, b) = (numbers(left.elements(), 1), numbers(right.elements(), 2));
            let before = numbers(out.elements(), 3);
            let mut expected = before.clone();
            for row in 0..rows {
                for column in 0..columns {
                    let term = |k: usize| a[left.at(row, k)] * b[right.at(k, column)];
                    let sum: f64 = (0..inner).map(term).sum();
                    let element = &mut expected[out.at(row, column)];
                    *element = if adds { *element + sum } else { sum };
                }
            }
            let (a, b, y) = (upload(&a, operands), upload(&b, operands), upload(&before, result));
            let product = Product::new(left.matrix(&a), right.matrix(&b), Compute::Full);
            let product = if adds { product.adding() } else { product };
            product.into(&gpu, out.matrix(&y)).unwrap();
            let tolerance = if result == DType::F32 { F32_TOLERANCE } else { BF16_TOLERANCE };
            assert_close(&what, &download(&y), &expected, tolerance);
        }
    }
}

#[test]
fn products_add_a_bias() {
    let gpu = Gpu::new(&Device::new_cuda(0).unwrap()).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        for choice in 0..8 {
            let bit = |index: usize| choice >> index & 1 == 1;
            let (rows, inner, columns) = if bit(2) { (17, 40, 24) } else { (9, 8, 64) };
            let left = Layout::new(rows, inner, false, if bit(1) { 8 } else { 0 });
            let right = Layout::new(inner, columns, bit(0), 0);
            let out = Layout::new(rows, columns, false, 0);
            let (a, b) = (numbers(left.elements(), 1), numbers(right.elements(), 2));
            let bias = numbers(columns, 4);
            let mut expected = vec![0.0; out.elements()];
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let sum: f64 = (0..inner).map(|k| a[left.at(row, k)] * b[right.at(k, column)]).sum();
                expected[out.at(row, column)] = sum + bias[column];
            }
            let (a, b, bias) = (upload(&a, dtype), upload(&b, dtype), upload(&bias, dtype));
            let y = gpu.empty(expected.len(), dtype).unwrap();
            let product = Product::new(left.matrix(&a), right.matrix(&b), Compute::Full);
            assert!(product.takes_bias(&gpu, &out.matrix(&y)).unwrap());
            product.into_with_bias(&gpu, out.matrix(&y), &bias).unwrap();
            let tolerance = if dtype == DType::F32 { F32_TOLERANCE } else { BF16_TOLERANCE };
            assert_close(&format!("{dtype:?}, choice {choice:03b}"), &download(&y), &expected, tolerance);
        }
    }
}

#[test]
fn products_outside_their_tensors_are_refused() {
    let gpu = Gpu::new(&Device::new_cuda(0).unwrap()).unwrap();
    let (a, b) = (upload(&numbers(12, 1), DType::F32), upload(&numbers(12, 2), DType::F32));
    let out = upload(&[0.0; 9], DType::F32);
    let square = |tensor| Matrix::new(tensor, 3, 4);
    let product = |left, right| Product::new(left, right, Compute::Full).into(&gpu, Matrix::new(&out, 3, 3));
    product(square(&a), square(&b).transposed()).unwrap();
    // Sizes that disagree, a start too late, rows too long, another dtype.
    product(square(&a), square(&b)).unwrap_err();
    product(square(&a).strided(1, 4), square(&b).transposed()).unwrap_err();
    product(square(&a).strided(0, 5), square(&b).transposed()).unwrap_err();
    let other = upload(&numbers(12, 2), DType::BF16);
    product(square(&a), square(&other).transposed()).unwrap_err();
}
