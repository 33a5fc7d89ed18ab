//! The products of layers with few outputs, such as gates and logits, where a general matrix product fills a fraction of
//! its vectors: here the vectors go along the input.

use super::mix::{add_scaled, dot};
use super::parallel;

/// Most outputs of a narrow layer.
const MOST: usize = 15;

/// Whether a layer with so many outputs is one.
pub(super) fn is_narrow(output: usize) -> bool {
    output <= MOST
}

/// x · W of each of several layers of one `x` `[rows, input]`: weights `[input, output]` with their output; `[rows, output]`
/// each.
pub(super) fn forward(x: &[f32], input: usize, layers: &[(&[f32], usize)]) -> Vec<Vec<f32>> {
    let columns: Vec<_> = layers.iter().map(|&(weight, output)| transposed(weight, output)).collect();
    let outputs: Vec<usize> = layers.iter().map(|&(_, output)| output).collect();
    parallel::new_matrices(
        x.len() / input,
        &outputs,
        #[inline(always)]
        |layer, row, y| {
            let x = &x[row * input..][..input];
            for (y, column) in y.iter_mut().zip(columns[layer].chunks_exact(input)) {
                *y = dot(x, column);
            }
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
                    add_scaled(dx, dz, column);
                }
            }
        },
    );
}

/// dW = xᵀ · dz of each of several layers of one `x` `[rows, input]`: dz `[rows, output]` with its output.
pub(super) fn weight_gradients(x: &[f32], input: usize, layers: &[(&[f32], usize)]) -> Vec<Vec<f32>> {
    let columns = parallel::sums(
        x.len() / input,
        input * layers.iter().map(|(_, output)| output).sum::<usize>(),
        x.len(),
        #[inline(always)]
        |row, sums: &mut [f32]| {
            let x = &x[row * input..][..input];
            let of_row = layers.iter().flat_map(
                #[inline(always)]
                |&(dz, output)| &dz[row * output..][..output],
            );
            for (&dz, sums) in of_row.zip(sums.chunks_exact_mut(input)) {
                add_scaled(sums, dz, x);
            }
        },
    );
    let mut rest = columns.as_slice();
    let of_layer = |&(_, output): &(_, usize)| {
        let (own, others) = rest.split_at(input * output);
        rest = others;
        transposed(own, input)
    };
    layers.iter().map(of_layer).collect()
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

    fn last_column(matrix: &[f32], columns: usize) -> Vec<f32> {
        matrix.chunks(columns).map(|row| row[columns - 1]).collect()
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

            // A second layer of the same x has the last output only.
            let [y, short] = forward(&xs, input, &[(&ws, output), (&last_column(&ws, output), 1)]).try_into().unwrap();
            assert_close(&narrow(&y), &exact(&x, &weight), 1e-5, &what);
            assert_eq!(short, last_column(&y, output), "{what}");

            let layers = [(&*dzs, output), (&last_column(&dzs, output), 1)];
            let [dw, short] = weight_gradients(&xs, input, &layers).try_into().unwrap();
            assert_close(&narrow(&dw), &exact(&x.t().unwrap().contiguous().unwrap(), &dz), 1e-4, &what);
            assert_eq!(short, last_column(&dw, output), "{what}");

            let mut dx = vec![0.0; rows * input];
            add_input_gradient(&[(&dzs, &ws), (&dzs, &ws)], input, &mut dx);
            let once = exact(&dz, &weight.t().unwrap().contiguous().unwrap());
            assert_close(&narrow(&dx), &once.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-5, &what);
        }
    }
}
