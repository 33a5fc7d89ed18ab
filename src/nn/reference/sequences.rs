//! Sequences without padding in candle's own operations: they are padded, treated and packed again.

use super::super::Segments;
use super::{attention_pool, softmax};
use candle_core::{D, DType, Device, Result, Tensor};

/// [`super::super::pack`].
pub fn pack(x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let slots = segments.rows() * segments.longest();
    let d = x.elem_count().checked_div(slots).unwrap_or_default();
    x.reshape((slots, d))?.index_select(&indices(segments.places().iter().copied())?, 0)
}

/// [`super::super::unpack`].
pub fn unpack(x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let (elements, d) = x.dims2()?;
    // Places without an element read a row of zeros behind the last one.
    let mut from = vec![elements; segments.rows() * segments.longest()];
    segments.places().iter().enumerate().for_each(|(element, &place)| from[place] = element);
    let with_zeros = Tensor::cat(&[x, &Tensor::zeros((1, d), x.dtype(), &Device::Cpu)?], 0)?;
    with_zeros.index_select(&indices(from.into_iter())?, 0)?.reshape((segments.rows(), segments.longest() * d))
}

/// [`super::super::add_positions`].
pub fn add_positions(x: &Tensor, table: &Tensor, segments: &Segments) -> Result<Tensor> {
    x + table.index_select(&indices(segments.ages())?, 0)?
}

/// The attention of [`super::super::SelfAttention`] on queries, keys and values side by side.
pub fn self_attention(qkv: &Tensor, heads: usize, segments: &Segments) -> Result<Tensor> {
    let (rows, len, d) = (segments.rows(), segments.longest(), qkv.dim(1)? / 3);
    let padded = unpack(qkv, segments)?.reshape((rows, len, 3 * d))?;
    let part = |which: usize| {
        let part = padded.narrow(2, which * d, d)?.reshape((rows, len, heads, d / heads))?;
        part.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = (q.matmul(&k.t()?.contiguous()?)? / ((d / heads) as f64).sqrt())?;
    let away = ((mask(segments, qkv.dtype())? - 1.0)? * 1e30)?.reshape((rows, 1, 1, len))?;
    let y = softmax(&scores.broadcast_add(&away)?)?.matmul(&v)?;
    pack(&y.transpose(1, 2)?.contiguous()?.reshape((rows, len, d))?, segments)
}

/// [`super::super::segment_mean`].
pub fn segment_mean(x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let (rows, len, d) = (segments.rows(), segments.longest(), x.dim(1)?);
    let counts = mask(segments, x.dtype())?.sum_keepdim(D::Minus1)?.maximum(1.0)?;
    unpack(x, segments)?.reshape((rows, len, d))?.sum(1)?.broadcast_div(&counts)
}

/// [`super::super::segment_attention`].
pub fn segment_attention(query: &Tensor, x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let shape = (segments.rows(), segments.longest(), x.dim(1)?);
    attention_pool(query, &unpack(x, segments)?.reshape(shape)?, &mask(segments, x.dtype())?)
}

/// `[B, L]`: 1 where there is an element.
fn mask(segments: &Segments, dtype: DType) -> Result<Tensor> {
    let mut mask = vec![0f32; segments.rows() * segments.longest()];
    segments.places().iter().for_each(|&place| mask[place] = 1.0);
    Tensor::from_vec(mask, (segments.rows(), segments.longest()), &Device::Cpu)?.to_dtype(dtype)
}

fn indices(indices: impl Iterator<Item = usize>) -> Result<Tensor> {
    let indices: Vec<u32> = indices.map(|i| i as u32).collect();
    let count = indices.len();
    Tensor::from_vec(indices, count, &Device::Cpu)
}
