//! Knowledge of scenarios and users as vectors: what `tandem knowledge` writes and `model: {kind: llm4msr}` reads.
//!
//! ```text
//! training log ──collect──► tallies of scenarios and users ──prompt──► texts ──encoder──► vectors
//! OUT/user.parquet          key | text | vector                        sorted by (bucket, key)
//! OUT/scenario.parquet      key | users | rows | text | vector | user_mean
//! ```
//!
//! | file | what |
//! |---|---|
//! | `template` | the YAML file: what is counted and how it is said |
//! | `value`, `tally` | what columns hold, and counts that merge in any order |
//! | `collect` | passes over the training log, split over the ranks |
//! | `prompt` | tallies as the facts that a text may use |
//! | `encoder` | text to vector, by a model in the Hugging Face layout |
//! | `output`, `vectors` | the Parquet files, written and read |
//!
//! Only the training rows are read: no label of `valid` or `test` reaches a text.

mod collect;
#[cfg(feature = "encoder")]
pub mod encoder;
mod output;
mod prompt;
mod tally;
pub mod template;
#[cfg(test)]
mod tests;
mod value;
mod vectors;

pub use template::Template;
pub use value::Value;
pub use vectors::{VectorFile, Vectors};

use self::collect::{Log, decoded, encoded};
use self::output::{Described, UserFile, UserRow};
use self::prompt::Writer;
use self::tally::{ScenarioTally, UserTally};
use crate::comm::{Communicator, collectives};
use crate::config::Job;
use crate::data::store::Store;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Texts that are encoded between two words of progress.
const ENCODED_AT_A_TIME: usize = 256;
/// Users that travel to rank 0 in one message.
const SENT_AT_A_TIME: usize = 4096;

/// Makes a vector of a text.
pub trait Encode: Sync {
    /// Length of a vector.
    fn dim(&self) -> usize;

    /// The vector of one text, which depends on nothing else.
    fn encode(&self, text: &str) -> Result<Vec<f32>>;

    /// What it is, for the metadata of the files: the model, the pooling.
    fn describe(&self) -> String;
}

/// What is to be written.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The job whose training rows are read.
    pub job: &'a Job,
    /// What is counted and said.
    pub template: &'a Template,
    /// Folder of the files.
    pub out: &'a Path,
    /// Passes over the log; each holds its part of the users in memory.
    pub passes: usize,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rows of the log.
    pub rows: u64,
    /// Scenarios.
    pub scenarios: u64,
    /// Users.
    pub users: u64,
    /// Length of a vector.
    pub dim: usize,
}

/// Writes texts and vectors of all scenarios and users. The files are the same, to the bit, at any number of ranks
/// and passes. `progress` is told how many texts this rank has encoded in this pass, and how many it will. Collective.
///
/// # Errors
/// Files that are there already, a template that names columns or tasks that are not there, and what reading,
/// encoding and writing find.
pub fn write(
    comm: &dyn Communicator,
    store: Arc<dyn Store>,
    request: Request,
    encoder: &dyn Encode,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary> {
    let Request { job, template, out, passes } = request;
    let prepared = if comm.rank() == 0 { output::prepare(out) } else { Ok(()) };
    collectives::agree(comm, prepared)?;
    let log = Log::open(comm, store, job, template)?;
    let writer = collectives::agree(comm, Writer::new(template, &log.tasks, &log.scenario))?;
    let creates = comm.rank() == 0 && template.user.is_some();
    let file = creates.then(|| UserFile::create(out, encoder));
    let mut users = Users { comm, file, dim: encoder.dim(), means: Means::default() };
    let mut scenarios: BTreeMap<Value, ScenarioTally> = BTreeMap::new();
    let mut all = ScenarioTally::default();
    // Without users there is nothing to divide.
    let passes = if template.user.is_some() { passes.max(1) } else { 1 };
    for pass in 0..passes {
        let found = log.read(comm, pass, passes)?;
        let described = describe(&found.users, &writer, encoder, progress);
        users.write(&collectives::agree(comm, described)?)?;
        // Every pass sees all rows, and the users of its own.
        for (key, found) in found.scenarios {
            let known = scenarios.entry(key).or_default();
            *known = ScenarioTally { users: known.users + found.users, rows: found.rows };
        }
        all = ScenarioTally { users: all.users + found.all.users, rows: found.all.rows };
    }
    let finished = users.finish();
    let means = collectives::agree(comm, finished)?;
    let summary =
        Summary { rows: all.rows.rows, scenarios: scenarios.len() as u64, users: all.users, dim: encoder.dim() };
    // They are few, and their file is the last: where it is, the other is whole.
    let written = match comm.rank() {
        0 => write_scenarios(out, &scenarios, &all, means, &writer, encoder),
        _ => Ok(()),
    };
    collectives::agree(comm, written)?;
    Ok(summary)
}

/// Texts and vectors of this rank's users. Texts are encoded one on each thread: then nothing is padded, and a vector
/// does not depend on which other texts there are.
fn describe(
    users: &[UserTally],
    writer: &Writer,
    encoder: &dyn Encode,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<UserRow>> {
    let one = |user: &UserTally| {
        let text = writer.user(user)?;
        let vector = checked(encoder.encode(&text)?, encoder.dim(), &text)?;
        let scenarios = user.scenarios.keys().flatten().cloned().collect();
        Ok(UserRow { key: user.key.clone(), scenarios, text, vector })
    };
    let mut described = Vec::with_capacity(users.len());
    for part in users.chunks(ENCODED_AT_A_TIME) {
        described.extend(part.par_iter().map(one).collect::<Result<Vec<_>>>()?);
        progress(described.len(), users.len());
    }
    Ok(described)
}

/// A vector of zeros stands for a user that is not known: no encoder may give one.
fn checked(vector: Vec<f32>, dim: usize, text: &str) -> Result<Vec<f32>> {
    let usable = vector.len() == dim && vector.iter().all(|x| x.is_finite()) && vector.iter().any(|&x| x != 0.0);
    if usable {
        return Ok(vector);
    }
    Err(Error::data("the encoder gives no finite vector other than zero for a text")
        .at("text", text)
        .fix("use another encoder or template"))
}

fn write_scenarios(
    out: &Path,
    scenarios: &BTreeMap<Value, ScenarioTally>,
    all: &ScenarioTally,
    means: Means,
    writer: &Writer,
    encoder: &dyn Encode,
) -> Result<()> {
    let pairs: Vec<(&Value, &ScenarioTally)> = scenarios.iter().collect();
    let one = |&(key, tally): &(&Value, &ScenarioTally)| {
        let text = writer.scenario(key, tally, all)?;
        let vector = checked(encoder.encode(&text)?, encoder.dim(), &text)?;
        let user_mean = means.of(key);
        Ok(Described { key: key.clone(), users: tally.users, rows: tally.rows.rows, text, vector, user_mean })
    };
    let described = pairs.par_iter().map(one).collect::<Result<Vec<_>>>()?;
    output::write_scenarios(out, &described, means.dim > 0, encoder)
}

/// Sums of the vectors of each scenario's users, added in the order of the file.
#[derive(Debug, Default)]
struct Means {
    dim: usize,
    sums: BTreeMap<Value, (u64, Vec<f64>)>,
}

impl Means {
    fn add(&mut self, user: &UserRow) {
        self.dim = user.vector.len();
        for scenario in &user.scenarios {
            let (users, sum) = self.sums.entry(scenario.clone()).or_insert_with(|| (0, vec![0.0; user.vector.len()]));
            *users += 1;
            sum.iter_mut().zip(&user.vector).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }

    /// The mean of the users of a scenario; zeros if it has none.
    fn of(&self, scenario: &Value) -> Vec<f32> {
        match self.sums.get(scenario) {
            Some((users, sum)) => sum.iter().map(|sum| (sum / *users as f64) as f32).collect(),
            None => vec![0.0; self.dim],
        }
    }
}

/// The users on their way to the file, which rank 0 writes.
struct Users<'a> {
    comm: &'a dyn Communicator,
    file: Option<UserFile>,
    dim: usize,
    means: Means,
}

/// A user in a message; the vectors follow as numbers.
#[derive(Serialize, Deserialize)]
struct Sent {
    key: Value,
    scenarios: Vec<Value>,
    text: String,
}

impl Users<'_> {
    /// Writes the users of a pass: those of rank 0, then those of rank 1, and so on. Collective.
    fn write(&mut self, mine: &[UserRow]) -> Result<()> {
        let parts = [mine.len().div_ceil(SENT_AT_A_TIME) as u64];
        let (parts, _) = collectives::all_gather(self.comm, &parts)?;
        for (rank, &parts) in parts.iter().enumerate() {
            for part in 0..parts as usize {
                let part = match rank == self.comm.rank() {
                    true => mine.chunks(SENT_AT_A_TIME).nth(part).unwrap_or_default(),
                    false => &[],
                };
                let received = self.to_rank_0(part)?;
                let written = received.into_iter().try_for_each(|row| self.add(row));
                collectives::agree(self.comm, written)?;
            }
        }
        Ok(())
    }

    /// What the one rank that has `rows` sends, on rank 0.
    fn to_rank_0(&self, rows: &[UserRow]) -> Result<Vec<UserRow>> {
        let sent =
            |row: &UserRow| Sent { key: row.key.clone(), scenarios: row.scenarios.clone(), text: row.text.clone() };
        let texts = if rows.is_empty() { Vec::new() } else { encoded(&rows.iter().map(sent).collect::<Vec<_>>())? };
        let vectors: Vec<f32> = rows.iter().flat_map(|row| row.vector.iter().copied()).collect();
        let only_0 = |count: usize| {
            let mut counts = vec![0; self.comm.size()];
            counts[0] = count;
            counts
        };
        let (texts, _) = collectives::all_to_all(self.comm, &texts, &only_0(texts.len()))?;
        let (vectors, _) = collectives::all_to_all(self.comm, &vectors, &only_0(vectors.len()))?;
        let rows: Vec<Sent> = if texts.is_empty() { Vec::new() } else { decoded(&texts)? };
        let whole = |(Sent { key, scenarios, text }, vector): (Sent, &[f32])| UserRow {
            key,
            scenarios,
            text,
            vector: vector.to_vec(),
        };
        Ok(rows.into_iter().zip(vectors.chunks(self.dim.max(1))).map(whole).collect())
    }

    fn add(&mut self, row: UserRow) -> Result<()> {
        self.means.add(&row);
        match &mut self.file {
            Some(file) => file.add(row),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Means> {
        if let Some(file) = self.file {
            file.finish()?;
        }
        Ok(self.means)
    }
}
