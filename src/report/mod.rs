//! `tandem report`: run folders as one HTML page that needs no network and no program but a browser.
//!
//! ```text
//! metrics.jsonl ─┐                    ┌─► charts (JSON, drawn in the browser by the uPlot that the page carries)
//! job.yaml ──────┴─► RunLog, per run ─┼─► tables, bars and heat maps (HTML, by the template)
//!                                     └─► page.html.jinja
//! ```
//!
//! It reads those two files only, so it works on a run that is still going on, and on the log of any version.

mod charts;
mod compare;
mod format;
mod gradients;
mod resources;
mod run_log;
mod summary;

use crate::error::{Error, Result};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use run_log::RunLog;
use serde::Serialize;
use std::path::PathBuf;

/// More runs than this cannot be told apart by colour.
pub const MOST_RUNS: usize = 8;

/// The page about the runs in `folders`, side by side.
///
/// # Errors
/// No run, too many runs, or a folder without a readable log.
pub fn page(folders: &[PathBuf]) -> Result<String> {
    if folders.is_empty() || folders.len() > MOST_RUNS {
        return Err(Error::job(format!("a report shows 1 to {MOST_RUNS} runs, not {}", folders.len())));
    }
    let mut runs = folders.iter().map(|folder| RunLog::read(folder)).collect::<Result<Vec<_>>>()?;
    run_log::name_apart(&mut runs);
    let (sections, drawn) = charts::sections(&runs);
    let drawn = serde_json::to_string(&drawn).map_err(|e| Error::internal(format!("charts are no JSON: {e}")))?;
    let context = context! {
        title => title(&runs),
        runs => of_runs(&runs, summary::card),
        metrics => Value::from(Serde(compare::metrics(&runs))),
        differences => Value::from(Serde(compare::jobs(&runs))),
        trained => of_runs(&runs, summary::trained),
        sections => Value::from(Serde(sections)),
        gradients => of_runs(&runs, gradients::of_run),
        resources => of_runs(&runs, resources::of_run),
        // In a script element only `<` could end it.
        charts => Value::from_safe_string(drawn.replace('<', "\\u003c")),
        style => Value::from_safe_string(format!("{}\n{}", include_str!("vendor/uPlot.min.css"), include_str!("page.css"))),
        library => Value::from_safe_string(include_str!("vendor/uPlot.iife.min.js").to_string()),
        script => Value::from_safe_string(include_str!("page.js").to_string()),
        tandem => env!("CARGO_PKG_VERSION"),
    };
    let mut templates = Environment::new();
    format::register(&mut templates);
    let rendered = templates
        .add_template("page.html", include_str!("page.html.jinja"))
        .and_then(|()| templates.get_template("page.html"))
        .and_then(|template| template.render(context));
    rendered.map_err(|e| Error::internal(format!("the page cannot be written: {e:#}")))
}

/// What a part of the page shows of each run.
fn of_runs<T: Serialize>(runs: &[RunLog], part: fn(&RunLog) -> T) -> Value {
    Value::from(Serde(runs.iter().map(part).collect::<Vec<_>>()))
}

fn title(runs: &[RunLog]) -> String {
    match runs {
        [run] => run.name.clone(),
        _ => format!("{} runs", runs.len()),
    }
}

#[cfg(test)]
mod tests;
