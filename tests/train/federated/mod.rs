//! Clients that train on rows of their own and share parameters.

mod leaves;
mod mapping;
mod methods;
mod program;
mod resume;
mod scenarios;

use crate::common::job::{Workplace, newest};
use crate::common::log;
use crate::common::state::State;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use tandem::comm::{Comm, threads};
use tandem::config::Checked;
use tandem::data::store::Local;
use tandem::federated::Federation;
use tandem::federated::events::{Notice, Observer};
use tandem::train::run::Ending;

/// Three clients, each with a folder. A bias in front of batch norm has no gradient but rounding errors, of which an adaptive
/// optimizer would make full steps: hence momentum.
pub const JOB: &str = "
name: clients
data: {train: train, valid: valid, test: test, shuffle_window: 20}
features:
  - {name: user, kind: categorical, dim: 4}
  - {name: item, kind: categorical, dim: 4}
  - {name: age, kind: numeric, transform: standardize}
  - {name: price, kind: numeric, transform: log1p}
tasks:
  - {name: click, label: click}
  - {name: buy, label: buy, where: click}
model: {kind: pf_msmtrec, experts: 2, expert: [6, 5], tower: [4]}
optimizer: {dense: {kind: sgd, lr: 0.05, momentum: 0.9}}
federated:
  method: pf_msmtrec
  rounds: 3
  clients: [{name: a, root: a}, {name: b, root: b}, {name: c, root: c}]
train: {global_batch: 16, eval: {best: {metric: logloss}}}
checkpoint: {buckets: 16}
";

pub const CLIENTS: [&str; 3] = ["a", "b", "c"];

/// Clients with different rows, and different numbers of them.
pub fn place() -> Workplace {
    let place = Workplace::new(JOB);
    for (i, (name, rows)) in CLIENTS.iter().zip([70, 50, 90]).enumerate() {
        let start = 1000 * i as u64;
        for (split, from, rows) in [("train", 0, rows), ("valid", 300, 40), ("test", 500, 40)] {
            let path = place.path(&format!("{name}/{split}/0.parquet"));
            log::write(&path, log::columns(start + from..start + from + rows), 31);
        }
    }
    place
}

/// How a federation is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub resume: bool,
    /// Rank 0 asks to stop from this question on.
    pub stop_after: Option<u64>,
    pub threads: threads::Options,
}

/// What one rank saw.
#[derive(Debug)]
pub struct Seen {
    pub ending: Ending,
    /// On rank 0.
    pub notices: Vec<Notice>,
}

pub fn try_run(job: &Checked, ranks: usize, run_dir: &Path, how: How) -> Vec<tandem::Result<Seen>> {
    threads::run(ranks, how.threads, |comm| run_rank(comm, job, run_dir, how))
}

/// What rank 0 saw, where no rank may fail.
pub fn run(job: &Checked, ranks: usize, run_dir: &Path, how: How) -> Seen {
    let seen = try_run(job, ranks, run_dir, how).into_iter();
    let mut seen: Vec<Seen> = seen.map(|rank| rank.unwrap_or_else(|error| panic!("{error}"))).collect();
    assert!(seen.iter().all(|rank| rank.ending == seen[0].ending), "{seen:?}");
    seen.swap_remove(0)
}

/// What one rank does.
pub fn run_rank(comm: Comm, job: &Checked, run_dir: &Path, how: How) -> tandem::Result<Seen> {
    let mut federation = Federation::prepare(comm.clone(), job.clone(), Arc::new(Local), run_dir, how.resume)?;
    let mut notices = Notices::default();
    let asked = Cell::new(0);
    let ending = federation.train(&mut notices, &|| {
        asked.set(asked.get() + 1);
        comm.rank() == 0 && how.stop_after.is_some_and(|after| asked.get() >= after)
    })?;
    if ending != Ending::Signal {
        federation.test(&mut notices)?;
    }
    Ok(Seen { ending, notices: notices.0 })
}

#[derive(Default)]
struct Notices(Vec<Notice>);

impl Observer for Notices {
    fn notice(&mut self, notice: &Notice) -> tandem::Result<()> {
        self.0.push(notice.clone());
        Ok(())
    }
}

/// The newest checkpoint of each client.
pub fn states(run_dir: &Path) -> Vec<State> {
    CLIENTS.iter().map(|name| State::read(&newest(&run_dir.join("clients").join(name)))).collect()
}

/// The state with the parameters and buffers alone whose name `keep` likes.
pub fn only(state: &State, keep: impl Fn(&str) -> bool) -> Vec<(String, Vec<f32>)> {
    let own = state.dense.iter().filter(|(name, _)| !name.starts_with("optimizer.") && keep(name));
    own.map(|(name, values)| (name.clone(), values.clone())).collect()
}
