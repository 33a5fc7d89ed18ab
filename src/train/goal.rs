//! Which metric of which task decides: what is "best", and when to stop early.

use crate::config::job::{Job, TaskKind};
use crate::config::suggest;
use crate::error::{Error, Result};
use crate::metric::{TaskReport, higher_is_better, score};

/// A metric to improve, of one task or of the mean over tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    metric: String,
    task: String,
    higher: bool,
}

impl Goal {
    /// The goal of `train.eval.best`.
    pub fn best(job: &Job) -> Result<Self> {
        let best = &job.train.eval.best;
        Self::new(job, best.metric.as_deref(), &best.task, "train.eval.best")
    }

    /// The goal of `train.eval.stop`, if there is one.
    pub fn stop(job: &Job) -> Result<Option<Self>> {
        let stop = job.train.eval.stop.as_ref();
        stop.map(|stop| Self::new(job, stop.metric.as_deref(), &stop.task, "train.eval.stop")).transpose()
    }

    fn new(job: &Job, metric: Option<&str>, task: &str, key: &str) -> Result<Self> {
        let binary = job.tasks.iter().all(|t| t.kind == TaskKind::Binary);
        let metric = metric.unwrap_or(if binary { "auc" } else { "loss" });
        let higher = higher_is_better(metric).map_err(|error| error.at("key", format!("{key}.metric")))?;
        let names: Vec<&str> = job.tasks.iter().map(|t| t.name.as_str()).chain(["mean"]).collect();
        if !names.contains(&task) {
            return Err(Error::job(format!("unknown task `{task}`"))
                .at("key", format!("{key}.task"))
                .fix(suggest(task, &names, "tasks")));
        }
        Ok(Self { metric: metric.to_string(), task: task.to_string(), higher })
    }

    /// The value in `reports` if it is better than `before`. An undefined value (AUC of one class) never is.
    pub fn better(&self, reports: &[TaskReport], before: Option<f64>) -> Result<Option<f64>> {
        let value = score(reports, &self.metric, &self.task)?;
        let improves =
            |value: &f64| before.is_none_or(|before| if self.higher { *value > before } else { *value < before });
        Ok(value.filter(improves))
    }
}
