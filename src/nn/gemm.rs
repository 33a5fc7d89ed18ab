//! Matrix products on slices, through the `gemm` crate.

use gemm::Parallelism;

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
pub(crate) fn multiply(out: &mut [f32], stride: usize, a: Matrix, b: Matrix) {
    multiply_on(rayon::current_num_threads(), out, stride, a, b);
}

fn multiply_on(threads: usize, out: &mut [f32], stride: usize, a: Matrix, b: Matrix) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a product");
    assert!(fits(out.len(), a.rows, b.columns, stride), "product {} x {} does not fit", a.rows, b.columns);
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: `fits` held for all three, so every address (i, j) is inside its slice, and `out` is borrowed
    // mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            stride as isize,
            false,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
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

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_match_the_definition_for_odd_shapes_strides_and_transposes() {
        for (m, k, n) in [(1, 1, 1), (1, 7, 3), (5, 1, 1), (17, 33, 9), (64, 3, 70), (3, 0, 2)] {
            let (a, b) = (numbers(m * (k + 2)), numbers(n * (k + 1)));
            let mut out = vec![9.0; m * (n + 3)];
            multiply(&mut out, n + 3, Matrix::new(&a, m, k, k + 2), Matrix::new(&b, n, k, k + 1).t());
            for i in 0..m {
                for j in 0..n + 3 {
                    let exact: f64 = match j < n {
                        true => (0..k).map(|l| f64::from(a[i * (k + 2) + l]) * f64::from(b[j * (k + 1) + l])).sum(),
                        false => 9.0,
                    };
                    assert!((f64::from(out[i * (n + 3) + j]) - exact).abs() < 1e-5, "{m} {k} {n}: ({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn products_have_the_same_bits_on_any_number_of_threads() {
        for (m, k, n) in [(300, 257, 129), (1, 513, 700), (700, 2048, 1), (96, 1024, 320)] {
            let (a, b) = (numbers(m * k), numbers(k * n));
            let run = |threads| {
                let mut out = vec![0.0; m * n];
                multiply_on(threads, &mut out, n, Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n));
                out
            };
            let one = run(1);
            assert!(one == run(2) && one == run(5), "{m} {k} {n}");
        }
    }

    #[test]
    #[should_panic(expected = "reaches past its slice")]
    fn a_matrix_larger_than_its_slice_is_refused() {
        Matrix::new(&[0.0; 5], 2, 3, 3);
    }
}
