//! `tandem train` of a job with clients.

use super::train::replace;
use super::{EXIT_STOPPED, Voice};
use crate::comm::{Comm, collectives};
use crate::config::{self, Checked};
use crate::data::store::Local;
use crate::error::Result;
use crate::federated::events::{Notice, Observer, Start};
use crate::federated::{Federation, Report};
use crate::metric::{self, TaskReport};
use crate::observe::{Events, Terminal};
use crate::train::run::Ending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Trains the clients of `job`.
pub fn train(
    comm: Comm,
    job: Checked,
    run_dir: &Path,
    (resume, dry_run): (bool, bool),
    (voice, terminal): (Voice, &Terminal),
    stop: &AtomicBool,
) -> Result<i32> {
    let mut federation = Federation::prepare(comm.clone(), job, Arc::new(Local), run_dir, resume)?;
    let start = federation.start_notice();
    let speaks = comm.rank() == 0 && !voice.quiet;
    if speaks {
        terminal.line(&banner(&start, run_dir));
    }
    if dry_run {
        if comm.rank() == 0 {
            super::print(&config::to_yaml(&federation.job)?)?;
        }
        if speaks {
            terminal.line("The job is sound; --dry-run stops before the first round.");
        }
        return Ok(0);
    }
    let opened = Watcher::open(&comm, run_dir, &federation, &start, speaks.then_some(terminal));
    let mut watcher = collectives::agree(comm.as_ref(), opened)?;
    federation.tell(&mut watcher, Notice::Start(start))?;
    let ending = federation.train(&mut watcher, &|| stop.load(Ordering::Relaxed))?;
    if ending == Ending::Signal {
        return Ok(EXIT_STOPPED);
    }
    federation.test(&mut watcher)?;
    Ok(0)
}

/// What is about to run, and what leaves a client.
fn banner(start: &Start, run_dir: &Path) -> String {
    let resumed = if start.step > 0 { format!(", going on after round {}", start.step) } else { String::new() };
    let clients = start.clients.iter().map(|(name, rows)| format!("{name} ({rows} rows)"));
    let sent: u64 = start.sent.values().filter_map(serde_json::Value::as_u64).sum();
    let units = start.sent.iter().map(|(name, floats)| format!("{name} ({floats})"));
    format!(
        "{} in {}{resumed}\n  {} clients: {}\n  {} rounds of `{}` on {} ranks ({})\n  each client sends {sent} numbers a round, of {} \
         dense parameters: {}",
        start.job,
        run_dir.display(),
        start.clients.len(),
        clients.collect::<Vec<_>>().join(", "),
        start.total_steps,
        start.method,
        start.ranks,
        start.backend,
        start.dense_parameters,
        units.collect::<Vec<_>>().join(", "),
    )
}

/// Follows the federation on rank 0.
struct Watcher {
    events: Events,
    terminal: Option<Terminal>,
}

impl Watcher {
    fn open(
        comm: &Comm,
        run_dir: &Path,
        federation: &Federation,
        start: &Start,
        terminal: Option<&Terminal>,
    ) -> Result<Self> {
        let mut watcher = Self { events: Events::nowhere(), terminal: terminal.cloned() };
        if comm.rank() == 0 {
            replace(&run_dir.join("job.yaml"), &config::to_yaml(&federation.job)?)?;
            watcher.events = Events::resume(&run_dir.join("metrics.jsonl"), start.step)?;
        }
        Ok(watcher)
    }
}

/// The mean over the clients, then every client.
fn table(report: &Report) -> String {
    let of_client =
        |(name, tasks): &(String, Vec<TaskReport>)| format!("client {name}\n{}", metric::render_tasks(tasks));
    let clients = report.clients.iter().map(of_client);
    std::iter::once(format!("client mean\n{}", metric::render_tasks(&report.tasks))).chain(clients).collect()
}

impl Observer for Watcher {
    fn notice(&mut self, notice: &Notice) -> Result<()> {
        notice.write(&mut self.events)?;
        let Some(terminal) = &self.terminal else { return Ok(()) };
        match notice {
            Notice::Round(round) => {
                let epsilon = round.epsilon.map_or(String::new(), |epsilon| format!(", ε {epsilon:.2} so far"));
                terminal.line(&format!(
                    "round {}: {:.1} s of local training, {:.1} s of exchange{epsilon}",
                    round.step, round.local_s, round.exchange_s
                ));
            }
            Notice::Eval(evaluation) => {
                let table = table(&evaluation.report);
                terminal.line(&format!("{} after round {}\n{}", evaluation.split, evaluation.step, table.trim_end()));
            }
            Notice::Saved(saved) => {
                let best = if saved.best { ", the best so far" } else { "" };
                terminal.line(&format!("saved all clients in {}{best}", saved.path));
            }
            Notice::End(end) => {
                let why = match end.reason {
                    "early_stop" => "stopped early: no more improvement",
                    "signal" => "stopped by a signal; go on after the last whole round with --resume",
                    _ => "done",
                };
                terminal.line(&format!("{why} after round {} and {:.1} s", end.step, end.seconds));
                if let Some(privacy) = end.privacy {
                    terminal.line(&format!(
                        "what left each client is ({:.3}, {:e})-differentially private: ε = {:.3} at δ = {:e}",
                        privacy.epsilon, privacy.delta, privacy.epsilon, privacy.delta
                    ));
                }
            }
            Notice::Start(_) => {}
        }
        Ok(())
    }
}
