//! Slices in, tensors out: the fused layers compute on plain `&[f32]`.

use candle_core::{CpuStorage, Device, Error, Layout, Result, Shape, Storage, StorageRef, Tensor};
use std::ops::{Deref, Range};

/// The numbers of a contiguous f32 tensor, without a copy.
pub(crate) struct Floats<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Floats<'a> {
    /// Borrows `tensor`; make it contiguous first.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = match &*storage {
            Storage::Cpu(cpu) => {
                slice(cpu, layout)?;
                layout.start_offset()..layout.start_offset() + layout.shape().elem_count()
            }
            _ => return Err(Error::Msg("a fused layer was given a tensor that is not on the CPU".into())),
        };
        Ok(Self { storage, range })
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// The numbers that `layout` selects from `storage`; an error unless they are contiguous f32.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => Err(Error::Msg("a fused layer was given a strided tensor".into())),
        _ => Err(Error::Msg("a fused layer was given a tensor that is not f32".into())),
    }
}

/// [`slice`], of a gradient that is added to in place.
pub(crate) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => Err(Error::Msg("a gradient is not a contiguous f32 tensor".into())),
    }
}

/// A tensor that owns `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// The result of a custom operation.
pub(crate) fn stored(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// `(rows, width)` of a shape seen as a matrix of its last dimension.
pub(crate) fn rows_of(dims: &[usize]) -> (usize, usize) {
    match dims.split_last() {
        Some((&width, outer)) => (outer.iter().product(), width),
        None => (1, 1),
    }
}
