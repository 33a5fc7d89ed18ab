//! Labels, masks and row weights, checked.

use super::{Decoder, Input, Place};
use crate::config::job::TaskKind;
use crate::data::batch::Batch;
use crate::data::schema::{Purpose, TaskColumns};
use crate::error::Result;

impl Decoder {
    /// Appends the label and weight of every row for every task. A label that its `where` column hides is
    /// not looked at.
    pub(super) fn append_targets<'a>(
        &mut self,
        input: impl Fn(usize) -> Input<'a>,
        rows: usize,
        place: &Place,
        out: &mut Batch,
    ) -> Result<()> {
        let schema = self.schema.clone();
        let weights = match schema.weight {
            Some(column) => self.row_weights(&input(column), place)?,
            None => vec![1.0; rows],
        };
        for (task, target) in schema.tasks.iter().zip(&mut out.targets) {
            if schema.purpose == Purpose::Predict {
                target.label.resize(target.label.len() + rows, 0.0);
                target.weight.resize(target.weight.len() + rows, 0.0);
                continue;
            }
            // Which rows carry the task; `None`: all of them.
            let mut mask = task.mask.map(|column| self.read_mask(&input(column), place)).transpose()?;
            match task.label.map(|label| (label, input(label))) {
                Some((label, column)) => self.read_labels(task, &column, label, &mut mask, place)?,
                // A row without a label is a positive by being there.
                None => {
                    self.numbers.clear();
                    self.numbers.resize(rows, 1.0);
                }
            }
            let labels = self.numbers.iter().map(|&value| value as f32);
            match mask {
                None => {
                    target.label.extend(labels);
                    target.weight.extend_from_slice(&weights);
                }
                Some(mask) => {
                    target.label.extend(labels.zip(&mask).map(|(label, &carries)| if carries { label } else { 0.0 }));
                    target.weight.extend(weights.iter().zip(&mask).map(|(&w, &carries)| if carries { w } else { 0.0 }));
                }
            }
        }
        Ok(())
    }

    /// The rows for which a `where` column is true: a NaN is no more so than a null is.
    fn read_mask(&mut self, input: &Input, place: &Place) -> Result<Vec<bool>> {
        self.read_numbers(input.array, input.name, place)?;
        let carries = |(row, value): (usize, &f64)| !input.is_null(row) && value.abs() > 0.0;
        Ok(self.numbers.iter().enumerate().map(carries).collect())
    }

    /// Fills `self.numbers` with a task's labels, and takes rows whose label is null out of `mask`. What it hides is not
    /// looked at.
    fn read_labels(
        &mut self,
        task: &TaskColumns,
        input: &Input,
        column: usize,
        mask: &mut Option<Vec<bool>>,
        place: &Place,
    ) -> Result<()> {
        if task.positive.is_empty() {
            self.read_numbers(input.array, input.name, place)?;
        } else {
            self.scalar_ids(input, column, place)?;
            self.numbers.clear();
            self.numbers.extend(self.ids.iter().map(|id| f64::from(u8::from(task.positive.contains(id)))));
        }
        if let Some(nulls) = &input.nulls {
            let mask = mask.get_or_insert_with(|| vec![true; nulls.len()]);
            mask.iter_mut().enumerate().for_each(|(row, carries)| *carries &= nulls.is_valid(row));
        }
        let carries = |row: usize| mask.as_ref().is_none_or(|mask| mask[row]);
        let wrong = |&(row, value): &(usize, &f64)| !is_label(task, *value) && carries(row);
        match self.numbers.iter().enumerate().find(wrong) {
            None => Ok(()),
            Some((row, value)) => {
                let error = place.error(wrong_label(task), input.name, row);
                Err(error.at("value", value).fix(label_remedy(task)))
            }
        }
    }

    fn row_weights(&mut self, input: &Input, place: &Place) -> Result<Vec<f32>> {
        self.read_numbers(input.array, input.name, place)?;
        let check = |(row, &x): (usize, &f64)| {
            let weight = x as f32;
            if !input.is_null(row) && weight.is_finite() && weight >= 0.0 {
                return Ok(weight);
            }
            let value = if input.is_null(row) { "null".to_string() } else { x.to_string() };
            Err(place
                .error(format!("a row weight of {value}"), input.name, row)
                .fix("weights must be finite numbers, zero or more; zero leaves a row out"))
        };
        self.numbers.iter().enumerate().map(check).collect()
    }
}

fn is_label(task: &TaskColumns, value: f64) -> bool {
    match task.kind {
        TaskKind::Binary => value == 0.0 || value == 1.0,
        TaskKind::Regression => (value as f32).is_finite(),
        TaskKind::Multiclass => value.fract() == 0.0 && value >= 0.0 && value < task.classes as f64,
        TaskKind::Bpr => value == 1.0,
    }
}

fn wrong_label(task: &TaskColumns) -> String {
    match task.kind {
        TaskKind::Binary => format!("the label of task `{}` is neither 0 nor 1", task.name),
        TaskKind::Regression => format!("the label of task `{}` is not a finite number", task.name),
        TaskKind::Multiclass => format!("the label of task `{}` is no class in 0..{}", task.name, task.classes),
        TaskKind::Bpr => format!("task `{}` has no label", task.name),
    }
}

fn label_remedy(task: &TaskColumns) -> &'static str {
    match task.kind {
        TaskKind::Binary => {
            "map the label to 0 and 1 (null where it is unknown), or set the task's `kind` to `regression` or \
             `multiclass`"
        }
        TaskKind::Regression => "write null where the label is unknown",
        TaskKind::Multiclass => "number the classes from 0, and set `classes` to their number",
        TaskKind::Bpr => "remove `label`",
    }
}
