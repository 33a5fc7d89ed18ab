//! The products of layers with few outputs, such as gates and logits, where a general matrix product fills a fraction of
//! its vectors: here the vectors go along the input.

use super::mix::dot;
use super::parallel;

/// Most outputs of a narrow layer.
const MOST: usize = 15;

/// Whether a layer with so many outputs is one.
pub(super) fn is_narrow(output: usize) -> bool {
    output <= MOST
}

/// x · W: `x` `[rows, input]`, `weight` `[input, output]`; `[rows, output]`.
pub(super) fn forward(x: &[f32], weight: &[f32], output: usize) -> Vec<f32> {
    let columns = transposed(weight, output);
    let input = weight.len() / output;
    parallel::new_rows(
        x.len() / input,
        output,
        #[inline(always)]
        |row, y| {
            let x = &x[row * input..][..input];
            y.iter_mut().zip(columns.chunks_exact(input)).for_each(|(y, column)| *y = dot(x, column));
        },
    )
}

/// `dx` += dz · Wᵀ for several layers of one input: pairs of `dz` `[rows, output]` and `weight` `[input, output]`.
pub(super) fn add_input_gradient(layers: &[(&[f32], &[f32])], input: usize, dx: &mut [f32]) {
    let layers: Vec<_> = layers.iter().map(|(dz, weight)| (*dz, transposed(weight, weight.len() / input))).collect();
    parallel::rows(
        dx,
        input,
        #[inline(always)]
        |row, dx| {
            for (dz, columns) in &layers {
                let output = columns.len() / input;
                for (&dz, column) in dz[row * output..][..output].iter().zip(columns.chunks_exact(input)) {
                    dx.iter_mut().zip(column).for_each(|(dx, w)| *dx += dz * w);
                }
            }
        },
    );
}

/// dW = xᵀ · dz.
pub(super) fn weight_gradient(x: &[f32], dz: &[f32], (rows, input, output): (usize, usize, usize)) -> Vec<f32> {
    let columns = parallel::sums(
        rows,
        input * output,
        x.len(),
        #[inline(always)]
        |row, sums: &mut [f32]| {
            let x = &x[row * input..][..input];
            for (&dz, sums) in dz[row * output..][..output].iter().zip(sums.chunks_exact_mut(input)) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += dz * x);
            }
        },
    );
    transposed(&columns, input)
}

/// The transpose of a matrix of `columns` columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, numbers, random};
    use super::*;

    fn floats(shape: &[usize], seed: u64) -> Vec<f32> {
        random(shape, seed).flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn products_match_float64() {
        for (rows, input, output) in [(1, 1, 1), (5, 3, 2), (300, 57, 4), (130, 1, 16), (70, 429, 1)] {
            let (x, weight, dz) = (random(&[rows, input], 1), random(&[input, output], 2), random(&[rows, output], 3));
            let exact = |a: &candle_core::Tensor, b: &candle_core::Tensor| {
                let wide = |t: &candle_core::Tensor| t.to_dtype(candle_core::DType::F64).unwrap();
                numbers(&wide(a).matmul(&wide(b)).unwrap())
            };
            let narrow = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (xs, ws, dzs) = (floats(&[rows, input], 1), floats(&[input, output], 2), floats(&[rows, output], 3));
            let what = format!("{rows} {input} {output}");

            let y = forward(&xs, &ws, output);
            assert_close(&narrow(&y), &exact(&x, &weight), 1e-5, &what);

            let dw = weight_gradient(&xs, &dzs, (rows, input, output));
            assert_close(&narrow(&dw), &exact(&x.t().unwrap().contiguous().unwrap(), &dz), 1e-4, &what);

            let mut dx = vec![0.0; rows * input];
            add_input_gradient(&[(&dzs, &ws), (&dzs, &ws)], input, &mut dx);
            let once = exact(&dz, &weight.t().unwrap().contiguous().unwrap());
            assert_close(&narrow(&dx), &once.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-5, &what);
        }
    }
}
