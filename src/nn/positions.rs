//! Learned positions of the elements of sequences.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::{Context, Kernels, Segments, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Shape, Tensor};
use std::sync::Arc;

/// Adds to each element of `x` `[P, d]` its row of `table` `[≥ L, d]`, counted from the newest element back: the last
/// click has one position however long the history is.
pub fn add_positions(x: &Tensor, table: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::add_positions(x, table, segments)?);
    }
    context.graph.three(&x.contiguous()?, table, segments.mask(), AddPositions(segments.clone()))
}

struct AddPositions(Arc<Segments>);

impl Describe for AddPositions {
    /// The position of an element is the number of elements after it: row p of the table counts where that is p.
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, table, mask] = exactly(inputs)?;
        let len = self.0.longest();
        let here = program.node(Primitive::NotZero, &[mask]);
        let later = (0..len * len).map(|i| f32::from(i / len > i % len)).collect();
        let later = program.constant(&[len, len], later);
        let age = program.matmul(here, later);
        let age = program.reshape(age, &[-1, 1]);
        let ages = program.constant(&[1, len], (0..len).map(|p| p as f32).collect());
        let difference = program.sub(age, ages);
        let difference = program.node(Primitive::Abs, &[difference]);
        let one = program.scalar(1.0);
        let is_it = program.sub(one, difference);
        let is_it = program.node(Primitive::Relu, &[is_it]);
        let table = program.narrow(table, 0, 0, len);
        let position = program.matmul(is_it, table);
        Ok(program.add(x, position))
    }
}

impl AddPositions {
    fn width(&self, x: &[usize], table: &[usize]) -> candle_core::Result<usize> {
        let d = self.0.width_of(x)?;
        match *table {
            [positions, width] if width == d && positions >= self.0.longest() => Ok(d),
            _ => {
                Err(Error::Msg(format!("positions {table:?} for at most {} elements of {d} numbers", self.0.longest())))
            }
        }
    }
}

impl CustomOp3 for AddPositions {
    fn name(&self) -> &'static str {
        "add-positions"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = self.width(x_layout.dims(), table_layout.dims())?;
        let table = slice(table, table_layout)?;
        let mut y = slice(x, x_layout)?.to_vec();
        parallel::segments(
            &mut y,
            d,
            self.0.starts(),
            #[inline(always)]
            |_, y| {
                // The newest element stands last and has position 0.
                for (y, position) in y.chunks_exact_mut(d.max(1)).rev().zip(table.chunks_exact(d.max(1))) {
                    y.iter_mut().zip(position).for_each(|(y, p)| *y += p);
                }
            },
        );
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        table: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = self.width(x.dims(), table.dims())?;
        let dy = dy.contiguous()?;
        let values = Floats::of(&dy)?;
        let sums = parallel::sums(
            self.0.rows(),
            table.elem_count(),
            values.len(),
            #[inline(always)]
            |row, sums: &mut [f32]| {
                let of_row = self.0.of_row(row);
                let newest_first = values[of_row.start * d..of_row.end * d].chunks_exact(d.max(1)).rev();
                for (sums, dy) in sums.chunks_exact_mut(d.max(1)).zip(newest_first) {
                    sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            },
        );
        Ok((Some(dy.clone()), Some(floats::tensor(sums, table.dims())?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, mask, numbers, random};
    use super::*;

    #[test]
    fn positions_match_differences_and_plain_operations() {
        for (rows, len, d) in [(1, 1, 1), (4, 3, 2), (9, 5, 4), (700, 4, 5)] {
            let segments = Segments::of(&mask(rows, len)).unwrap();
            let x = [random(&[segments.elements(), d], 1), random(&[len + 1, d], 2)];
            let fused = |t: &[Tensor]| Ok(add_positions(&t[0], &t[1], &segments, &context(true, rows)).unwrap());
            check_gradients(&x, fused);
            check_matches(&x, fused, |t| reference::add_positions(&t[0], &t[1], &segments));
        }
    }

    #[test]
    fn positions_count_from_the_newest_element() {
        let mask = Tensor::new(&[[1f32, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0; 3]], &candle_core::Device::Cpu).unwrap();
        let segments = Segments::of(&mask).unwrap();
        assert_eq!(segments.ages().collect::<Vec<_>>(), [2, 1, 0, 0]);
        let table = Tensor::new(&[[10f32], [20.0], [30.0]], &candle_core::Device::Cpu).unwrap();
        let x = random(&[4, 1], 1).zeros_like().unwrap();
        assert_eq!(
            numbers(&add_positions(&x, &table, &segments, &context(true, 3)).unwrap()),
            [30.0, 20.0, 10.0, 10.0]
        );
    }

    #[test]
    fn a_table_that_is_too_short_is_refused() {
        let segments = Segments::of(&mask(4, 3)).unwrap();
        let x = random(&[segments.elements(), 2], 1);
        let add = |table: &[usize]| add_positions(&x, &random(table, 2), &segments, &context(true, 4));
        assert!(add(&[3, 2]).is_ok() && add(&[2, 2]).is_err() && add(&[3, 4]).is_err());
    }
}
