//! Who the clients are, and the job of each.
//!
//! Clients have folders of their own, as in a real federation; or a log with a column of scenarios is parted into such folders once, in
//! `RUN_DIR/data/<scenario>/{train,valid,test}`, as if they had.

use crate::comm::{Comm, collectives};
use crate::config::Checked;
use crate::config::job::{Data, Federated, Job, Paths};
use crate::data::partition::part;
use crate::data::plan::Plan;
use crate::data::reader::{Columns, Files};
use crate::data::scenarios::Scenarios;
use crate::data::schema::{Purpose, Schema};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::random;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checkpoints that a client keeps at least: that of the last whole round must outlive the next one's.
const LEAST_KEPT: usize = 2;

/// The splits of a log, in order.
const SPLITS: [&str; 3] = ["train", "valid", "test"];

/// One client, before it is prepared.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it trains: an ordinary job on its own rows.
    pub job: Checked,
}

/// The clients of `job`, in order: those that it lists, or one for each scenario. Collective.
///
/// # Errors
/// Fewer than two.
pub fn of(world: &Comm, job: &Job, store: &Arc<dyn Store>, run_dir: &Path) -> Result<Vec<Member>> {
    let federated = job.federated.as_ref().ok_or_else(|| Error::internal("a job without `federated`"))?;
    let members = match federated.clients.is_empty() {
        false => listed(job, federated),
        true => {
            let parted = parted(world, job, store, run_dir)?;
            parted.members(job, &run_dir.join("data"))
        }
    };
    let members = collectives::agree(world.as_ref(), members)?;
    match members.len() {
        0 | 1 => Err(Error::job("one client has nobody to learn from")
            .at("key", "federated")
            .fix("list more clients, or name a column with more values in `data.scenario`")
            .agreed()),
        _ => Ok(members),
    }
}

/// The clients that the job lists.
fn listed(job: &Job, federated: &Federated) -> Result<Vec<Member>> {
    let member = |client: &crate::config::job::Client| {
        let base = Path::new(job.data.root.as_deref().unwrap_or(""));
        let root = Some(base.join(&client.root).display().to_string());
        Ok(Member { name: client.name.clone(), job: own_job(job, &client.name, Data { root, ..job.data.clone() })? })
    };
    federated.clients.iter().map(member).collect()
}

/// The job of the client `name`, whose rows are `data`. How long it trains, when it is evaluated and when it stops is the
/// federation's business.
fn own_job(job: &Job, name: &str, data: Data) -> Result<Checked> {
    let data = Data { scenario: None, ..data };
    let mut own = Job { name: name.to_string(), federated: None, run_dir: None, data, ..job.clone() };
    own.train.max_steps = None;
    own.train.eval.stop = None;
    own.checkpoint.keep = own.checkpoint.keep.max(LEAST_KEPT);
    Checked::new(own)
}

/// What is in `RUN_DIR/data`, as its `parted.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Parted {
    /// Names the log: its files and their sizes, and the column.
    log: String,
    /// The folder of each scenario, and its rows in each split.
    scenarios: Vec<(String, [u64; 3])>,
}

const PARTED: &str = "parted.json";

/// Parts the log by its scenarios, unless that was done before. Collective.
fn parted(world: &Comm, job: &Job, store: &Arc<dyn Store>, run_dir: &Path) -> Result<Parted> {
    let comm = world.as_ref();
    let open = |split: &str, columns| -> Result<Option<Files>> {
        let (paths, purpose) = match split {
            "train" => (Some(&job.data.train), Purpose::Train),
            "valid" => (job.data.valid.as_ref(), Purpose::Evaluate),
            _ => (job.data.test.as_ref(), Purpose::Evaluate),
        };
        let Some(paths) = paths else { return Ok(None) };
        let schema = collectives::agree(comm, Schema::new(job, purpose))?;
        let plan = Plan::read(comm, store.as_ref(), &job.data.resolve(paths), &schema)?;
        Ok(Some(Files::new(store.clone(), Arc::new(plan), Arc::new(schema), columns)))
    };
    let splits = SPLITS.iter().map(|split| open(split, Columns::All)).collect::<Result<Vec<Option<Files>>>>()?;
    let log = fingerprint(job, &splits);
    let (whole, partial) = (run_dir.join("data"), run_dir.join("data.partial"));
    if let Some(before) = collectives::agree(comm, before(&whole, &log))? {
        return Ok(before);
    }
    let cleared = if world.rank() == 0 { clear(&[&whole, &partial]) } else { Ok(()) };
    collectives::agree(comm, cleared)?;
    let needed = open("train", Columns::Needed)?;
    let collected = needed.as_ref().map(|files| Scenarios::collect(comm, files)).transpose()?;
    let scenarios = collected.flatten().ok_or_else(|| Error::internal("a log without scenarios is parted"))?;
    let mut parted =
        Parted { log, scenarios: scenarios.names().iter().map(|name| (folder_name(name), [0; 3])).collect() };
    for (s, (split, files)) in SPLITS.iter().zip(&splits).enumerate() {
        let Some(files) = files else { continue };
        let folder = |number: usize| partial.join(&parted.scenarios[number].0).join(split);
        let rows = part(comm, files, &scenarios, &folder)?;
        parted.scenarios.iter_mut().zip(rows).for_each(|((_, counts), rows)| counts[s] = rows);
    }
    let finished = if world.rank() == 0 { parted.finish(&partial, &whole) } else { Ok(()) };
    collectives::agree(comm, finished)?;
    Ok(parted)
}

/// What an earlier run made of the same log, if it got to the end.
fn before(whole: &Path, log: &str) -> Result<Option<Parted>> {
    let path = whole.join(PARTED);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let parted: Option<Parted> = serde_json::from_slice(&text).ok();
    Ok(parted.filter(|parted| parted.log == log))
}

fn clear(folders: &[&PathBuf]) -> Result<()> {
    let mut there = folders.iter().filter(|folder| folder.exists());
    there.try_for_each(|folder| std::fs::remove_dir_all(folder).map_err(|e| Error::io("clearing", folder, &e)))
}

fn fingerprint(job: &Job, splits: &[Option<Files>]) -> String {
    let files = splits.iter().flatten().flat_map(|files| &files.plan().files);
    let numbers: Vec<u64> = files.flat_map(|file| [random::text(&file.path), file.bytes]).collect();
    format!("{:016x}", random::hash(random::text(job.data.scenario.as_deref().unwrap_or_default()), &numbers))
}

/// A scenario's name as that of a folder; where it cannot be one, letters are replaced and a hash tells it from others.
fn folder_name(name: &str) -> String {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    if !name.is_empty()
        && name.len() <= 60
        && name.chars().all(fine)
        && !name.starts_with(['.', ' '])
        && !name.ends_with(' ')
    {
        return name.to_string();
    }
    let kept: String = name.chars().take(20).map(|c| if fine(c) && c != '.' && c != ' ' { c } else { '_' }).collect();
    format!("{kept}-{:08x}", random::text(name) as u32)
}

impl Parted {
    fn finish(&self, partial: &Path, whole: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::internal(format!("{PARTED}: {e}")))?;
        let path = partial.join(PARTED);
        std::fs::write(&path, text).map_err(|e| Error::io("writing", &path, &e))?;
        std::fs::rename(partial, whole).map_err(|e| Error::io("finishing", whole, &e))
    }

    /// A client for each scenario.
    fn members(&self, job: &Job, folder: &Path) -> Result<Vec<Member>> {
        let member = |(name, rows): &(String, [u64; 3])| {
            let path = |split: usize| {
                let path = folder.join(name).join(SPLITS[split]).display().to_string();
                (rows[split] > 0).then_some(Paths::One(path))
            };
            let train = path(0).ok_or_else(|| Error::internal(format!("scenario {name} has no rows")))?;
            let data = Data { root: None, train, valid: path(1), test: path(2), ..job.data.clone() };
            Ok(Member { name: name.clone(), job: own_job(job, name, data)? })
        };
        self.scenarios.iter().map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_name_folders() {
        assert_eq!([folder_name("25"), folder_name("page A")], ["25", "page A"]);
        let odd =
            [folder_name("a/b"), folder_name("a:b"), folder_name(""), folder_name(".."), folder_name(&"x".repeat(200))];
        for (i, name) in odd.iter().enumerate() {
            assert!(!name.contains(['/', ':', '.']) && name.len() < 40 && !odd[..i].contains(name), "{odd:?}");
        }
    }
}
