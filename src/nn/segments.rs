//! Sequences of different lengths without their padding.
//!
//! ```text
//! padded  [B, L, d]   a b c · ·  |  · · · · ·  |  d · · · ·
//! packed  [P, d]      a b c d                       the P elements that are there, row by row
//! starts  [B + 1]     0 3 3 4
//! ```
//!
//! Layers that treat every element alike (linear, layer norm) then are one operation on a matrix, and attention
//! runs inside each row's elements. Short histories make most of a padded batch padding.
//!
//! A program ([`super::Program`]) does not know P: there the packed elements are all B · L places, and what stands where
//! there is no element is kept out by the mask wherever elements meet.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Shape, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Where the elements of a batch of sequences stand. B rows of at most L elements, P elements in all.
#[derive(Debug, Clone)]
pub struct Segments {
    /// `[B, L]`.
    mask: Tensor,
    /// L.
    len: usize,
    /// First element of each row, and P at the end.
    starts: Vec<usize>,
    /// b · L + l of each element.
    places: Vec<usize>,
}

impl Segments {
    /// The elements that `mask` `[B, L]` shows (not 0: there is an element).
    pub fn of(mask: &Tensor) -> Result<Arc<Self>> {
        let (_, len) = mask.dims2()?;
        let mask = mask.contiguous()?;
        let (mut starts, mut places) = (vec![0], Vec::new());
        for (row, mask) in Floats::of(&mask)?.chunks(len.max(1)).enumerate() {
            places.extend((0..len).filter(|&l| mask[l] != 0.0).map(|l| row * len + l));
            starts.push(places.len());
        }
        Ok(Arc::new(Self { mask, len, starts, places }))
    }

    /// B.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// L.
    pub fn longest(&self) -> usize {
        self.len
    }

    /// P.
    pub fn elements(&self) -> usize {
        self.places.len()
    }

    /// What it was made of: an input of every operation that depends on it, without a gradient.
    pub(crate) fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// The elements of one row.
    pub(crate) fn of_row(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// First element of each row, and P at the end.
    pub(crate) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// b · L + l of each element.
    pub(crate) fn places(&self) -> &[usize] {
        &self.places
    }

    /// How many elements of its row come after each element: 0 is the newest.
    pub(crate) fn ages(&self) -> impl Iterator<Item = usize> {
        (0..self.rows()).flat_map(|row| (0..self.of_row(row).len()).rev())
    }

    /// `[B, L, 1]` of 0 and 1 in a program, from its value of the mask.
    pub(crate) fn described_mask(&self, program: &mut Program, mask: Value) -> Value {
        let here = program.node(Primitive::NotZero, &[mask]);
        program.reshape(here, &[0, self.len as i64, 1])
    }

    /// `[B, L, width]` in a program, from its value of packed elements.
    pub(crate) fn described_padding(&self, program: &mut Program, x: Value, width: usize) -> Value {
        program.reshape(x, &[-1, self.len as i64, width as i64])
    }

    /// Checks that `x` `[P, d]` has the elements, and returns d.
    pub(crate) fn width_of(&self, x: &[usize]) -> candle_core::Result<usize> {
        match x {
            [elements, d] if *elements == self.elements() => Ok(*d),
            _ => Err(Error::Msg(format!("{x:?} for {} elements of sequences", self.elements()))),
        }
    }
}

/// The elements of `x` `[B, L, d]`, or the same numbers as `[B, L · d]`: `[P, d]`.
pub fn pack(x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::pack(x, segments)?);
    }
    let width = Pack::width(segments, x.dims())?;
    context.graph.one(&x.contiguous()?, Pack { segments: segments.clone(), width })
}

/// The elements `x` `[P, d]` at their places among zeros: `[B, L · d]`.
pub fn unpack(x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::unpack(x, segments)?);
    }
    let width = segments.width_of(x.dims())?;
    context.graph.two(&x.contiguous()?, segments.mask(), Unpack { segments: segments.clone(), width })
}

/// `[P, d]` from `padded`.
fn packed(padded: &[f32], d: usize, segments: &Segments) -> Vec<f32> {
    parallel::new_rows(
        segments.elements(),
        d,
        #[inline(always)]
        |element, out| {
            out.copy_from_slice(&padded[segments.places[element] * d..][..d]);
        },
    )
}

/// `[B, L, d]` from `elements`, with zeros where there is none.
fn padded(elements: &[f32], d: usize, segments: &Segments) -> Vec<f32> {
    parallel::new_rows(
        segments.rows(),
        segments.len * d,
        #[inline(always)]
        |row, out| {
            for element in segments.of_row(row) {
                let place = segments.places[element] - row * segments.len;
                out[place * d..][..d].copy_from_slice(&elements[element * d..][..d]);
            }
        },
    )
}

struct Pack {
    segments: Arc<Segments>,
    /// Width of an element.
    width: usize,
}

impl Describe for Pack {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x] = exactly(inputs)?;
        Ok(program.reshape(x, &[-1, self.width as i64]))
    }
}

impl Pack {
    /// Width of an element of `x` `[B, L, d]` or `[B, L · d]`.
    fn width(segments: &Segments, x: &[usize]) -> candle_core::Result<usize> {
        let len = segments.len;
        match *x {
            [rows, l, d] if rows == segments.rows() && l == len => Ok(d),
            [rows, columns] if rows == segments.rows() && columns % len.max(1) == 0 => Ok(columns / len.max(1)),
            _ => Err(Error::Msg(format!("{x:?} for {} sequences of at most {len} elements", segments.rows()))),
        }
    }
}

impl CustomOp1 for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = packed(slice(x, layout)?, self.width, &self.segments);
        floats::stored(y, (self.segments.elements(), self.width))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        Ok(Some(floats::tensor(padded(&Floats::of(&dy)?, self.width, &self.segments), x.dims())?))
    }
}

struct Unpack {
    segments: Arc<Segments>,
    /// Width of an element.
    width: usize,
}

impl Describe for Unpack {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, mask] = exactly(inputs)?;
        let x = self.segments.described_padding(program, x, self.width);
        let here = self.segments.described_mask(program, mask);
        let x = program.mul(x, here);
        Ok(program.reshape(x, &[0, -1]))
    }
}

impl CustomOp2 for Unpack {
    fn name(&self) -> &'static str {
        "unpack"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = padded(slice(x, layout)?, self.width, &self.segments);
        floats::stored(y, (self.segments.rows(), self.segments.len * self.width))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        Ok((Some(floats::tensor(packed(&Floats::of(&dy)?, self.width, &self.segments), x.dims())?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, mask, numbers, random};
    use super::*;

    /// Rows, longest, width.
    const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (4, 3, 2), (9, 5, 4), (700, 4, 5)];

    #[test]
    fn packing_matches_differences_and_plain_operations() {
        for (rows, len, d) in SHAPES {
            let segments = Segments::of(&mask(rows, len)).unwrap();
            let at = context(true, rows);
            let x = [random(&[rows, len, d], 1)];
            check_gradients(&x, |t| Ok(pack(&t[0], &segments, &at).unwrap()));
            check_matches(&x, |t| Ok(pack(&t[0], &segments, &at).unwrap()), |t| reference::pack(&t[0], &segments));
            let x = [random(&[segments.elements(), d], 2)];
            check_gradients(&x, |t| Ok(unpack(&t[0], &segments, &at).unwrap()));
            check_matches(&x, |t| Ok(unpack(&t[0], &segments, &at).unwrap()), |t| reference::unpack(&t[0], &segments));
        }
    }

    #[test]
    fn a_batch_without_elements_is_empty_both_ways() {
        let segments = Segments::of(&random(&[3, 2], 1).zeros_like().unwrap()).unwrap();
        let at = context(true, 3);
        let x = pack(&random(&[3, 2, 4], 1), &segments, &at).unwrap();
        assert_eq!(x.dims(), [0, 4]);
        assert_eq!(numbers(&unpack(&x, &segments, &at).unwrap()), [0.0; 24]);
        assert!(pack(&random(&[2, 2, 4], 1), &segments, &at).is_err());
        assert!(unpack(&random(&[1, 4], 1), &segments, &at).is_err());
    }
}
