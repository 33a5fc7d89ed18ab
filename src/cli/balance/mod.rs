//! `tandem balance`.

mod given;

use crate::balance::once::{Given, Outcome, once};
use crate::balance::{self, Balance, Scope, conflict::Conflict};
use crate::config::Component;
use crate::error::{Error, Result};
use serde_yaml::Value;
use std::fmt::Write;
use std::path::PathBuf;

/// Shows what a balancing method does with given gradients, or all methods side by side.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help(EXAMPLES))]
pub struct Args {
    /// The method, as `balance.kind` of a job, or `all`.
    #[arg(long, default_value = "all")]
    kind: String,
    /// JSON `{"gradients": [[…], …]}` with one list a task, or `{"gram": [[…], …]}`, either with `"losses": […]`; or
    /// Parquet with one column of numbers a task, or one column of lists with a row a task.
    #[arg(long, value_name = "FILE")]
    gradients: PathBuf,
    /// Sets an option of the method: `c=0.5`. With one method only; may be repeated.
    #[arg(long = "set", value_name = "OPTION=VALUE")]
    options: Vec<String>,
    /// Seed of methods that draw.
    #[arg(long, default_value_t = 17)]
    seed: u64,
    /// Prints a JSON list instead of a table.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  echo '{\"gradients\": [[1, 0], [-1, 1]]}' > conflict.json
  tandem balance --gradients conflict.json
  tandem balance --kind cagrad --set c=0.5 --gradients conflict.json --json";

/// What one method answered.
struct Answer {
    kind: String,
    outcome: Outcome,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let (names, given) = given::read(&args.gradients)?;
    let kinds = match args.kind.as_str() {
        "all" => balance::kinds(),
        kind => vec![kind],
    };
    let mut answers = Vec::new();
    let mut refused = Vec::new();
    for &kind in &kinds {
        match answer(kind, &args, &names, &given) {
            Ok(outcome) => answers.push(Answer { kind: kind.to_string(), outcome }),
            // Side by side, a method that cannot use what is given is left out and named.
            Err(error) if kinds.len() > 1 && error.exit_code() == 2 && args.options.is_empty() => refused.push(kind),
            Err(error) => return Err(error),
        }
    }
    if args.json {
        return super::print(&json(&answers));
    }
    super::print(&table(&names, &given, &answers, &refused))
}

fn answer(kind: &str, args: &Args, names: &[String], given: &Given) -> Result<Outcome> {
    let mut component = Component::named(kind);
    if !args.options.is_empty() && args.kind == "all" {
        return Err(Error::job("--set goes with one method").fix("name it with --kind"));
    }
    for option in &args.options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::job(format!("`{option}` is no option")).fix("write, for example, --set c=0.5"))?;
        let value: Value = serde_yaml::from_str(value)
            .map_err(|error| Error::job(format!("the value of `{name}` is not YAML: {error}")))?;
        component.options.insert(name.trim().into(), value);
    }
    let mut balance: Balance = balance::build(&mut component, names)?;
    once(&mut balance, given, args.seed)
}

fn json(answers: &[Answer]) -> String {
    let each = answers.iter().map(|Answer { kind, outcome }| {
        let Outcome { weights, update_norm, cosines } = outcome;
        serde_json::json!({"kind": kind, "weights": weights, "update_norm": update_norm, "cosines": cosines})
    });
    format!("{}\n", serde_json::Value::Array(each.collect()))
}

/// The conflict, then one line a method: weights, norm, and the update's cosine with each task's gradient.
fn table(names: &[String], given: &Given, answers: &[Answer], refused: &[&str]) -> String {
    let mut conflict = Conflict::default();
    conflict.add(Scope::Shared, &given.gram, &vec![1.0; names.len()]);
    let mut text = String::new();
    // Writing to a string cannot fail.
    for pair in conflict.report(names).map(|report| report.pairs).unwrap_or_default() {
        let word = if pair.conflicts > 0.0 { "in conflict" } else { "in agreement" };
        let _ = writeln!(text, "{} and {}: {word}, cosine {:.4}", pair.tasks[0], pair.tasks[1], pair.cosine);
    }
    let kind_width = answers.iter().map(|a| a.kind.len()).max().unwrap_or(0).max(4);
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(9);
    let columns: Vec<String> = names.iter().map(|name| format!("{name:>width$}")).collect();
    let columns = columns.join(" ");
    let block = columns.chars().count();
    let _ =
        writeln!(text, "\n{:<kind_width$}  {:<block$}  {:>9}  {:<block$}", "", "weights", "", "cosine with the update");
    let _ = writeln!(text, "{:<kind_width$}  {columns}  {:>9}  {columns}", "kind", "norm");
    for Answer { kind, outcome } in answers {
        let numbers = |values: &[f64]| {
            let each: Vec<String> = values.iter().map(|v| format!("{v:>width$.4}")).collect();
            each.join(" ")
        };
        let Outcome { weights, update_norm, cosines } = outcome;
        let (weights, cosines) = (numbers(weights), numbers(cosines));
        let _ = writeln!(text, "{kind:<kind_width$}  {weights}  {update_norm:>9.4}  {cosines}");
    }
    if !refused.is_empty() {
        let _ = writeln!(
            text,
            "\nleft out, as they need the gradients and not only their products: {}",
            refused.join(", ")
        );
    }
    text
}
