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
            let mut mask = vec![true; rows];
            if let Some(column) = task.mask {
                let column = input(column);
                self.read_numbers(column.array, column.name, place)?;
                for (row, carries) in mask.iter_mut().enumerate() {
                    // A NaN is no more true than a null is.
                    *carries = !column.is_null(row) && self.numbers[row].abs() > 0.0;
                }
            }
            let Some(label) = task.label else {
                // A row without a label is a positive by being there.
                target.label.resize(target.label.len() + rows, 1.0);
                target.weight.extend(mask.iter().zip(&weights).map(|(&carries, &w)| if carries { w } else { 0.0 }));
                continue;
            };
            let column = input(label);
            if task.positive.is_empty() {
                self.read_numbers(column.array, column.name, place)?;
            } else {
                self.scalar_ids(&column, label, place)?;
                self.numbers.clear();
                self.numbers.extend(self.ids.iter().map(|id| f64::from(u8::from(task.positive.contains(id)))));
            }
            for (row, &value) in self.numbers.iter().enumerate() {
                let carries = mask[row] && !column.is_null(row);
                if carries && let Some(what) = wrong_label(task, value) {
                    return Err(place.error(what, column.name, row).at("value", value).fix(label_remedy(task)));
                }
                target.label.push(if carries { value as f32 } else { 0.0 });
                target.weight.push(if carries { weights[row] } else { 0.0 });
            }
        }
        Ok(())
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

fn wrong_label(task: &TaskColumns, value: f64) -> Option<String> {
    let fine = match task.kind {
        TaskKind::Binary => value == 0.0 || value == 1.0,
        TaskKind::Regression => (value as f32).is_finite(),
        TaskKind::Multiclass => value.fract() == 0.0 && value >= 0.0 && value < task.classes as f64,
        TaskKind::Bpr => value == 1.0,
    };
    if fine {
        return None;
    }
    Some(match task.kind {
        TaskKind::Binary => format!("the label of task `{}` is neither 0 nor 1", task.name),
        TaskKind::Regression => format!("the label of task `{}` is not a finite number", task.name),
        TaskKind::Multiclass => format!("the label of task `{}` is no class in 0..{}", task.name, task.classes),
        TaskKind::Bpr => format!("task `{}` has no label", task.name),
    })
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
