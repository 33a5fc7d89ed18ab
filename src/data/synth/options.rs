//! What a log should be like: as asked for ([`Options`]) and as checked ([`Checked`]).

use super::columns::{self, COUNTRIES, Column, MAX_CARDINALITY, Values};
use super::correlation;
use super::layout::{self, FilePlan};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The column that names the user of a row.
pub const USER: &str = "user_id";
/// The string column.
pub const COUNTRY: &str = "country";
/// The list column.
pub const HISTORY: &str = "hist";

/// How the labels of one row hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Label k + 1 can be 1 only where label k is: click ⊇ cart ⊇ buy.
    Nested,
    /// Given the row, the labels are drawn independently.
    Independent,
}

/// A log as asked for. [`Options::default`] is a log of 1 M rows with three nested labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Number of rows over all splits.
    pub rows: u64,
    /// Number of Parquet files over all splits.
    pub files: usize,
    /// Rows of a row group.
    pub row_group_rows: usize,
    /// Relative sizes of train, valid and test, in files.
    pub split: [u32; 3],
    /// Number of daily `dt=…` partitions over all splits, in order of time; 0 for none.
    pub days: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Names of the label columns (K).
    pub tasks: Vec<String>,
    /// Nested or independent.
    pub labels: Labels,
    /// Base rate of each label, for nested ones among the rows where the label before is 1. Empty: 0.2,
    /// 0.3, 0.4, then 0.5.
    pub rates: Vec<f64>,
    /// Angle between the effects of any two tasks: 0 the same, 90 unrelated, more: in conflict.
    pub angle_degrees: f64,
    /// Standard deviation of each task's true logit: how much the row tells about the label.
    pub signal: f64,
    /// Share of the effects' variance that only a non-linear model can learn, in 0..1; 0 where there is no
    /// numeric or no categorical column.
    pub interaction: f64,
    /// Number of numeric columns, `n0`, `n1`, …
    pub numeric: usize,
    /// Distinct ids of the categorical columns `c0`, `c1`, …
    pub cardinalities: Vec<u64>,
    /// Exponent of the Zipf law of ids.
    pub zipf: f64,
    /// Distinct users; 0 for one per 100 rows.
    pub users: u64,
    /// Longest `hist` list, of ids of the last categorical column; 0 for no such column.
    pub history: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rows: 1_000_000,
            files: 10,
            row_group_rows: 65_536,
            split: [80, 10, 10],
            days: 0,
            seed: 17,
            tasks: ["click", "cart", "buy"].map(String::from).to_vec(),
            labels: Labels::Nested,
            rates: Vec::new(),
            angle_degrees: 90.0,
            signal: 1.5,
            interaction: 0.1,
            numeric: 8,
            cardinalities: columns::spread(10),
            zipf: 1.1,
            users: 0,
            history: 0,
        }
    }
}

/// A log that can be written: options with nothing left open, its columns and its files.
#[derive(Debug, Clone)]
pub struct Checked {
    pub(super) options: Options,
    pub(super) columns: Vec<Column>,
    pub(super) files: Vec<FilePlan>,
}

impl Options {
    /// Checks every option and fills in what was left open.
    ///
    /// # Errors
    /// Names the option and what to give instead.
    pub fn check(&self) -> Result<Checked> {
        let mut options = self.clone();
        options.check_sizes()?;
        options.check_tasks()?;
        options.check_angle()?;
        options.check_effects()?;
        if options.users == 0 {
            options.users = (options.rows / 100).max(10);
        }
        if options.numeric == 0 || options.cardinalities.is_empty() {
            options.interaction = 0.0;
        }
        let columns = options.columns()?;
        let files = layout::plan(options.rows, options.files, options.days, options.split)?;
        Ok(Checked { options, columns, files })
    }

    fn check_sizes(&self) -> Result<()> {
        if self.files == 0 || self.rows < self.files as u64 {
            return Err(wrong("there must be at least one file, and one row a file", "rows", self.rows)
                .at("files", self.files)
                .fix("give more --rows or fewer --files"));
        }
        if self.row_group_rows == 0 {
            return Err(wrong("a row group must have rows", "row-group-rows", 0).fix("give 65536"));
        }
        Ok(())
    }

    fn check_tasks(&mut self) -> Result<()> {
        let k = self.tasks.len();
        if k == 0 || k > 32 {
            return Err(wrong("there must be 1 to 32 tasks", "tasks", k).fix("give --tasks click,cart,buy"));
        }
        let mut seen: HashSet<&str> = HashSet::new();
        for task in &self.tasks {
            let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let numbered = task.starts_with(['n', 'c']) && task[1..].parse::<usize>().is_ok();
            // The last three are not text where YAML reads them.
            let taken = numbered || [USER, COUNTRY, HISTORY, "dt", "true", "false", "null"].contains(&task.as_str());
            let starts = task.starts_with(|c: char| c.is_ascii_lowercase());
            if !starts || !task.chars().all(letters) || taken || !seen.insert(task) {
                return Err(wrong("a task needs a plain name that no other column has", "tasks", task)
                    .fix("use lower-case letters, digits and `_`, as in --tasks click,cart,buy"));
            }
        }
        if self.rates.is_empty() {
            self.rates = (0..k).map(|i| ((2 + i) as f64 / 10.0).min(0.5)).collect();
        }
        if self.rates.len() != k {
            return Err(wrong("there must be one rate for each task", "rates", self.rates.len())
                .at("tasks", k)
                .fix("give as many --rates as --tasks"));
        }
        match self.rates.iter().find(|r| !(**r > 0.0 && **r < 1.0)) {
            Some(rate) => Err(wrong("a base rate must be between 0 and 1", "rates", rate)
                .fix("give rates such as --rates 0.2,0.3,0.4")),
            None => Ok(()),
        }
    }

    fn check_angle(&self) -> Result<()> {
        if !(0.0..=180.0).contains(&self.angle_degrees) {
            return Err(wrong("an angle is between 0 and 180 degrees", "angle", self.angle_degrees)
                .fix("give 0 for the same effects, 90 for unrelated ones, more for conflict"));
        }
        let k = self.tasks.len();
        let widest = correlation::widest_angle(k);
        // People give 109.47 for four tasks and 120 for three: the rounding of acos must not refuse them.
        if self.angle_degrees > widest + 1e-6 {
            return Err(wrong("that many tasks cannot all be so far apart", "angle", self.angle_degrees)
                .at("tasks", k)
                .fix(format!("{k} tasks can be at most {widest:.4} degrees from each other: give less, or 2 tasks")));
        }
        Ok(())
    }

    fn check_effects(&self) -> Result<()> {
        if !(self.signal > 0.0 && self.signal <= 10.0) {
            return Err(
                wrong("the signal must be above 0 and at most 10", "signal", self.signal).fix("give 1.5, or 0.5 to 3")
            );
        }
        if !(0.0..1.0).contains(&self.interaction) {
            return Err(wrong("a share is at least 0 and below 1", "interaction", self.interaction).fix("give 0.1"));
        }
        if !(0.0..=10.0).contains(&self.zipf) {
            return Err(wrong("a Zipf exponent is between 0 and 10", "zipf", self.zipf)
                .fix("give 0 for equally frequent ids, about 1 for a real log"));
        }
        let widest = self.cardinalities.iter().chain([&self.users]).max();
        if let Some(wide) = widest.filter(|c| **c > MAX_CARDINALITY) {
            return Err(wrong("a column has at most 2^40 ids", "cardinalities", wide).fix("give fewer ids"));
        }
        if self.cardinalities.contains(&0) {
            return Err(wrong("a column needs at least one id", "cardinalities", 0).fix("give 10 or more"));
        }
        if self.history > 0 && self.cardinalities.is_empty() {
            return Err(wrong("a history needs a categorical column to take its ids from", "history", self.history)
                .fix("give --categorical 1 or more, or no --history"));
        }
        Ok(())
    }

    /// The id columns: `c0` … and then the two that every log has.
    fn columns(&self) -> Result<Vec<Column>> {
        let numbered = self.cardinalities.iter().enumerate();
        let mut columns = numbered
            .map(|(i, &n)| Column::new(&format!("c{i}"), n, self.zipf, Values::Id))
            .collect::<Result<Vec<_>>>()?;
        columns.push(Column::new(COUNTRY, COUNTRIES.len() as u64, 1.0, Values::Country)?);
        // Users differ less than items do in how often they are seen.
        columns.push(Column::new(USER, self.users, self.zipf / 2.0, Values::Id)?);
        Ok(columns)
    }
}

impl Checked {
    /// The options with nothing left open.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.options.tasks.len()
    }

    /// The column whose ids `hist` holds.
    pub(super) fn history_column(&self) -> Option<usize> {
        (self.options.history > 0).then(|| self.options.cardinalities.len() - 1)
    }
}

fn wrong(what: &str, option: &str, value: impl std::fmt::Display) -> Error {
    Error::job(what).at(&format!("--{option}"), value)
}
