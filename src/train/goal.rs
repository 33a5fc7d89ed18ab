//! Which metric of which task decides: what is "best", and when to stop early.

use crate::config::job::{self, Job, TaskKind};
use crate::config::suggest;
use crate::error::{Error, Result};
use crate::metric::{self, TaskReport, higher_is_better, score};
use std::collections::BTreeSet;

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
        let default = default_metric(job);
        let metric = metric.unwrap_or(&default);
        let higher = higher_is_better(metric).map_err(|error| error.at("key", format!("{key}.metric")))?;
        let names: Vec<&str> = job.tasks.iter().map(|t| t.name.as_str()).chain(["mean"]).collect();
        if !names.contains(&task) {
            return Err(Error::job(format!("unknown task `{task}`"))
                .at("key", format!("{key}.task"))
                .fix(suggest(task, &names, "tasks")));
        }
        let of_task = |t: &&job::Task| task == "mean" || task == t.name;
        let known: BTreeSet<metric::Name> = job.tasks.iter().filter(of_task).flat_map(scores_of).collect();
        if !known.iter().any(|known| known == metric) {
            let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
            return Err(Error::job(format!(
                "`{metric}` is not defined for {}",
                if task == "mean" { "any task" } else { task }
            ))
            .at("key", format!("{key}.metric"))
            .fix(suggest(metric, &known, "metrics here")));
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

/// What a task can be judged by. GAUC needs a column to group by.
fn scores_of(task: &job::Task) -> Vec<metric::Name> {
    metric::scores_of(&metric::Task {
        name: String::new(),
        kind: task.kind,
        outputs: task.classes.unwrap_or(1),
        grouped: task.gauc.is_some(),
        ranked_at: task.ranked_at().to_vec(),
    })
}

/// What decides where the job does not say.
fn default_metric(job: &Job) -> String {
    let recall = |task: &job::Task| {
        let longest = task.ranked_at().iter().max().filter(|_| task.kind == TaskKind::Bpr)?;
        Some(format!("recall@{longest}"))
    };
    if job.tasks.iter().all(|task| task.kind == TaskKind::Binary) {
        return "auc".to_string();
    }
    job.tasks.iter().find_map(recall).unwrap_or_else(|| "loss".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(best: &str, task: &str) -> Result<Goal> {
        let yaml = format!(
            "name: x\ndata: {{train: a}}\nfeatures: []\nmodel: {{kind: mmoe}}\ntrain: {{eval: {{best: {best}}}}}\n\
             tasks: [{{name: click, label: click{task}}}, {{name: stars, label: stars, kind: regression}}]"
        );
        Goal::best(&serde_yaml::from_str(&yaml).unwrap())
    }

    #[test]
    fn a_metric_that_no_task_has_is_refused_before_training() {
        for (best, task, part) in [
            ("{metric: gauc}", "", "`gauc` is not defined for any task"),
            ("{metric: auc, task: stars}", "", "`auc` is not defined for stars"),
            ("{metric: accuracy}", "", "the metrics here are: "),
            ("{metric: guac}", "", "did you mean `gauc`"),
        ] {
            let error = goal(best, task).unwrap_err();
            assert!(error.to_string().contains(part), "{best}: {error}");
            assert_eq!(error.place("key"), Some("train.eval.best.metric"));
        }
        goal("{metric: gauc}", ", gauc: user").unwrap();
        goal("{metric: auc, task: click}", "").unwrap();
        goal("{metric: loss, task: stars}", "").unwrap();
    }
}
