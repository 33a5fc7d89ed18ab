//! Tasks that are relations: both sides are id features whose rows can be multiplied, and nothing is left over.

use super::{SIZES, size, wrong};
use crate::config::job::{Feature, FeatureKind, Job, Pooling, Task, TaskKind};
use crate::config::suggest;
use crate::error::Result;

/// Checks `pair`, `negatives` and `ranking` of every task, and that a job with pairs has nothing else.
pub(super) fn check(job: &Job) -> Result<()> {
    for (i, task) in job.tasks.iter().enumerate() {
        let key = format!("tasks[{i}]");
        keys(task, &key)?;
        if let Some(pair) = &task.pair {
            sides(job, task, pair, &format!("{key}.pair"))?;
        }
    }
    let Some(first) = job.tasks.iter().find(|task| task.pair.is_some()) else { return Ok(()) };
    if let Some(i) = job.tasks.iter().position(|task| task.pair.is_none()) {
        let what = format!("task `{}` has no pair, and task `{}` has one", job.tasks[i].name, first.name);
        return Err(wrong(format!("tasks[{i}].pair"), what)
            .fix("give every task a pair, as `model: {kind: mf}` needs, or none"));
    }
    let unjudged = |task: &Task| task.kind == TaskKind::Bpr && task.ranking.as_ref().is_some_and(|r| r.at.is_empty());
    if job.tasks.iter().all(unjudged) {
        return Err(wrong("tasks[0].ranking.at", "no task is ranked, and nothing else judges a bpr task")
            .fix("rank one of them: leave `ranking` out, or give it lengths such as `at: [20]`"));
    }
    let in_a_pair = |feature: &Feature| job.tasks.iter().flat_map(|task| &task.pair).any(|p| p.contains(&feature.name));
    match job.features.iter().position(|feature| !in_a_pair(feature)) {
        None => Ok(()),
        Some(i) => {
            let name = &job.features[i].name;
            Err(wrong(format!("features[{i}]"), format!("feature `{name}` is in no pair: nothing would read it"))
                .fix("name it in the `pair` of a task, or remove it"))
        }
    }
}

/// Which keys go with which kind of task.
fn keys(task: &Task, key: &str) -> Result<()> {
    let name = &task.name;
    if task.kind == TaskKind::Bpr && task.pair.is_none() {
        return Err(wrong(format!("{key}.pair"), format!("task `{name}` is bpr and has no pair"))
            .fix("name two features, as in `pair: [user, item]`"));
    }
    if task.kind == TaskKind::Multiclass && task.pair.is_some() {
        return Err(wrong(format!("{key}.pair"), format!("task `{name}` is multiclass: a pair has one score"))
            .fix("make it `kind: bpr` with the class as the right-hand feature, or remove `pair`"));
    }
    if let Some(negatives) = &task.negatives {
        if task.kind != TaskKind::Bpr {
            return Err(wrong(format!("{key}.negatives"), format!("task `{name}` has `negatives` but is not bpr"))
                .fix("add `kind: bpr`, or remove `negatives`"));
        }
        size(format!("{key}.negatives.count"), negatives.count, SIZES)?;
        let popularity = negatives.popularity;
        if !popularity.is_finite() {
            return Err(wrong(format!("{key}.negatives.popularity"), format!("expected a number, found {popularity}"))
                .fix("0 draws all ids alike, 1 in proportion to their training rows, 0.75 between the two"));
        }
        if negatives.max_pairs == 0 {
            return Err(wrong(format!("{key}.negatives.max_pairs"), "expected 1 or more, found 0"));
        }
    }
    ranking(task, key)
}

fn ranking(task: &Task, key: &str) -> Result<()> {
    let Some(ranking) = &task.ranking else { return Ok(()) };
    let key = format!("{key}.ranking");
    if task.pair.is_none() || !matches!(task.kind, TaskKind::Bpr | TaskKind::Binary) {
        return Err(wrong(key, format!("task `{}` cannot be ranked: that needs a pair, and positives", task.name))
            .fix("give it a `pair` and make it bpr or binary, or remove `ranking`"));
    }
    for (i, &k) in ranking.at.iter().enumerate() {
        size(format!("{key}.at"), k, SIZES)?;
        if ranking.at[..i].contains(&k) {
            return Err(wrong(format!("{key}.at"), format!("{k} stands there twice")).fix("remove one"));
        }
    }
    Ok(())
}

/// Checks that both names are features with an embedding, of one dimension.
fn sides(job: &Job, task: &Task, pair: &[String; 2], key: &str) -> Result<()> {
    let mut dims = [0; 2];
    for (dim, name) in dims.iter_mut().zip(pair) {
        let feature = id_feature(job, task, name, key)?;
        if matches!(feature.pooling(), Pooling::Attention | Pooling::None | Pooling::Sum) {
            let i = job.features.iter().position(|other| other.name == *name).unwrap_or(0);
            return Err(wrong(format!("features[{i}].pooling"), format!("feature `{name}` is in a pair, of two ids"))
                .fix("remove `pooling`: of a list in a pair one id is drawn for each step"));
        }
        *dim = super::tables::dim(job, feature.table())?;
        if name == &pair[0] && feature.kind == FeatureKind::Sequence {
            return Err(wrong(key, format!("the left side of a pair is one id a row, and `{name}` is a sequence"))
                .fix(format!("put it on the right: `pair: [{}, {name}]`", pair[1])));
        }
    }
    if dims[0] == dims[1] {
        return Ok(());
    }
    let what = format!(
        "task `{}` multiplies `{}` of dim {} with `{}` of dim {}",
        task.name, pair[0], dims[0], pair[1], dims[1]
    );
    Err(wrong(key, what).fix("give both tables the same `dim`"))
}

fn id_feature<'a>(job: &'a Job, task: &Task, name: &str, key: &str) -> Result<&'a Feature> {
    let with_ids = || job.features.iter().filter(|feature| feature.has_table());
    if let Some(feature) = with_ids().find(|feature| feature.name == name) {
        return Ok(feature);
    }
    let known: Vec<&str> = with_ids().map(|feature| feature.name.as_str()).collect();
    let what = match job.features.iter().any(|feature| feature.name == name) {
        true => format!("task `{}` pairs `{name}`, which has numbers in place of ids", task.name),
        false => format!("task `{}` pairs `{name}`, which is not a feature", task.name),
    };
    let fix = match known.is_empty() {
        true => "add the two id columns to `features`, as `kind: categorical`".to_string(),
        false => suggest(name, &known, "features with ids"),
    };
    Err(wrong(key, what).fix(fix))
}
