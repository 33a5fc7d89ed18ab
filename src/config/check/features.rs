//! Features: which keys go with which kind, and what they may hold.

use super::{SIZES, size, unique_names, wrong};
use crate::config::Job;
use crate::config::job::{Feature, FeatureKind, Pooling};
use crate::config::suggest;
use crate::error::Result;
use std::collections::HashSet;

/// Checks every entry of `features`.
pub(super) fn check(job: &Job) -> Result<()> {
    if job.features.is_empty() {
        return Err(wrong("features", "the job has no features").fix("add at least one column to learn from"));
    }
    unique_names("features", "feature", job.features.iter().map(|feature| feature.name.as_str()))?;
    for (i, feature) in job.features.iter().enumerate() {
        let key = format!("features[{i}]");
        allowed_keys(feature, &key)?;
        required_keys(feature, &key)?;
        sizes(feature, &key)?;
        pooling(feature, &key)?;
        attention(feature, &key, job)?;
    }
    Ok(())
}

/// The optional keys that `feature` has set.
fn keys_set(feature: &Feature) -> Vec<&'static str> {
    [
        ("column", feature.column.is_some()),
        ("columns", !feature.columns.is_empty()),
        ("table", feature.table.is_some()),
        ("dim", feature.dim.is_some()),
        ("pooling", feature.pooling.is_some()),
        ("max_len", feature.max_len.is_some()),
        ("target", feature.target.is_some()),
        ("transform", feature.transform.is_some()),
        ("buckets", feature.buckets.is_some()),
        ("length", feature.length.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

fn allowed_keys(feature: &Feature, key: &str) -> Result<()> {
    let (kind, allowed): (&str, &[&str]) = match feature.kind {
        FeatureKind::Numeric if feature.has_table() => {
            ("numeric with quantile buckets", &["column", "transform", "buckets", "table", "dim"])
        }
        FeatureKind::Numeric => ("numeric", &["column", "transform"]),
        FeatureKind::Categorical => ("categorical", &["column", "table", "dim", "pooling", "max_len"]),
        FeatureKind::Sequence => ("sequence", &["column", "table", "dim", "pooling", "max_len", "target"]),
        FeatureKind::Cross => ("cross", &["columns", "table", "dim"]),
        FeatureKind::Vector => ("vector", &["column", "length"]),
    };
    match keys_set(feature).into_iter().find(|name| !allowed.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let error = wrong(
                format!("{key}.{name}"),
                format!("`{name}` does not go with feature `{}`, which is {kind}", feature.name),
            );
            Err(error.fix(match (feature.kind, name) {
                (FeatureKind::Numeric, "buckets" | "table" | "dim") => {
                    "add `transform: quantile` for an embedding of its buckets, or make it `kind: categorical`"
                        .to_string()
                }
                (FeatureKind::Cross, "column") => "name the columns to combine in `columns: [a, b]`".to_string(),
                (_, "columns") => "name one column in `column`, or make it `kind: cross`".to_string(),
                _ => format!("remove it; besides `name` and `kind` it may have: {}", allowed.join(", ")),
            }))
        }
    }
}

fn required_keys(feature: &Feature, key: &str) -> Result<()> {
    let name = &feature.name;
    match feature.kind {
        FeatureKind::Vector if feature.length.is_none() => {
            Err(wrong(format!("{key}.length"), format!("vector `{name}` does not say how many floats it has"))
                .fix("add `length: …`"))
        }
        FeatureKind::Cross => {
            let distinct: HashSet<&String> = feature.columns.iter().collect();
            if distinct.len() >= 2 && distinct.len() == feature.columns.len() {
                return Ok(());
            }
            Err(wrong(format!("{key}.columns"), format!("cross `{name}` needs two or more different columns"))
                .fix("write, for example, `columns: [user, hour]`"))
        }
        _ => Ok(()),
    }
}

fn sizes(feature: &Feature, key: &str) -> Result<()> {
    for (name, number, range) in [
        ("dim", feature.dim, SIZES),
        ("max_len", feature.max_len, SIZES),
        ("length", feature.length, SIZES),
        ("buckets", feature.buckets, 2..=*SIZES.end()),
    ] {
        number.map_or(Ok(()), |number| size(format!("{key}.{name}"), number, range))?;
    }
    for (name, columns) in [("column", feature.column.as_slice()), ("columns", &feature.columns)] {
        if columns.iter().any(String::is_empty) {
            return Err(wrong(format!("{key}.{name}"), "the name of a column is empty"));
        }
    }
    Ok(())
}

fn pooling(feature: &Feature, key: &str) -> Result<()> {
    let only_sequences = match feature.pooling() {
        Pooling::Sum | Pooling::Mean => return Ok(()),
        Pooling::Attention => "attention",
        Pooling::None => "none",
    };
    if feature.kind == FeatureKind::Sequence {
        return Ok(());
    }
    let what = format!("`pooling: {only_sequences}` needs the order of a sequence; `{}` is categorical", feature.name);
    Err(wrong(format!("{key}.pooling"), what).fix("use `mean` or `sum`, or make it `kind: sequence`"))
}

/// Attention scores a sequence's rows by their dot product with the target's row: one row, of that length.
fn attention(feature: &Feature, key: &str, job: &Job) -> Result<()> {
    let name = &feature.name;
    let key = format!("{key}.target");
    let target_name = match (&feature.target, feature.pooling()) {
        (Some(target), Pooling::Attention) => target,
        (None, Pooling::Attention) => {
            return Err(wrong(key, format!("`{name}` is pooled by attention and names no target"))
                .fix("add `target: …`, the categorical feature that attends"));
        }
        (Some(_), _) => {
            return Err(wrong(key, format!("`{name}` has a target but is not pooled by attention"))
                .fix("add `pooling: attention`, or remove `target`"));
        }
        (None, _) => return Ok(()),
    };
    let Some(target) = job.features.iter().find(|other| other.name == *target_name) else {
        let candidates: Vec<&str> = job.features.iter().filter(|f| is_single(f)).map(|f| f.name.as_str()).collect();
        return Err(wrong(key, format!("`{name}` attends to `{target_name}`, which is not a feature")).fix(suggest(
            target_name,
            &candidates,
            "features with one id a row",
        )));
    };
    if !is_single(target) {
        return Err(wrong(key, format!("`{name}` attends to `{target_name}`, which does not have one id a row"))
            .fix("choose a categorical feature without `max_len` above 1"));
    }
    let (own, other) = (super::tables::dim(job, feature.table())?, super::tables::dim(job, target.table())?);
    if own == other {
        return Ok(());
    }
    Err(wrong(key, format!("`{name}` has dim {own} and its target `{target_name}` has dim {other}"))
        .fix("give both the same `dim`, or the same `table`"))
}

fn is_single(feature: &Feature) -> bool {
    feature.kind == FeatureKind::Categorical && feature.max_len.is_none_or(|len| len == 1)
}
