//! Tasks: what they predict, and that no feature gives the answer away.

use super::{SIZES, size, unique_names, wrong};
use crate::config::job::{Job, Task, TaskKind};
use crate::config::suggest;
use crate::error::Result;

/// `task: mean` stands for the mean over tasks.
const MEAN: &str = "mean";

/// Checks every entry of `tasks`.
pub(super) fn check(job: &Job) -> Result<()> {
    if job.tasks.is_empty() {
        return Err(wrong("tasks", "the job has no tasks").fix("add at least one label to predict"));
    }
    unique_names("tasks", "task", job.tasks.iter().map(|task| task.name.as_str()))?;
    for (i, task) in job.tasks.iter().enumerate() {
        check_one(task, &format!("tasks[{i}]"))?;
    }
    if job.tasks.iter().all(|task| task.weight == 0.0) {
        return Err(wrong("tasks", "every task has weight 0: nothing would be learnt"));
    }
    no_leak(job)
}

/// Checks that `name`, which stands at `key`, is a task of the job or `mean`.
pub(super) fn named(name: &str, key: &str, job: &Job) -> Result<()> {
    let known: Vec<&str> = job.tasks.iter().map(|task| task.name.as_str()).chain([MEAN]).collect();
    if known.contains(&name) {
        return Ok(());
    }
    Err(wrong(key, format!("`{name}` is not a task of this job")).fix(suggest(name, &known, "tasks")))
}

fn check_one(task: &Task, key: &str) -> Result<()> {
    if task.name == MEAN {
        return Err(wrong(format!("{key}.name"), "`mean` stands for the mean over tasks and cannot name one")
            .fix("rename the task"));
    }
    match (&task.label, task.kind) {
        (None, TaskKind::Bpr) | (Some(_), TaskKind::Binary | TaskKind::Regression | TaskKind::Multiclass) => {}
        (None, _) => {
            return Err(
                wrong(format!("{key}.label"), "the key `label` is missing").fix(format!("add `label: …` to `{key}`"))
            );
        }
        (Some(_), TaskKind::Bpr) => {
            return Err(wrong(format!("{key}.label"), format!("task `{}` is bpr, which has no label", task.name))
                .fix("every row that carries the pair is a positive: name the column that says which in `where`"));
        }
    }
    for (name, column) in
        [("label", task.label.as_ref()), ("where", task.where_column.as_ref()), ("gauc", task.gauc.as_ref())]
    {
        if column.is_some_and(String::is_empty) {
            return Err(wrong(format!("{key}.{name}"), "the name of a column is empty"));
        }
    }
    if task.label.is_some() && task.where_column == task.label {
        return Err(wrong(
            format!("{key}.where"),
            format!("task `{}` would only see rows whose label is true", task.name),
        )
        .fix("name the column that says which rows carry the label, or remove `where`"));
    }
    classes(task, key)?;
    if !task.positive.is_empty() && task.kind != TaskKind::Binary {
        return Err(wrong(format!("{key}.positive"), format!("task `{}` has `positive` but is not binary", task.name))
            .fix("remove it, or `kind`"));
    }
    if task.gauc.is_some() && task.kind != TaskKind::Binary {
        return Err(wrong(format!("{key}.gauc"), "GAUC is defined for binary tasks only").fix("remove it"));
    }
    if !(task.weight.is_finite() && task.weight >= 0.0) {
        return Err(wrong(
            format!("{key}.weight"),
            format!("a weight is finite and not negative, not {}", task.weight),
        ));
    }
    Ok(())
}

fn classes(task: &Task, key: &str) -> Result<()> {
    let key = format!("{key}.classes");
    match (task.kind, task.classes) {
        (TaskKind::Multiclass, Some(classes)) => size(key, classes, 2..=*SIZES.end()),
        (TaskKind::Multiclass, None) => {
            Err(wrong(key, format!("task `{}` does not say how many classes it has", task.name))
                .fix("add `classes: …`; labels are 0 up to classes − 1"))
        }
        (_, Some(_)) => Err(wrong(key, format!("task `{}` has `classes` but is not multiclass", task.name))
            .fix("add `kind: multiclass`, or remove `classes`")),
        (_, None) => Ok(()),
    }
}

/// A label that is also an input makes a perfect score in training and a useless model.
fn no_leak(job: &Job) -> Result<()> {
    let labels = |column: &str| job.tasks.iter().find(|task| task.label.as_deref() == Some(column));
    if let Some(task) = job.data.scenario.as_deref().and_then(labels) {
        return Err(wrong("data.scenario", format!("the scenario is the label of task `{}`", task.name))
            .fix("name a column that is known before the label is"));
    }
    for (i, feature) in job.features.iter().enumerate() {
        for column in feature.columns() {
            if let Some(task) = labels(column) {
                let what = format!(
                    "feature `{}` reads the column `{column}`, the label of task `{}`",
                    feature.name, task.name
                );
                return Err(
                    wrong(format!("features[{i}]"), what).fix("remove the feature: the answer must not be an input")
                );
            }
        }
    }
    Ok(())
}
