//! A run whose steps, evaluations and checkpoints somebody else decides: the local training of a client.

use super::Run;
use super::meter::Meter;
use crate::checkpoint::Progress;
use crate::comm::Comm;
use crate::error::Result;
use crate::metric::TaskReport;
use crate::train::events::{Notice, Observer};

/// What some steps of local training gave; the same on every rank of the run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Local {
    /// Steps taken.
    pub steps: u64,
    /// Mean loss of each task over the steps that had a label of it.
    pub losses: Vec<f64>,
    /// Whether a rank was asked to stop before the last step.
    pub stopped: bool,
}

/// Nobody listens to a single client's steps.
struct Unheard;

impl Observer for Unheard {
    fn notice(&mut self, _: &Notice) -> Result<()> {
        Ok(())
    }

    fn tick(&mut self, _: u64, _: u64, _: u64, _: &[f64]) {}
}

impl Run {
    /// The ranks of the run.
    pub fn comm(&self) -> &Comm {
        &self.comm
    }

    /// Steps taken since the start of training.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.layout.steps()
    }

    /// Training rows.
    pub fn rows(&self) -> u64 {
        self.layout.rows
    }

    /// Plans the run to have `total_steps` steps in all, which the learning rate's schedule is stretched over.
    pub fn plan(&mut self, total_steps: u64) {
        self.total_steps = total_steps;
    }

    /// Takes `steps` steps from where the run stands, and neither evaluates nor saves. Collective.
    pub fn take_steps(&mut self, steps: u64, stop_asked: &dyn Fn() -> bool) -> Result<Local> {
        let mut meter = Meter::new();
        let mut local = Local::default();
        let mut sums = vec![(0.0, 0u64); self.job.tasks.len()];
        while local.steps < steps && !local.stopped {
            self.reassign_rows()?;
            let mut loader = self.loader(self.cursor)?;
            while local.steps < steps && !local.stopped {
                let Some(batch) = self.next_batch(&mut loader)? else { break };
                let took = self.one_step((&batch, None), stop_asked(), &mut meter, &mut Unheard)?;
                loader.recycle(batch);
                if let Some(report) = &took.report {
                    for ((sum, count), (loss, present)) in
                        sums.iter_mut().zip(report.losses.iter().zip(&report.present))
                    {
                        *sum += if *present { *loss } else { 0.0 };
                        *count += u64::from(*present);
                    }
                }
                local.steps += 1;
                local.stopped = took.asks.stop && local.steps < steps;
            }
        }
        local.losses = sums.iter().map(|&(sum, count)| sum / count.max(1) as f64).collect();
        Ok(local)
    }

    /// Takes over parameters that were changed in the store. Collective.
    pub fn parameters_changed(&mut self) -> Result<()> {
        self.trainable.dense.reload(&self.trainable.store, self.comm.as_ref())
    }

    /// From the next step on adds the gradient of (`mu`/2)‖θ − θ*‖² for every parameter for which `towards`, by its number, has
    /// values θ*.
    pub fn pull(&mut self, mu: f64, towards: &[Option<Vec<f32>>]) -> Result<()> {
        self.trainable.dense.pull(&self.trainable.store, self.comm.as_ref(), mu, towards)
    }

    /// Metrics of the model as it stands on `data.valid`, if there is one. Collective.
    pub fn on_valid(&mut self) -> Result<Option<Vec<TaskReport>>> {
        let Some(valid) = self.valid.clone() else { return Ok(None) };
        let batch = self.job.train.eval.global_batch;
        let report = valid.evaluate(&self.comm, &mut self.trainable, &self.statistics, batch, &self.stages)?;
        Ok(Some(report.tasks))
    }

    /// Metrics of the best checkpoint on `data.test`, if there is one. Collective.
    pub fn on_test(&mut self) -> Result<Option<Vec<TaskReport>>> {
        Ok(self.test(&mut Unheard)?.map(|report| report.tasks))
    }

    /// Saves a checkpoint that says `progress`, and waits until it is there. Collective.
    pub fn save_as(&mut self, progress: Progress) -> Result<()> {
        self.progress = progress;
        self.save(&mut Unheard)?;
        self.finish_saving(&mut Unheard)
    }

    /// What the last checkpoint says of the evaluations so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}
