//! Operations that only move or add columns.

use super::floats::{self, Floats};
use super::graph::{Graph, Operation, Pass};
use super::parallel;
use super::program::{Describe, Program, Value, exactly};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

/// `parts` `[B, d_i]` side by side: `[B, Σ d_i]`.
pub fn concat(graph: &Graph, parts: &[Tensor]) -> Result<Tensor> {
    if let [only] = parts {
        return Ok(only.clone());
    }
    if let Graph::Candle = graph {
        return Ok(Tensor::cat(parts, 1)?);
    }
    let parts = parts.iter().map(Tensor::contiguous).collect::<candle_core::Result<Vec<_>>>()?;
    let Some(rows) = parts.first().map(|part| floats::rows_of(part.dims()).0) else {
        return Err(Error::internal("nothing to put side by side"));
    };
    let widths: Vec<usize> = parts.iter().map(|part| floats::rows_of(part.dims()).1).collect();
    let width = widths.iter().sum();
    let y = {
        let values = parts.iter().map(Floats::of).collect::<candle_core::Result<Vec<_>>>()?;
        if values.iter().zip(&widths).any(|(values, width)| values.len() != rows * width) {
            return Err(Error::internal("columns of different numbers of rows"));
        }
        parallel::new_rows(
            rows,
            width,
            #[inline(always)]
            |row, mut y| {
                for (values, &width) in values.iter().zip(&widths) {
                    let (head, tail) = y.split_at_mut(width);
                    head.copy_from_slice(&values[row * width..][..width]);
                    y = tail;
                }
            },
        )
    };
    let y = floats::tensor(y, (rows, width))?;
    let wanted = parts.iter().map(|part| graph.tracks(part)).collect();
    graph.record(&parts.iter().collect::<Vec<_>>(), &y, Concat { wanted })?;
    Ok(y)
}

/// Columns `start..start + width` of `x` `[B, d]`.
pub fn columns(graph: &Graph, x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let y = x.narrow(1, start, width)?;
    match graph {
        Graph::Candle => Ok(y),
        _ => {
            let y = y.contiguous()?;
            graph.record(&[x], &y, Columns { start, width })?;
            Ok(y)
        }
    }
}

/// `a` + `b`, of one shape.
pub fn add(graph: &Graph, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = (a + b)?;
    match graph {
        Graph::Candle => Ok(y),
        _ => {
            // Without candle's own memory of the addition, which would keep `a` and `b`.
            let y = y.detach();
            graph.record(&[a, b], &y, Add)?;
            Ok(y)
        }
    }
}

/// The numbers of `x`, through which no gradient goes. (On a tape candle's `detach` alone gives back the very tensor that
/// the tape knows, since candle has no operation to cut it off from.)
pub fn stop_gradient(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape(x.dims())?.detach())
}

/// The mean of `parts`, of one shape.
pub fn mean(graph: &Graph, parts: &[Tensor]) -> Result<Tensor> {
    let [first, rest @ ..] = parts else {
        return Err(Error::internal("the mean of nothing"));
    };
    let share = 1.0 / parts.len() as f64;
    let mut sum = first.clone();
    for part in rest {
        sum = (sum + part)?;
    }
    let y = (sum * share)?;
    match graph {
        Graph::Candle => Ok(y),
        _ => {
            let y = y.detach();
            graph.record(&parts.iter().collect::<Vec<_>>(), &y, Mean)?;
            Ok(y)
        }
    }
}

struct Concat {
    /// Whether each part's gradient is wanted.
    wanted: Vec<bool>,
}

impl Describe for Concat {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        Ok(program.concat(inputs, 1))
    }
}

impl Operation for Concat {
    fn backward(&self, inputs: &[Tensor], _: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let mut gradients = Vec::with_capacity(inputs.len());
        for (x, &wanted) in inputs.iter().zip(&self.wanted) {
            let width = floats::rows_of(x.dims()).1;
            gradients.push(if wanted { Some(of_columns(dy, start, width)?) } else { None });
            start += width;
        }
        Ok(gradients)
    }
}

struct Columns {
    start: usize,
    width: usize,
}

impl Describe for Columns {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x] = exactly(inputs)?;
        Ok(program.narrow(x, 1, self.start, self.width))
    }
}

impl Operation for Columns {
    fn backward(&self, inputs: &[Tensor], y: &Tensor, dy: &Tensor, pass: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        if let Some(dx) = pass.grads.get(&inputs[0]) {
            // Where several slices of one tensor are read, only the first makes the rest of its gradient.
            dx.inplace_op2(&dy.contiguous()?, &AddColumns { start: self.start })?;
            return Ok(vec![None]);
        }
        let ((rows, width), (_, part)) = (floats::rows_of(inputs[0].dims()), floats::rows_of(y.dims()));
        let dy = Floats::of(dy)?;
        let dx = parallel::new_rows(
            rows,
            width,
            #[inline(always)]
            |row, dx| {
                dx[self.start..self.start + part].copy_from_slice(&dy[row * part..][..part]);
            },
        );
        Ok(vec![Some(floats::tensor(dx, inputs[0].dims())?)])
    }
}

/// Adds a tensor to some columns of another, in place.
struct AddColumns {
    start: usize,
}

impl InplaceOp2 for AddColumns {
    fn name(&self) -> &'static str {
        "add-columns"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        let ((_, width), (_, part)) = (floats::rows_of(sum_layout.dims()), floats::rows_of(x_layout.dims()));
        let x = floats::slice(x, x_layout)?;
        parallel::rows(
            floats::slice_mut(sum, sum_layout)?,
            width,
            #[inline(always)]
            |row, sum| {
                let sum = &mut sum[self.start..self.start + part];
                sum.iter_mut().zip(&x[row * part..]).for_each(|(sum, x)| *sum += x);
            },
        );
        Ok(())
    }
}

struct Add;

impl Describe for Add {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [a, b] = exactly(inputs)?;
        Ok(program.add(a, b))
    }
}

impl Operation for Add {
    fn backward(&self, _: &[Tensor], _: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        // Gradients are added to in place, so the two may not share their numbers.
        Ok(vec![Some(dy.clone()), Some(dy.copy()?)])
    }
}

struct Mean;

impl Describe for Mean {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let sum = inputs.iter().copied().reduce(|a, b| program.add(a, b));
        let sum = sum.ok_or_else(|| Error::internal("the mean of nothing"))?;
        Ok(program.scale(sum, 1.0 / inputs.len() as f32))
    }
}

impl Operation for Mean {
    fn backward(&self, inputs: &[Tensor], _: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        // A tensor each, for gradients are added to in place.
        let share = 1.0 / inputs.len() as f64;
        inputs.iter().map(|_| Ok(Some((dy * share)?.detach()))).collect()
    }
}

/// A copy of some columns.
fn of_columns(x: &Tensor, start: usize, part: usize) -> Result<Tensor> {
    let (rows, width) = floats::rows_of(x.dims());
    let x = Floats::of(x)?;
    let y = parallel::new_rows(
        rows,
        part,
        #[inline(always)]
        |row, y| y.copy_from_slice(&x[row * width + start..][..part]),
    );
    Ok(floats::tensor(y, (rows, part))?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, numbers, random};
    use super::*;
    use candle_core::Var;

    #[test]
    fn no_gradient_goes_through_a_stop() {
        for graph in [Graph::Candle, Graph::tape()] {
            let x = Var::from_tensor(&random(&[2, 3], 1)).unwrap();
            // Of a leaf, and of what an operation made.
            let double = add(&graph, &x, &x).unwrap();
            let stopped = add(&graph, &stop_gradient(&x).unwrap(), &stop_gradient(&double).unwrap()).unwrap();
            let y = add(&graph, &stopped, &double).unwrap();
            let fivefold: Vec<f64> = numbers(&x).iter().map(|x| 5.0 * x).collect();
            assert_close(&numbers(&y), &fivefold, 1e-6, "the numbers are the same");
            let pass = graph.backward(&[(&y, y.ones_like().unwrap())]).unwrap();
            assert_eq!(numbers(pass.grads.get(&x).unwrap()), [2.0; 6]);
        }
    }
}
