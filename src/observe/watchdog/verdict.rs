//! Who keeps a job waiting.

use super::board::Record;
use super::{FILE, LOOKS};
use crate::error::Error;
use crate::pulse::Pulse;
use std::fmt::Write;
use std::time::Duration;

/// Ranks of each kind that are named one by one.
const NAMED: usize = 8;

/// What one rank knows of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its last line.
    record: Option<Record>,
    /// Looks since the line last changed.
    unchanged: u32,
}

impl Seen {
    /// It has not written for half a limit.
    fn silent(&self) -> bool {
        self.unchanged >= LOOKS / 2
    }

    fn moves(&self) -> bool {
        !self.silent() && self.record.as_ref().is_none_or(|record| record.still < LOOKS)
    }
}

/// `before` with the lines that are read now; nothing, where nothing was read.
pub(super) fn compare(before: Vec<Seen>, now: Vec<Option<Record>>) -> Vec<Seen> {
    let mut before = before.into_iter();
    let seen = now.into_iter().map(|record| match before.next() {
        Some(old) if old.record == record => Seen { record, unchanged: old.unchanged + 1 },
        _ => Seen { record, unchanged: 0 },
    });
    seen.collect()
}

/// A job that stands still.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Whether it is this rank's turn to tell of it.
    pub speaks: bool,
    /// What is to be told.
    pub error: Error,
}

/// Whether the job stands still, as rank `mine.rank` sees it, which has for the whole limit. `seen` is absent before
/// ranks know of each other, and empty where the run folder does not answer.
pub(super) fn judge(mine: &Record, seen: Option<&[Seen]>, looks_apart: Duration) -> Option<Verdict> {
    let seconds = |looks: u32| (looks_apart * looks).as_secs_f64();
    let what = format!("nothing has moved for {} s", seconds(mine.still));
    let fix = "look at the nodes, disks and network of the ranks named here, then start again with --resume; \
               `train.watchdog` sets how long is too long";
    let Some(seen) = seen else {
        let fix = "look at the nodes, their disks and their network: `mpirun -n 2 hostname` must work on them; \
                   `--watchdog` of eval and predict sets how long is too long";
        let error = Error::comm(what).at("stage", describe(&mine.pulse)).fix(fix);
        return Some(Verdict { speaks: !mine.pulse.waits, error });
    };
    if seen.is_empty() {
        let error = Error::comm(format!("{what}, and `{FILE}` in the run folder cannot be read or written"));
        return Some(Verdict { speaks: true, error: error.at("stage", describe(&mine.pulse)).fix(fix) });
    }
    if seen.iter().any(Seen::moves) {
        return None;
    }
    let speaker = seen.iter().position(|rank| !rank.silent()).unwrap_or(mine.rank);
    let late = late(seen);
    let mut text = format!("{what}: ");
    for (i, &rank) in late.iter().take(NAMED).enumerate() {
        let separator = if i == 0 { "" } else { "; " };
        let _ = write!(text, "{separator}{}", describe_late(rank, &seen[rank], seconds(seen[rank].unchanged)));
    }
    if late.len() > NAMED {
        let _ = write!(text, "; and {} more", late.len() - NAMED);
    }
    let waiting = seen.len() - late.len();
    if waiting > 0 {
        let _ = write!(text, "\n  {waiting} ranks wait, such as rank {} in {}", mine.rank, describe(&mine.pulse));
    }
    Some(Verdict { speaks: speaker == mine.rank, error: Error::comm(text).fix(fix) })
}

/// The ranks that the others wait for.
fn late(seen: &[Seen]) -> Vec<usize> {
    let ranks = |is_late: &dyn Fn(&Seen) -> bool| -> Vec<usize> {
        seen.iter().enumerate().filter(|(_, rank)| is_late(rank)).map(|(rank, _)| rank).collect()
    };
    let pulse = |rank: &Seen| rank.record.as_ref().map(|record| record.pulse.clone()).unwrap_or_default();
    let silent = ranks(&Seen::silent);
    if !silent.is_empty() {
        return silent;
    }
    let alone = ranks(&|rank| !pulse(rank).waits);
    if !alone.is_empty() {
        return alone;
    }
    let fewest = seen.iter().map(|rank| pulse(rank).calls).min();
    ranks(&|rank| Some(pulse(rank).calls) == fewest)
}

fn describe_late(rank: usize, seen: &Seen, silent_s: f64) -> String {
    let Some(record) = &seen.record else { return format!("rank {rank} has given no sign of life") };
    let place = describe(&record.pulse);
    match seen.silent() {
        true => format!("rank {rank} on {} is late, silent for {silent_s} s, last seen in {place}", record.host),
        false => format!("rank {rank} on {} is late, in {place}", record.host),
    }
}

/// `exchange after step 121, waiting for other ranks`.
fn describe(pulse: &Pulse) -> String {
    let mut text = format!("{} after step {}", pulse.stage, pulse.step);
    if pulse.waits {
        text.push_str(", waiting for other ranks");
    }
    if let Some((file, row_group)) = &pulse.file {
        let _ = write!(text, ", at file {file}");
        if let Some(row_group) = row_group {
            let _ = write!(text, ", row group {row_group}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn record(rank: usize, still: u32, waits: bool, calls: u64) -> Record {
        let file = (!waits).then(|| ("logs/part-3.parquet".to_string(), Some(7)));
        let pulse = Pulse { beats: 1, step: 120, stage: "exchange".to_string(), waits, calls, file };
        Record { rank, host: format!("n{rank}"), look: 3, still, pulse }
    }

    fn seen(records: &[Record]) -> Vec<Seen> {
        records.iter().map(|record| Seen { record: Some(record.clone()), unchanged: 0 }).collect()
    }

    fn text(verdict: Option<Verdict>) -> (bool, String) {
        let verdict = verdict.expect("the job stands still");
        (verdict.speaks, verdict.error.to_string())
    }

    #[test]
    fn a_rank_that_moves_is_waited_for() {
        let mine = record(0, 25, true, 9);
        let all = seen(&[mine.clone(), record(1, 3, false, 8), record(2, 25, true, 9)]);
        assert!(judge(&mine, Some(&all), SECOND).is_none());
        // It has written nothing yet, but there was no time to.
        let mut unknown = all;
        unknown[1] = Seen::default();
        assert!(judge(&mine, Some(&unknown), SECOND).is_none());
    }

    #[test]
    fn a_silent_rank_is_late() {
        let mine = record(1, 10, true, 9);
        let mut all = seen(&[record(0, 1, false, 8), mine.clone(), record(2, 10, true, 9)]);
        all[0].unchanged = LOOKS / 2;
        let (speaks, text) = text(judge(&mine, Some(&all), SECOND));
        assert!(speaks);
        assert!(
            text.contains("nothing has moved for 10 s: rank 0 on n0 is late, silent for 5 s, last seen in"),
            "{text}"
        );
        assert!(text.contains("row group 7\n  2 ranks wait, such as rank 1 in exchange after step 120"), "{text}");
    }

    #[test]
    fn a_rank_that_waits_for_nobody_is_late() {
        let mine = record(0, 12, true, 9);
        let all = seen(&[mine.clone(), record(1, 11, true, 9), record(2, 11, false, 8)]);
        let (speaks, text) = text(judge(&mine, Some(&all), SECOND));
        assert!(speaks);
        assert!(text.contains("12 s: rank 2 on n2 is late, in exchange after step 120, at file logs/part-3"), "{text}");
    }

    #[test]
    fn where_all_wait_the_fewest_calls_are_late() {
        let mine = record(0, 12, true, 9);
        let all = seen(&[mine.clone(), record(1, 11, true, 8), record(2, 11, true, 9)]);
        let (_, text) = text(judge(&mine, Some(&all), SECOND));
        assert!(text.contains("12 s: rank 1 on n1 is late") && text.contains("\n  2 ranks wait"), "{text}");
    }

    #[test]
    fn a_run_folder_that_does_not_answer_is_named() {
        let mine = record(5, 10, true, 9);
        let (speaks, text) = text(judge(&mine, Some(&[]), SECOND));
        assert!(speaks);
        assert!(text.contains("`watchdog` in the run folder cannot be read"), "{text}");
    }

    #[test]
    fn a_start_that_hangs_is_ended_by_every_rank() {
        let mut mine = record(0, 10, false, 0);
        mine.pulse.stage = "start".to_string();
        let (speaks, text) = text(judge(&mine, None, SECOND));
        assert!(speaks);
        assert!(text.starts_with("nothing has moved for 10 s") && text.contains("start after step"), "{text}");
    }

    #[test]
    fn a_rank_alone_that_waits_lets_the_late_one_speak_first() {
        let spoken = |waits| text(judge(&record(1, 10, waits, 4), None, SECOND));
        let ((late, place), (waiting, _)) = (spoken(false), spoken(true));
        assert!(late && !waiting);
        assert!(place.contains("logs/part-3.parquet, row group 7") && place.contains("--watchdog"), "{place}");
    }

    #[test]
    fn many_late_ranks_are_counted() {
        let mine = record(0, 12, true, 9);
        let all: Vec<Record> = (1..20).map(|rank| record(rank, 11, false, 8)).collect();
        let (_, text) = text(judge(&mine, Some(&seen(&[&[mine.clone()][..], &all].concat())), SECOND));
        assert!(
            text.contains("rank 8 on n8") && !text.contains("rank 9 on n9") && text.contains("and 11 more"),
            "{text}"
        );
    }

    #[test]
    fn lines_that_do_not_change_are_counted() {
        let line = |look| Some(Record { look, ..record(0, 1, true, 1) });
        let first = compare(Vec::new(), vec![line(1), None]);
        let second = compare(first, vec![line(1), None]);
        let third = compare(second.clone(), vec![line(2), None]);
        let unchanged = |seen: &[Seen]| -> Vec<u32> { seen.iter().map(|rank| rank.unchanged).collect() };
        assert_eq!((unchanged(&second), unchanged(&third)), (vec![1, 1], vec![0, 2]));
        assert!(compare(third, Vec::new()).is_empty());
    }
}
