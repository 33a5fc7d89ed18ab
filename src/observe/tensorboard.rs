//! Event files that TensorBoard opens: scalars, histograms, pictures, texts.
//!
//! ```text
//! file    events.out.tfevents.<seconds>.<host>, in TFRecord framing
//! record  length u64 | its checksum u32 | an Event in protobuf | its checksum u32
//! ```
//!
//! TensorBoard reads a folder's files in the order of their names as one run, so a resumed run begins another file, whose
//! first event says from which step on the earlier files are void.

mod proto;

use crate::error::{Error, Result};
use prost::Message;
use proto::{Event, Histogram, Image, Metadata, Plugin, Session, Shape, Size, Summary, Tensor, Value};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use sysinfo::System;

/// The writer of a run's event file.
#[derive(Debug)]
pub struct TensorBoard {
    file: BufWriter<File>,
    path: PathBuf,
}

/// A histogram as counts between ascending limits; the first bucket begins at `start`.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    pub start: f64,
    /// Upper limit of each bucket, and its count.
    pub buckets: Vec<(f64, f64)>,
}

impl TensorBoard {
    /// Begins a file in `folder`; what earlier files there say of later steps than `step` is void.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("creating", folder, &e))?;
        let host = System::host_name().unwrap_or_else(|_| "host".to_string());
        // Two runs within a second must not write to one file.
        let name = |n: u64| format!("events.out.tfevents.{:010}.{host}.{n}", now() as u64);
        let mut number = 0;
        let (path, file) = loop {
            let path = folder.join(name(number));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io("creating", &path, &e)),
            }
        };
        let mut board = Self { file: BufWriter::new(file), path };
        board.event(0, Event { file_version: Some("brain.Event:2".to_string()), ..Event::default() })?;
        if step > 0 {
            let begins = Session { status: Session::START };
            board.event(step + 1, Event { session: Some(begins), ..Event::default() })?;
        }
        board.flush()?;
        Ok(board)
    }

    /// One point of a curve.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        self.value(step, Value { tag: tag.to_string(), simple_value: Some(value as f32), ..Value::default() })
    }

    /// One histogram.
    pub fn histogram(&mut self, tag: &str, step: u64, counts: &Buckets) -> Result<()> {
        let starts = std::iter::once(counts.start).chain(counts.buckets.iter().map(|bucket| bucket.0));
        let middles = starts.zip(&counts.buckets).map(|(start, (end, count))| (f64::midpoint(start, *end), *count));
        let (num, sum, sum_squares) = middles.fold((0.0, 0.0, 0.0), |(num, sum, squares), (x, count)| {
            (num + count, sum + x * count, squares + x * x * count)
        });
        let histogram = Histogram {
            min: counts.start,
            max: counts.buckets.last().map_or(counts.start, |bucket| bucket.0),
            num,
            sum,
            sum_squares,
            bucket_limit: counts.buckets.iter().map(|bucket| bucket.0).collect(),
            bucket: counts.buckets.iter().map(|bucket| bucket.1).collect(),
        };
        self.value(step, Value { tag: tag.to_string(), histogram: Some(histogram), ..Value::default() })
    }

    /// A picture of `rows` of RGB pixels of equal length.
    pub fn image(&mut self, tag: &str, step: u64, rows: &[Vec<[u8; 3]>]) -> Result<()> {
        let (height, width) = (rows.len() as u32, rows.first().map_or(0, Vec::len) as u32);
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = rows.iter().flatten().flatten().copied().collect();
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
        written.map_err(|e| Error::internal(format!("a picture cannot be encoded: {e}")))?;
        let (height, width) = (height as i32, width as i32);
        let image = Image { height, width, colorspace: 3, encoded_image_string: png };
        self.value(step, Value { tag: tag.to_string(), image: Some(image), ..Value::default() })
    }

    /// A text, in Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<()> {
        let plugin = Plugin { plugin_name: "text".to_string() };
        let tensor = Tensor {
            dtype: Tensor::STRING,
            tensor_shape: Some(Shape { dim: vec![Size { size: 1 }] }),
            string_val: vec![text.as_bytes().to_vec()],
        };
        let metadata = Metadata { plugin_data: Some(plugin), data_class: Metadata::TENSOR };
        let value = Value { tag: tag.to_string(), metadata: Some(metadata), tensor: Some(tensor), ..Value::default() };
        self.value(step, value)
    }

    /// Hands everything to the system, so that TensorBoard sees it.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io("writing", &self.path, &e))
    }

    fn value(&mut self, step: u64, value: Value) -> Result<()> {
        self.event(step, Event { summary: Some(Summary { value: vec![value] }), ..Event::default() })
    }

    fn event(&mut self, step: u64, event: Event) -> Result<()> {
        let event = Event { wall_time: now(), step: step as i64, ..event };
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        written.map_err(|e| Error::io("writing", &self.path, &e))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// One record of a TFRecord file.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// CRC-32C as TFRecord has it: a checksum of data that hold checksums would be weak.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        // Written by TensorFlow's TFRecordWriter for the bytes `abc`.
        let frame = record(b"abc");
        assert_eq!(frame.len(), 19);
        assert_eq!(frame[..8], 3u64.to_le_bytes());
        assert_eq!(frame[12..15], *b"abc");
        // CRC-32C of `123456789`, from RFC 3720's generator, rotated and shifted.
        assert_eq!(masked(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_second_run_in_the_same_second_has_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let first = TensorBoard::create(folder.path(), 0).unwrap();
        let second = TensorBoard::create(folder.path(), 7).unwrap();
        assert_ne!(first.path, second.path);
    }
}
