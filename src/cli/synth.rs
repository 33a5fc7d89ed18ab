//! `tandem synth`: writes a synthetic log and prints what is true of it.

use crate::data::store::refuse_far;
use crate::data::synth::{self, Labels, Options, Summary};
use crate::error::{Error, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  tandem synth data/demo --rows 1000000
  tandem train data/demo/job.yaml

  # Two tasks in full conflict, ids only, four days of files:
  tandem synth data/conflict --rows 5000000 --tasks like,share --independent --angle 180 \\
      --numeric 0 --cardinalities 1000,1000000 --files 40 --days 4

The folder holds train/, valid/ and test/ with Parquet files, job.yaml (a job
that trains on them) and synth.json (what is true of them, with the best AUC
that any model can expect).";

/// Writes a log with known task conflict and known best attainable AUC.
#[derive(Debug, Clone, Parser)]
#[command(after_help = super::help(EXAMPLES))]
pub struct Args {
    /// Folder to write to: new, empty, or an older synthetic log (which is replaced)
    pub out: PathBuf,

    /// Rows over all splits
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u64,

    /// Parquet files over all splits
    #[arg(long, default_value_t = 10)]
    pub files: usize,

    /// Rows of a row group
    #[arg(long, value_name = "ROWS", default_value_t = 65_536)]
    pub row_group_rows: usize,

    /// Shares of train, valid and test, by files
    #[arg(long, value_name = "TRAIN,VALID,TEST", value_delimiter = ',', default_value = "80,10,10")]
    pub split: Vec<u32>,

    /// Daily dt=… partitions in order of time, from 2024-01-01; 0 for none
    #[arg(long, default_value_t = 0)]
    pub days: usize,

    /// Seed: the same options and seed give the same bytes
    #[arg(long, default_value_t = 17)]
    pub seed: u64,

    /// Names of the label columns
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "click,cart,buy")]
    pub tasks: Vec<String>,

    /// Draw labels independently; otherwise a label can be 1 only where the one before it is
    #[arg(long)]
    pub independent: bool,

    /// Base rate of each label, of nested ones among the rows where the label before is 1 [default:
    /// 0.2,0.3,0.4,0.5,0.5,…]
    #[arg(long, value_delimiter = ',')]
    pub rates: Vec<f64>,

    /// Angle between the tasks' true effects: 0 the same, 90 unrelated, above that in conflict (at most
    /// 180 for two tasks, 120 for three, 109.47 for four)
    #[arg(long, value_name = "DEGREES", default_value_t = 90.0)]
    pub angle: f64,

    /// Standard deviation of the true logits: how much a row tells about its labels
    #[arg(long, default_value_t = 1.5)]
    pub signal: f64,

    /// Share of the effects that only a non-linear model can learn
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub interaction: f64,

    /// Numeric columns n0, n1, …
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub numeric: usize,

    /// Categorical columns c0, c1, … of 10 to 100 000 ids
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub categorical: usize,

    /// Distinct ids of each categorical column, instead of --categorical
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "categorical")]
    pub cardinalities: Option<Vec<u64>>,

    /// Exponent of the Zipf law of ids; 0 makes them equally frequent
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.1)]
    pub zipf: f64,

    /// Distinct users; 0 for one per 100 rows
    #[arg(long, default_value_t = 0)]
    pub users: u64,

    /// Longest list of the column hist, of ids of the last categorical column; 0 for no such column
    #[arg(long, value_name = "LEN", default_value_t = 0)]
    pub history: usize,

    /// Write into a folder that holds other things; replaces train/, valid/ and test/ in it
    #[arg(long)]
    pub force: bool,

    /// Print synth.json instead of the table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let options = options(&args)?;
    let bar = ProgressBar::new(args.rows);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} rows, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    refuse_far(&args.out, "the folder of the log")?;
    let summary = synth::generate(&args.out, &options, args.force, &|rows| bar.inc(rows))?;
    bar.finish_and_clear();
    super::print(&if args.json { summary.to_json()? } else { table(&args, &summary) })
}

fn options(args: &Args) -> Result<Options> {
    let split = args.split.as_slice().try_into().map_err(|_| {
        Error::job("there must be three shares").at("--split", args.split.len()).fix("give --split 80,10,10")
    })?;
    let cardinalities = args.cardinalities.clone().unwrap_or_else(|| synth::cardinalities(args.categorical));
    Ok(Options {
        rows: args.rows,
        files: args.files,
        row_group_rows: args.row_group_rows,
        split,
        days: args.days,
        seed: args.seed,
        tasks: args.tasks.clone(),
        labels: if args.independent { Labels::Independent } else { Labels::Nested },
        rates: args.rates.clone(),
        angle_degrees: args.angle,
        signal: args.signal,
        interaction: args.interaction,
        numeric: args.numeric,
        cardinalities,
        zipf: args.zipf,
        users: args.users,
        history: args.history,
    })
}

/// What is true of the log, for people.
fn table(args: &Args, summary: &Summary) -> String {
    let number = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
    let width = summary.tasks.iter().map(|t| t.name.len()).max().unwrap_or(0).max("task".len());
    let splits = &summary.splits;
    let mut text = format!(
        "{} rows in {} (train {}, valid {}, test {}), {} degrees between tasks\n\n{:width$}  {:>8}  {:>8}  {:>12}\n",
        summary.rows,
        args.out.display(),
        splits.train,
        splits.valid,
        splits.test,
        summary.angle_degrees,
        "task",
        "rate",
        "best AUC",
        "best logloss"
    );
    for task in &summary.tasks {
        text += &format!(
            "{:width$}  {:>8.4}  {:>8}  {:>12}\n",
            task.name,
            task.positive_rate,
            number(task.bayes_auc),
            number(task.bayes_logloss)
        );
    }
    text + &format!("\nnext: tandem train {}\n", args.out.join("job.yaml").display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn defaults_are_those_of_the_library() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["synth", "out"]).unwrap();
        assert_eq!(options(&args).unwrap(), Options::default());
    }

    #[test]
    fn every_option_arrives() {
        let line = "synth out --rows 100 --files 4 --row-group-rows 9 --split 2,1,1 --days 2 --seed 3 --tasks a,b \
                    --independent --rates 0.1,0.9 --angle 120 --signal 2 --interaction 0 --numeric 1 \
                    --cardinalities 5,6 --zipf 1 --users 7 --history 3";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let expected = Options {
            rows: 100,
            files: 4,
            row_group_rows: 9,
            split: [2, 1, 1],
            days: 2,
            seed: 3,
            tasks: vec!["a".into(), "b".into()],
            labels: Labels::Independent,
            rates: vec![0.1, 0.9],
            angle_degrees: 120.0,
            signal: 2.0,
            interaction: 0.0,
            numeric: 1,
            cardinalities: vec![5, 6],
            zipf: 1.0,
            users: 7,
            history: 3,
        };
        assert_eq!(options(&args).unwrap(), expected);
    }

    #[test]
    fn the_table_shows_the_best_auc_of_each_task() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("log");
        let args = Args::try_parse_from(["synth", out.to_str().unwrap(), "--rows", "500"]).unwrap();
        let summary = synth::generate(&args.out, &options(&args).unwrap(), false, &|_| ()).unwrap();
        let text = table(&args, &summary);
        for task in &summary.tasks {
            let best = format!("{:.4}", task.bayes_auc.unwrap());
            assert!(text.lines().any(|l| l.starts_with(&task.name) && l.contains(&best)), "{text}");
        }
    }
}
