//! Where the time of a run goes: seconds and calls of each stage, over all ranks.

use crate::comm::{Communicator, collectives};
use crate::error::Result;
use crate::pulse;
use serde::Serialize;
use std::cell::Cell;
use std::fmt;
use std::time::Instant;

/// A part of the work whose time is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for the readers to finish the next batch.
    DecodeWait,
    /// Ids and embedding rows between ranks.
    Exchange,
    Forward,
    Backward,
    /// Gradients and parameters of the dense part between ranks.
    Reduce,
    /// Gram matrix and task weights.
    Balance,
    /// Updates of dense parameters and of table rows.
    Optimizer,
    Eval,
    Checkpoint,
}

impl Stage {
    /// Every stage, in the order of the report.
    pub const ALL: [Stage; 9] = [
        Stage::DecodeWait,
        Stage::Exchange,
        Stage::Forward,
        Stage::Backward,
        Stage::Reduce,
        Stage::Balance,
        Stage::Optimizer,
        Stage::Eval,
        Stage::Checkpoint,
    ];

    /// The stage's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::DecodeWait => "decode wait",
            Stage::Exchange => "exchange",
            Stage::Forward => "forward",
            Stage::Backward => "backward",
            Stage::Reduce => "reduce",
            Stage::Balance => "balance",
            Stage::Optimizer => "optimizer",
            Stage::Eval => "eval",
            Stage::Checkpoint => "checkpoint",
        }
    }
}

/// With more ranks than this a summary has no numbers of single ones.
const MOST_RANKS: usize = 64;

const STAGES: usize = Stage::ALL.len();

/// This rank's stop watch. One reading of the clock at each end of a stage.
#[derive(Debug)]
pub struct Stages {
    started: Instant,
    totals: [Cell<Total>; STAGES],
    busy: Cell<bool>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Total {
    seconds: f64,
    calls: u64,
}

impl Default for Stages {
    fn default() -> Self {
        Self::start()
    }
}

impl Stages {
    /// Starts the clock of the whole run.
    pub fn start() -> Self {
        Self { started: Instant::now(), totals: Default::default(), busy: Cell::new(false) }
    }

    /// Runs `body` and books its time. Inside another stage it books nothing, so that the forward passes
    /// of an evaluation count as evaluation and no second counts twice.
    pub fn time<T>(&self, stage: Stage, body: impl FnOnce() -> T) -> T {
        let _guard = self.guard(stage);
        body()
    }

    /// Books the time until the guard is dropped, as [`time`](Self::time) does.
    #[must_use]
    pub fn guard(&self, stage: Stage) -> Guard<'_> {
        let outermost = !self.busy.replace(true);
        if outermost {
            pulse::enter(stage.name());
        }
        Guard { stages: self, running: outermost.then(|| (stage, Instant::now())) }
    }

    /// The times of all ranks since the start. Collective.
    pub fn summary(&self, comm: &dyn Communicator) -> Result<Summary> {
        let traffic = comm.traffic();
        let mut mine = vec![self.started.elapsed().as_secs_f64(), traffic.sent_bytes as f64, traffic.seconds];
        mine.extend(self.totals.iter().flat_map(|total| [total.get().seconds, total.get().calls as f64]));
        let mut all = vec![0.0f64; mine.len() * comm.size()];
        collectives::all_gather_into(comm, &mine, &mut all)?;
        let over_ranks = |i: usize| OverRanks::of(all.iter().skip(i).step_by(mine.len()).copied());
        let by_rank = |i: usize| match comm.size() {
            ..=MOST_RANKS => all.iter().skip(i).step_by(mine.len()).copied().collect(),
            _ => Vec::new(),
        };
        let row = |(i, &stage): (usize, &Stage)| Row {
            stage,
            seconds: over_ranks(3 + 2 * i),
            by_rank: by_rank(3 + 2 * i),
            calls: over_ranks(4 + 2 * i).max as u64,
        };
        Ok(Summary {
            ranks: comm.size(),
            wall_s: over_ranks(0),
            sent_bytes: over_ranks(1),
            comm_s: over_ranks(2),
            comm_by_rank: by_rank(2),
            rows: Stage::ALL.iter().enumerate().map(row).filter(|row| row.calls > 0).collect(),
        })
    }
}

/// Books a stage's time when it is dropped.
#[derive(Debug)]
pub struct Guard<'a> {
    stages: &'a Stages,
    running: Option<(Stage, Instant)>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some((stage, since)) = self.running {
            let total = &self.stages.totals[stage as usize];
            let Total { seconds, calls } = total.get();
            total.set(Total { seconds: seconds + since.elapsed().as_secs_f64(), calls: calls + 1 });
            self.stages.busy.set(false);
            pulse::enter("other");
        }
    }
}

/// A number of each rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverRanks {
    pub mean: f64,
    pub max: f64,
}

impl OverRanks {
    fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        Self { mean: values.clone().sum::<f64>() / values.len() as f64, max: values.fold(0.0, f64::max) }
    }
}

/// Where the time went, over all ranks. Prints as a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub ranks: usize,
    /// Seconds from start to now.
    pub wall_s: OverRanks,
    /// Stages that ran on any rank.
    #[serde(rename = "stages")]
    pub rows: Vec<Row>,
    /// Bytes that a rank sent to others.
    pub sent_bytes: OverRanks,
    /// Seconds inside collective calls, waiting included; part of the stages' times.
    pub comm_s: OverRanks,
    /// The same of each rank; empty where there are more than 64.
    pub comm_by_rank: Vec<f64>,
}

/// One stage of a [`Summary`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub stage: Stage,
    pub seconds: OverRanks,
    /// Seconds of each rank; empty where there are more than 64.
    pub by_rank: Vec<f64>,
    pub calls: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |seconds: f64| 100.0 * seconds / self.wall_s.mean.max(f64::MIN_POSITIVE);
        writeln!(f, "{:<12} {:>10} {:>10} {:>7} {:>9}", "stage", "mean s", "max s", "share", "calls")?;
        for Row { stage, seconds: OverRanks { mean, max }, calls, .. } in &self.rows {
            writeln!(f, "{:<12} {mean:>10.2} {max:>10.2} {:>6.1}% {calls:>9}", stage.name(), share(*mean))?;
        }
        let other = (self.wall_s.mean - self.rows.iter().map(|row| row.seconds.mean).sum::<f64>()).max(0.0);
        writeln!(f, "{:<12} {other:>10.2} {:>10} {:>6.1}%", "other", "", share(other))?;
        writeln!(f, "{:<12} {:>10.2} {:>10.2} {:>6.1}%", "total", self.wall_s.mean, self.wall_s.max, 100.0)?;
        if self.ranks > 1 {
            let sent_mb = self.sent_bytes.mean / 1e6;
            writeln!(
                f,
                "each of {} ranks sent {sent_mb:.1} MB, and was {:.2} s in calls to others",
                self.ranks, self.comm_s.mean
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::solo::Solo;
    use crate::comm::threads;

    fn book(stages: &Stages, stage: Stage, seconds: f64, calls: u64) {
        stages.totals[stage as usize].set(Total { seconds, calls });
    }

    #[test]
    fn every_stage_has_its_own_place() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i, "{}", stage.name());
        }
    }

    #[test]
    fn the_outermost_stage_gets_the_time_and_the_call() {
        let stages = Stages::start();
        let answer = stages.time(Stage::Eval, || stages.time(Stage::Forward, || 42));
        stages.time(Stage::Forward, || ());
        drop(stages.guard(Stage::Forward));
        assert_eq!(answer, 42);
        let calls = |stage: Stage| stages.totals[stage as usize].get().calls;
        assert_eq!((calls(Stage::Eval), calls(Stage::Forward), calls(Stage::Backward)), (1, 2, 0));
        assert!(stages.totals[Stage::Eval as usize].get().seconds > 0.0);
    }

    #[test]
    fn the_summary_is_the_mean_and_maximum_over_ranks() {
        let summaries = threads::run(3, threads::Options::default(), |comm| {
            let stages = Stages::start();
            book(&stages, Stage::Exchange, comm.rank() as f64, 10);
            if comm.rank() == 2 {
                book(&stages, Stage::Checkpoint, 6.0, 1);
            }
            stages.summary(comm.as_ref())
        });
        for summary in summaries {
            let rows = summary.expect("no rank fails").rows;
            let expected = [
                Row {
                    stage: Stage::Exchange,
                    seconds: OverRanks { mean: 1.0, max: 2.0 },
                    by_rank: vec![0.0, 1.0, 2.0],
                    calls: 10,
                },
                Row {
                    stage: Stage::Checkpoint,
                    seconds: OverRanks { mean: 2.0, max: 6.0 },
                    by_rank: vec![0.0, 0.0, 6.0],
                    calls: 1,
                },
            ];
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn the_table_is_aligned_and_adds_up() {
        let stages = Stages::start();
        book(&stages, Stage::DecodeWait, 2.5, 1000);
        let mut summary = stages.summary(&Solo).expect("one rank cannot fail");
        summary.wall_s = OverRanks { mean: 10.0, max: 10.0 };
        let expected = "\
stage            mean s      max s   share     calls
decode wait        2.50       2.50   25.0%      1000
other              7.50              75.0%
total             10.00      10.00  100.0%
";
        assert_eq!(summary.to_string(), expected);
        summary.ranks = 4;
        assert!(summary.to_string().ends_with("each of 4 ranks sent 0.0 MB, and was 0.00 s in calls to others\n"));
    }
}
