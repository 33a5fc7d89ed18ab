//! Matrix products on slices: of f32 by the `gemm` crate, of bf16 by kernels of our own, because no maintained crate
//! multiplies bf16 with f32 sums on the CPUs that have instructions for it.

#[cfg(target_arch = "x86_64")]
pub(super) mod bf16;

#[cfg(target_arch = "x86_64")]
pub(super) use bf16::BLOCK as BF16_BLOCK;

use gemm::Parallelism;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of the factors of matrix products. Sums, activations, gradients and parameters are f32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// 8 significant bits, where the CPU has instructions for it; else f32.
    Bf16,
}

impl Precision {
    /// What computes the products on this CPU.
    pub fn unit(self) -> &'static str {
        match (self, self.rounds()) {
            (Self::F32, _) => "f32",
            (Self::Bf16, true) => bf16_unit(),
            (Self::Bf16, false) => "f32: this CPU has no instructions for bf16",
        }
    }

    /// What a layer from `input` to `output` columns computes in: small ones take longer to pack than to multiply. The
    /// number of rows may not matter: it depends on the number of ranks.
    pub(crate) fn of_layer(self, input: usize, output: usize) -> Self {
        const SMALLEST: usize = 16;
        if input.min(output) < SMALLEST { Self::F32 } else { self }
    }

    /// Whether factors are rounded to bf16 on this CPU.
    pub(crate) fn rounds(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let available = bf16::Unit::available().is_some();
        #[cfg(not(target_arch = "x86_64"))]
        let available = false;
        self == Self::Bf16 && available
    }
}

/// What multiplies bf16 on this CPU.
fn bf16_unit() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if bf16::Unit::available() == Some(bf16::Unit::Amx) {
        return "bf16 by AMX";
    }
    "bf16 by AVX-512-BF16"
}

/// A matrix inside a slice: element (i, j) is `data[i · row_stride + j · column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows start `stride` floats apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, stride), "matrix {rows} x {columns} reaches past its slice");
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Its transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

fn fits(len: usize, rows: usize, columns: usize, stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * stride + columns <= len
}

/// `out` = `a` · `b`, where the rows of `out` start `stride` floats apart; what lies between is left alone.
/// Uses all threads of the rank; the order of the additions in one element does not depend on them.
pub(crate) fn multiply(precision: Precision, out: &mut [f32], stride: usize, a: Matrix, b: Matrix) {
    product(precision, out, stride, a, b, false);
}

/// `out` += `a` · `b`, otherwise as [`multiply`].
pub(crate) fn multiply_add(precision: Precision, out: &mut [f32], stride: usize, a: Matrix, b: Matrix) {
    product(precision, out, stride, a, b, true);
}

/// A new matrix of `rows` rows: products a · b side by side. Its memory is not cleared first, which takes a tenth of the
/// time of a product.
pub(crate) fn multiplied(precision: Precision, rows: usize, products: &[(Matrix, Matrix)]) -> Vec<f32> {
    let width = products.iter().map(|(_, b)| b.columns).sum();
    let threads = rayon::current_num_threads();
    if precision.rounds() {
        let mut out = vec![0.0; rows * width];
        let mut start = 0;
        for &(a, b) in products {
            multiply(precision, out.get_mut(start..).unwrap_or_default(), width, a, b);
            start += b.columns;
        }
        return out;
    }
    let mut out: Vec<f32> = Vec::with_capacity(rows * width);
    let mut start = 0;
    for &(a, b) in products {
        assert_eq!((a.columns, a.rows), (b.rows, rows), "dimensions of a product");
        if rows > 0 && b.columns > 0 {
            // SAFETY: the product's columns lie inside a row, and all rows inside the capacity.
            unsafe { by_crate(threads, out.as_mut_ptr().add(start), width, a, b, false) };
        }
        start += b.columns;
    }
    // SAFETY: the products wrote all columns of all rows.
    unsafe { out.set_len(rows * width) };
    out
}

fn product(precision: Precision, out: &mut [f32], stride: usize, a: Matrix, b: Matrix, add: bool) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a product");
    assert!(fits(out.len(), a.rows, b.columns, stride), "product {} x {} does not fit", a.rows, b.columns);
    multiply_on(rayon::current_num_threads(), precision, out, stride, a, b, add);
}

fn multiply_on(threads: usize, precision: Precision, out: &mut [f32], stride: usize, a: Matrix, b: Matrix, add: bool) {
    #[cfg(target_arch = "x86_64")]
    if precision.rounds() && a.columns > 0 {
        return bf16::multiply(threads, out, stride, a, b, add);
    }
    let _ = precision;
    // SAFETY: `product` checked that the result fits, and `out` is borrowed mutably, so it overlaps neither operand.
    unsafe { by_crate(threads, out.as_mut_ptr(), stride, a, b, add) };
}

/// The product by the `gemm` crate.
///
/// # Safety
/// Every number of the result, with rows `stride` floats apart from `out` on, may be written, and overlaps neither
/// operand; with `add` it may be read too.
unsafe fn by_crate(threads: usize, out: *mut f32, stride: usize, a: Matrix, b: Matrix, add: bool) {
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: every address (i, j) of a factor is inside its slice, as `Matrix::new` checked; `out` is the caller's.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            // out = 1 · out (where `add` has it read) + 1 · a · b
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_match_the_definition_for_odd_shapes_strides_and_transposes() {
        for (m, k, n) in [(1, 1, 1), (1, 7, 3), (5, 1, 1), (17, 33, 9), (64, 3, 70), (3, 0, 2)] {
            let (a, b) = (numbers(m * (k + 2)), numbers(n * (k + 1)));
            let mut out = vec![9.0; m * (n + 3)];
            multiply(Precision::F32, &mut out, n + 3, Matrix::new(&a, m, k, k + 2), Matrix::new(&b, n, k, k + 1).t());
            for i in 0..m {
                for j in 0..n + 3 {
                    let exact: f64 = match j < n {
                        true => (0..k).map(|l| f64::from(a[i * (k + 2) + l]) * f64::from(b[j * (k + 1) + l])).sum(),
                        false => 9.0,
                    };
                    assert!((f64::from(out[i * (n + 3) + j]) - exact).abs() < 1e-5, "{m} {k} {n}: ({i}, {j})");
                }
            }
            let once = out.clone();
            multiply_add(
                Precision::F32,
                &mut out,
                n + 3,
                Matrix::new(&a, m, k, k + 2),
                Matrix::new(&b, n, k, k + 1).t(),
            );
            for (j, (&twice, &once)) in out.iter().zip(&once).enumerate() {
                let want = if j % (n + 3) < n { 2.0 * once } else { 9.0 };
                assert!((twice - want).abs() < 1e-5, "{m} {k} {n}: added at {j}");
            }
        }
    }

    #[test]
    fn products_have_the_same_bits_on_any_number_of_threads() {
        for (m, k, n) in [(300, 257, 129), (1, 513, 700), (700, 2048, 1), (96, 1024, 320)] {
            let (a, b) = (numbers(m * k), numbers(k * n));
            let run = |threads, precision| {
                let mut out = vec![0.0; m * n];
                multiply_on(threads, precision, &mut out, n, Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n), false);
                out
            };
            for precision in [Precision::F32, Precision::Bf16] {
                let one = run(1, precision);
                assert!(one == run(2, precision) && one == run(5, precision), "{m} {k} {n}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "reaches past its slice")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Matrix::new(&[0.0; 5], 2, 3, 3);
    }

    /// The nearest bf16, ties to even.
    fn nearest_bf16(x: f32) -> f64 {
        f64::from(half::bf16::from_f32(x))
    }

    fn draws(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64).map(|i| crate::random::unit(seed, &[i]) as f32 * 2.0 - 1.0).collect()
    }

    /// A matrix, or the transpose of one, with `gap` unused numbers after each row in memory.
    fn matrix(data: &[f32], rows: usize, columns: usize, gap: usize, transposed: bool) -> Matrix<'_> {
        match transposed {
            false => Matrix::new(data, rows, columns, columns + gap),
            true => Matrix::new(data, columns, rows, rows + gap).t(),
        }
    }

    fn at(matrix: &Matrix, i: usize, j: usize) -> f32 {
        matrix.data[i * matrix.row_stride + j * matrix.column_stride]
    }

    fn check((m, k, n): (usize, usize, usize), gap: usize, transposed: (bool, bool), add: bool) {
        let (a, b) = (draws((m + gap) * (k + gap), 1), draws((k + gap) * (n + gap), 2));
        let (a, b) = (matrix(&a, m, k, gap, transposed.0), matrix(&b, k, n, gap, transposed.1));
        let before = draws(m * (n + gap), 3);
        for precision in [Precision::F32, Precision::Bf16] {
            let mut out = before.clone();
            product(precision, &mut out, n + gap, a, b, add);
            let seen = if precision.rounds() { nearest_bf16 } else { f64::from };
            let factors = |i, j, l| seen(at(&a, i, l)) * seen(at(&b, l, j));
            for (place, (&found, &old)) in out.iter().zip(&before).enumerate() {
                let (i, j) = (place / (n + gap), place % (n + gap));
                let kept = if add || j >= n { f64::from(old) } else { 0.0 };
                let exact = kept + if j < n { (0..k).map(|l| factors(i, j, l)).sum() } else { 0.0 };
                let bound = 1e-6 * (k as f64 + 4.0);
                let error = (f64::from(found) - exact).abs();
                assert!(error <= bound, "{precision:?} {m} {k} {n} {transposed:?}: ({i}, {j}) {found} {exact}");
            }
        }
    }

    #[test]
    fn products_match_float64_on_the_rounded_factors() {
        for transposed in [(false, false), (true, false), (false, true), (true, true)] {
            for shape in [
                (16, 16, 16),
                (17, 33, 49),
                (40, 31, 16),
                (64, 500, 100),
                (129, 64, 130),
                (16, 1100, 33),
                (300, 20, 50),
            ] {
                check(shape, 0, transposed, false);
                check(shape, 3, transposed, true);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, rng_seed: prop::test_runner::RngSeed::Fixed(5), ..ProptestConfig::default() })]
        #[test]
        fn any_shape_is_right(m in 1usize..90, k in 1usize..90, n in 1usize..90, gap in 0usize..4, ta: bool, tb: bool, add: bool) {
            check((m, k, n), gap, (ta, tb), add);
        }
    }
}
