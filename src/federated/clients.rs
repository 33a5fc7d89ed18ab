//! Who the clients are, and the job of each.

use crate::config::Checked;
use crate::config::job::{Client, Data, Federated, Job};
use crate::error::Result;
use std::path::Path;

/// Checkpoints that a client keeps at least: that of the last whole round must outlive the next one's.
const LEAST_KEPT: usize = 2;

/// One client, before it is prepared.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it trains: an ordinary job on its own rows.
    pub job: Checked,
}

/// The clients that `job` lists, in order.
pub fn of(job: &Job, federated: &Federated) -> Result<Vec<Member>> {
    let member = |client: &Client| {
        let base = Path::new(job.data.root.as_deref().unwrap_or(""));
        let root = Some(base.join(&client.root).display().to_string());
        Ok(Member { name: client.name.clone(), job: own_job(job, &client.name, Data { root, ..job.data.clone() })? })
    };
    federated.clients.iter().map(member).collect()
}

/// The job of the client `name`, whose rows are `data`. How long it trains, when it is evaluated and when it stops is the
/// federation's business.
fn own_job(job: &Job, name: &str, data: Data) -> Result<Checked> {
    let mut own = Job { name: name.to_string(), federated: None, run_dir: None, data, ..job.clone() };
    own.train.max_steps = None;
    own.train.eval.stop = None;
    own.checkpoint.keep = own.checkpoint.keep.max(LEAST_KEPT);
    Checked::new(own)
}
