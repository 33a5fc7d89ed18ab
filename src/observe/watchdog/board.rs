//! The file in which every rank has a line.

use crate::pulse::Pulse;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes of a line: all have the same, so that each rank writes its own in one piece.
const LINE: usize = 512;
/// Of a file's name, whose end tells more than its beginning, in bytes of JSON.
const NAME: usize = 160;

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub rank: usize,
    pub host: String,
    /// Counts looks: a line whose number stands still was written by nobody.
    pub look: u64,
    /// Looks since the pulse last moved.
    pub still: u32,
    #[serde(flatten)]
    pub pulse: Pulse,
}

/// One rank's access to the file.
pub(super) struct Board {
    path: PathBuf,
    rank: usize,
    size: usize,
}

impl Board {
    pub fn new(path: PathBuf, rank: usize, size: usize) -> Self {
        Self { path, rank, size }
    }

    /// Writes this rank's line. Where it cannot, the others see no sign of life, and the run has worse trouble.
    pub fn write(&self, record: &Record) {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path);
        if let Ok(file) = opened {
            let _ = file.write_all_at(&line(record), (self.rank * LINE) as u64);
        }
    }

    /// Every rank's line, as far as there is one; nothing, where the file cannot be read.
    pub fn read(&self) -> Vec<Option<Record>> {
        let mut bytes = Vec::new();
        // Opened anew each time: then a network file system asks for what others have written.
        let read = std::fs::File::open(&self.path).and_then(|mut file| file.read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
        let record = |rank: usize| serde_json::from_slice(bytes.get(rank * LINE..(rank + 1) * LINE)?).ok();
        (0..self.size).map(record).collect()
    }
}

/// JSON, filled up with blanks.
fn line(record: &Record) -> [u8; LINE] {
    let mut record = record.clone();
    record.host = tail(&record.host, NAME / 2);
    record.pulse.file = record.pulse.file.map(|(name, row_group)| (tail(&name, NAME), row_group));
    let mut line = [b' '; LINE];
    line[LINE - 1] = b'\n';
    // What is cut cannot be read, and counts as no line; two names of at most `NAME` leave room for the rest.
    let text = serde_json::to_vec(&record).unwrap_or_default();
    let length = text.len().min(LINE - 1);
    line[..length].copy_from_slice(&text[..length]);
    line
}

/// The end of `text`, of at most `limit` bytes once it is JSON.
fn tail(text: &str, limit: usize) -> String {
    let cost = |c: char| if c.is_control() { 6 } else { c.len_utf8() + usize::from(matches!(c, '"' | '\\')) };
    let mut left = limit;
    let kept = text.chars().rev().take_while(|&c| {
        let fits = cost(c) <= left;
        left = left.saturating_sub(cost(c));
        fits
    });
    text.chars().skip(text.chars().count() - kept.count()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: usize, file: &str) -> Record {
        let pulse = Pulse {
            beats: u64::MAX,
            step: u64::MAX,
            stage: "decode wait".to_string(),
            waits: false,
            calls: u64::MAX,
            file: Some((file.to_string(), Some(u32::MAX))),
        };
        Record { rank, host: "node-17.example".to_string(), look: u64::MAX, still: u32::MAX, pulse }
    }

    #[test]
    fn every_rank_reads_what_the_others_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let board = |rank| Board::new(folder.path().join("watchdog"), rank, 3);
        assert!(board(0).read().is_empty());
        board(2).write(&record(2, "logs/part-2.parquet"));
        board(0).write(&record(0, "logs/part-0.parquet"));
        assert_eq!(
            board(1).read(),
            [Some(record(0, "logs/part-0.parquet")), None, Some(record(2, "logs/part-2.parquet"))]
        );
    }

    #[test]
    fn long_and_strange_names_keep_their_end_and_fit() {
        for strange in ["ä", "\"", "\n", "\u{1f600}", "x"] {
            let mut record = record(1, &format!("{}part-7.parquet", strange.repeat(900)));
            record.host = strange.repeat(300);
            let read: Record = serde_json::from_slice(&line(&record)).unwrap_or_else(|e| panic!("{strange}: {e}"));
            let (file, row_group) = read.pulse.file.unwrap();
            assert!(file.ends_with("part-7.parquet") && file.len() <= NAME, "{file}");
            assert_eq!((row_group, read.rank), (Some(u32::MAX), 1));
        }
    }
}
