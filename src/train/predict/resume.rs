//! What a killed run of the same prediction left: its finished parts are kept, and their rows not scored again.
//!
//! Every part says in its footer which checkpoint scored which rows, so that parts of another prediction are not
//! taken for this one's.

use super::Options;
use crate::checkpoint::{MANIFEST, checksum};
use crate::comm::{Communicator, collectives};
use crate::data::lanes::Piece;
use crate::data::plan::Plan;
use crate::error::{Error, Result};
use crate::train::dataset::Dataset;
use crate::train::trained::Trained;
use parquet::file::metadata::KeyValue;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::{self, File};
use std::path::Path;

/// Keys of the footer.
const CHECKPOINT: &str = "tandem.checkpoint";
const ROWS: &str = "tandem.rows";

/// What a prediction is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Checksum of the checkpoint's manifest.
    checkpoint: String,
    /// Fingerprint of the rows.
    rows: String,
}

impl Record {
    /// What `trained` predicts for `data`.
    pub fn of(trained: &Trained, data: &Dataset) -> Result<Self> {
        let path = trained.path.join(MANIFEST);
        let manifest = fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        Ok(Self { checkpoint: checksum(&manifest), rows: data.fingerprint() })
    }

    /// For the footer of a part.
    pub fn metadata(&self) -> Vec<KeyValue> {
        vec![KeyValue::new(CHECKPOINT.into(), self.checkpoint.clone()), KeyValue::new(ROWS.into(), self.rows.clone())]
    }

    fn check(&self, footer: &[KeyValue]) -> std::result::Result<(), &'static str> {
        let of = |key: &str| footer.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_ref());
        match (of(CHECKPOINT), of(ROWS)) {
            (Some(checkpoint), _) if *checkpoint != self.checkpoint => Err("was scored with another checkpoint"),
            (Some(_), Some(rows)) if *rows == self.rows => Ok(()),
            (Some(_), Some(_)) => Err("was scored from other rows"),
            _ => Err("is no part of a prediction"),
        }
    }
}

/// Prepares the output folder; returns the rows that are scored already, the same on every rank. Collective.
pub fn begin(comm: &dyn Communicator, record: &Record, plan: &Plan, options: &Options) -> Result<Vec<Piece>> {
    let done = match comm.rank() {
        0 => prepare(record, plan, options),
        _ => Ok(Vec::new()),
    };
    let done = collectives::agree(comm, done)?;
    let done: Vec<u64> =
        done.iter().flat_map(|piece| [piece.row_group, piece.start, piece.rows].map(u64::from)).collect();
    let (all, _) = collectives::all_gather(comm, &done)?;
    let piece = |part: &[u64]| Piece { row_group: part[0] as u32, start: part[1] as u32, rows: part[2] as u32 };
    Ok(all.chunks_exact(3).map(piece).collect())
}

fn prepare(record: &Record, plan: &Plan, options: &Options) -> Result<Vec<Piece>> {
    let out = &options.out;
    let refused = |e| Error::io("creating the output folder", out, &e).fix("choose a folder to write to with --out");
    fs::create_dir_all(out).map_err(refused)?;
    let mut done = Vec::new();
    for entry in fs::read_dir(out).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if !options.resume {
            return Err(Error::job("the folder for the predictions is not empty").at("path", out.display()).fix(
                "name another folder with --out, empty this one, or go on with what a killed run left in it: --resume",
            ));
        }
        match path.extension().is_some_and(|extension| extension == "partial") {
            true => fs::remove_file(&path).map_err(|e| Error::io("removing", &path, &e))?,
            false => done.extend(rows_of(record, plan, &path)?),
        }
    }
    Ok(done)
}

/// The rows that a finished part holds: from the place in its name, as many as it has.
fn rows_of(record: &Record, plan: &Plan, path: &Path) -> Result<Vec<Piece>> {
    let foreign = |what: &str| {
        Error::job(format!("a file in the folder for the predictions {what}"))
            .at("path", path.display())
            .fix("remove it, name another folder with --out, or predict as the run did that wrote it")
    };
    let handle = File::open(path).map_err(|e| Error::io("opening", path, &e))?;
    let reader = SerializedFileReader::new(handle).map_err(|_| foreign("is no part of a prediction"))?;
    let footer = reader.metadata().file_metadata();
    record.check(footer.key_value_metadata().map_or(&[][..], Vec::as_slice)).map_err(foreign)?;

    let renamed = || foreign("has another name than it was written with");
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let place = name.strip_prefix("part-").ok_or_else(renamed)?;
    let numbers: Vec<u32> = place.split('-').filter_map(|number| number.parse().ok()).collect();
    let [file, index, mut start] = numbers[..] else { return Err(renamed()) };
    let mut left = u64::try_from(footer.num_rows()).map_err(|_| renamed())?;
    let at = plan.row_groups.iter().position(|group| (group.file, group.index) == (file, index)).ok_or_else(renamed)?;
    let mut pieces = Vec::new();
    for (row_group, group) in (0..).zip(&plan.row_groups).skip(at).take_while(|(_, group)| group.file == file) {
        let rows = left.min(u64::from(group.rows.saturating_sub(start))) as u32;
        if rows > 0 {
            pieces.push(Piece { row_group, start, rows });
        }
        (left, start) = (left - u64::from(rows), 0);
    }
    if left == 0 { Ok(pieces) } else { Err(renamed()) }
}
