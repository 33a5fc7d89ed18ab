//! Vectors in fewer bits: float16, or 8-bit integers times a scale for each row.

use crate::export::schema::Dtype;
use half::f16;

/// The step of a row's 8-bit integers: max |x| / 127.
pub fn scale(row: &[f32]) -> f32 {
    row.iter().fold(0f32, |max, value| max.max(value.abs())) / 127.0
}

/// The integer of a number; 0 in a row of zeros.
pub fn quantized(value: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { (value / scale).round().clamp(-127.0, 127.0) as i8 }
}

/// Vectors as they are read back from what a table stores.
pub fn as_stored(dtype: Dtype, dim: usize, vectors: &[f32]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => vectors.to_vec(),
        Dtype::Fp16 => vectors.iter().map(|&value| f16::from_f32(value).to_f32()).collect(),
        Dtype::Int8 => {
            let row = |row: &[f32]| {
                let scale = scale(row);
                row.iter().map(|&value| f32::from(quantized(value, scale)) * scale).collect::<Vec<_>>()
            };
            vectors.chunks(dim).flat_map(row).collect()
        }
    }
}

/// Adds the numbers of one row to `out`, little-endian and without its scale.
pub fn push_numbers(dtype: Dtype, row: &[f32], out: &mut Vec<u8>) {
    match dtype {
        Dtype::F32 => row.iter().for_each(|value| out.extend(value.to_le_bytes())),
        Dtype::Fp16 => row.iter().for_each(|&value| out.extend(f16::from_f32(value).to_le_bytes())),
        Dtype::Int8 => {
            let scale = scale(row);
            out.extend(row.iter().map(|&value| quantized(value, scale) as u8));
        }
    }
}

/// Bytes of a number.
pub fn number_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Fp16 => 2,
        Dtype::Int8 => 1,
    }
}
