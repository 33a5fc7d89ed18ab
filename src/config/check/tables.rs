//! Embedding tables: one dimension each, and options that can be met.

use super::{SIZES, file_name, size, wrong};
use crate::config::job::{Job, Table};
use crate::config::suggest;
use crate::error::Result;
use std::collections::BTreeMap;

/// Checks the tables of the features and every entry of `tables`.
pub(super) fn check(job: &Job) -> Result<()> {
    let names = dims(job)?;
    for (i, feature) in job.features.iter().enumerate().filter(|(_, feature)| feature.has_table()) {
        file_name(feature.table(), &format!("features[{i}].table"), "the table's name")?;
    }
    for (name, table) in &job.tables {
        let key = format!("tables.{name}");
        if !names.contains_key(name) && !job.features.iter().any(|f| f.has_table() && f.table() == name) {
            let known: Vec<&str> = names.keys().map(String::as_str).collect();
            return Err(wrong(key, format!("no feature reads the table `{name}`")).fix(suggest(
                name,
                &known,
                "tables in use",
            )));
        }
        options(table, &key)?;
    }
    Ok(())
}

/// The dimension of every table that some feature reads, but for those whose file will say it.
pub(super) fn dims(job: &Job) -> Result<BTreeMap<String, usize>> {
    let readers = job.features.iter().filter(|feature| feature.has_table() && !said_by_file(job, feature.table()));
    readers.map(|feature| Ok((feature.table().to_string(), dim(job, feature.table())?))).collect()
}

/// Whether the vectors of a file are the rows of table `name`, and nobody says how long they are.
fn said_by_file(job: &Job, name: &str) -> bool {
    let table = job.tables.get(name);
    let from_file = table.is_some_and(|t| t.dim.is_none() && t.init.as_ref().is_some_and(|init| init.kind == "file"));
    from_file && job.features.iter().all(|feature| feature.table() != name || feature.dim.is_none())
}

/// The dimension of table `name`: what `tables` or the features that read it say.
pub(super) fn dim(job: &Job, name: &str) -> Result<usize> {
    let mut said: Option<(usize, String)> = None;
    if let Some(dim) = job.tables.get(name).and_then(|table| table.dim) {
        size(format!("tables.{name}.dim"), dim, SIZES)?;
        said = Some((dim, format!("`tables.{name}`")));
    }
    let mut first_reader = None;
    for (i, feature) in job.features.iter().enumerate().filter(|(_, f)| f.has_table() && f.table() == name) {
        first_reader.get_or_insert(i);
        let Some(dim) = feature.dim else { continue };
        match &said {
            Some((other, by)) if *other != dim => {
                let what = format!("table `{name}` has dim {dim} by feature `{}` and {other} by {by}", feature.name);
                return Err(wrong(format!("features[{i}].dim"), what)
                    .fix("give one dim, once; features with different dims need different tables"));
            }
            Some(_) => {}
            None => said = Some((dim, format!("feature `{}`", feature.name))),
        }
    }
    match (said, first_reader) {
        (Some((dim, _)), _) => Ok(dim),
        (None, Some(i)) => Err(wrong(format!("features[{i}].dim"), format!("table `{name}` has no dimension"))
            .fix(format!("add `dim: 16` to feature `{}`", job.features[i].name))),
        (None, None) => Err(wrong(format!("tables.{name}.dim"), format!("table `{name}` has no dimension"))),
    }
}

fn options(table: &Table, key: &str) -> Result<()> {
    if let Some(admission) = &table.admission {
        if admission.min_count.is_none() && admission.probability.is_none() {
            return Err(wrong(format!("{key}.admission"), "admission without a rule admits every id")
                .fix("set `min_count` or `probability`, or remove it"));
        }
        if admission.min_count == Some(0) {
            return Err(wrong(format!("{key}.admission.min_count"), "expected 1 or more, found 0"));
        }
        if let Some(probability) = admission.probability
            && !(probability > 0.0 && probability <= 1.0)
        {
            let what = format!("a probability is above 0 and at most 1, not {probability}");
            return Err(wrong(format!("{key}.admission.probability"), what));
        }
    }
    if let Some(eviction) = &table.eviction {
        if eviction.max_rows.is_none() && eviction.max_age_steps.is_none() {
            return Err(wrong(format!("{key}.eviction"), "eviction without a limit drops nothing")
                .fix("set `max_rows` or `max_age_steps`, or remove it"));
        }
        for (name, zero) in
            [("max_rows", eviction.max_rows == Some(0)), ("max_age_steps", eviction.max_age_steps == Some(0))]
        {
            if zero {
                return Err(wrong(format!("{key}.eviction.{name}"), "expected 1 or more, found 0"));
            }
        }
    }
    Ok(())
}
