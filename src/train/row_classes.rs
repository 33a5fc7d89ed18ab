//! A class that the trainer keeps of every training row for the architecture: MPT-Rec's environments.
//!
//! ```text
//! classes   one byte a row, by its number in the log     row groups in the order of the plan
//! ```
//!
//! The number of a row says where it is in the log, not where it is in a batch, so training data are shuffled as ever.
//! The first classes are drawn from the seed and that number; later ones are those of the tasks that the model fits best
//! on the row. They are saved, since a later model would choose others. Every rank holds all of them: the shuffling brings
//! any row to any rank in the next epoch, and a byte a row is little beside what a row costs on disk or in tables.

use super::dataset::Dataset;
use super::losses::TaskSpec;
use super::step::Trainable;
use crate::comm::{Comm, collectives};
use crate::data::batch::{Batch, Origin};
use crate::data::lanes::{Cursor, Order};
use crate::data::plan::Plan;
use crate::data::statistics::Statistics;
use crate::error::{Error, Result};
use crate::model;
use crate::random;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct RowClasses {
    wanted: model::RowClasses,
    /// Number of the first row of each row group.
    starts: Vec<u64>,
    classes: Vec<u8>,
    /// The epoch that began with the last assignment.
    assigned: u64,
}

impl RowClasses {
    /// Random ones for the rows of `plan`.
    ///
    /// # Errors
    /// More classes than a byte has room for.
    pub fn random(wanted: model::RowClasses, plan: &Plan, seed: u64) -> Result<Self> {
        let count = wanted.tasks.len() as u64;
        if count > 1 << u8::BITS {
            return Err(Error::job(format!("{count} tasks are more than there is room for in a row's class"))
                .at("key", "tasks")
                .fix("use at most 256 tasks, or `adversary: 0`"));
        }
        let starts = plan.row_groups.iter().scan(0, |end, group| {
            let start = *end;
            *end += u64::from(group.rows);
            Some(start)
        });
        let draw = |row| (random::hash(seed, &[random::text("row class"), row]) % count.max(1)) as u8;
        Ok(Self { starts: starts.collect(), classes: (0..plan.rows).map(draw).collect(), assigned: 0, wanted })
    }

    /// Given ones, by the rows of a batch whose addresses `plan` knows.
    ///
    /// # Errors
    /// Another number of them, or a class that there is not.
    pub fn of_batch(wanted: model::RowClasses, plan: &Plan, batch: &Batch, classes: &[u32]) -> Result<Self> {
        if classes.len() != batch.rows {
            return Err(Error::data(format!("{} classes of {} rows", classes.len(), batch.rows)));
        }
        let mut all = Self::random(wanted, plan, 0)?;
        let mut by_row = vec![0; all.classes.len()];
        for ((&origin, &class), _) in
            batch.origin.iter().zip(classes).zip(&batch.present).filter(|(_, present)| **present)
        {
            by_row[all.number(origin)] = class.min(u8::MAX.into()) as u8;
        }
        all.restore((by_row, 0))?;
        Ok(all)
    }

    /// What a checkpoint saves: the classes, and the epoch that began with them.
    pub fn saved(&self) -> (&[u8], u64) {
        (&self.classes, self.assigned)
    }

    /// Takes over what a checkpoint saved.
    ///
    /// # Errors
    /// Another number of rows, or a class that there is not.
    pub fn restore(&mut self, (classes, assigned): (Vec<u8>, u64)) -> Result<()> {
        if classes.len() != self.classes.len() || classes.iter().any(|&c| usize::from(c) >= self.wanted.tasks.len()) {
            return Err(Error::checkpoint("the classes of the training rows do not fit the job and its data"));
        }
        (self.classes, self.assigned) = (classes, assigned);
        Ok(())
    }

    /// The class of each row of a batch; 0 for padding.
    pub fn of(&self, batch: &Batch) -> Arc<[u32]> {
        let rows = batch.origin.iter().zip(&batch.present);
        rows.map(|(&origin, &present)| if present { self.classes[self.number(origin)].into() } else { 0 }).collect()
    }

    /// The number of a row in the log.
    fn number(&self, origin: Origin) -> usize {
        (self.starts[origin.row_group as usize] + u64::from(origin.row)) as usize
    }

    /// Whether they are to be assigned anew before the first step of `epoch`.
    pub fn due(&self, epoch: u64) -> bool {
        epoch >= self.assigned + self.wanted.every_epochs
    }

    /// Gives every row of `train` the class of the task whose loss on it is the smallest: of those tasks that label it; a
    /// row without labels keeps its class. Every rank scores its share of the rows. Collective.
    pub fn reassign(
        &mut self,
        comm: &Comm,
        train: &Dataset,
        trainable: &mut Trainable,
        statistics: &Arc<Statistics>,
        global_batch: usize,
        epoch: u64,
    ) -> Result<()> {
        let layout = train.in_order(comm, global_batch);
        let mut loader = train.loader(comm, statistics, layout, Order::sequential(), Cursor::default(), 2)?;
        let mine = layout.spans(&layout.hosted(comm.rank(), comm.size())?);
        while let Some(batch) = collectives::agree(comm.as_ref(), loader.next())? {
            let logits = trainable.infer(comm, &batch)?;
            for row in (0..batch.rows).filter(|&row| batch.present[row]) {
                if let Some(class) = best_class(&self.wanted.tasks, &trainable.tasks, &logits, &batch, row) {
                    let number = self.number(batch.origin[row]);
                    self.classes[number] = class;
                }
            }
        }
        let shares =
            collectives::all_gather_messages(comm.as_ref(), &self.classes[mine.start as usize..mine.end as usize])?;
        self.classes = shares.concat();
        self.assigned = epoch;
        Ok(())
    }
}

/// The class of the task with the smallest loss on `row`, the first of equal ones; `None` without a label.
fn best_class(candidates: &[usize], tasks: &[TaskSpec], logits: &[Vec<f32>], batch: &Batch, row: usize) -> Option<u8> {
    let mut best: Option<(f64, u8)> = None;
    for (class, &task) in candidates.iter().enumerate() {
        let (TaskSpec { loss, outputs, .. }, target) = (&tasks[task], &batch.targets[task]);
        if target.weight[row] == 0.0 {
            continue;
        }
        let logits = &logits[task][row * outputs..][..*outputs];
        let value = loss.with_gradient(logits, &target.label[row..=row], &[1.0], 1.0, &mut vec![0.0; *outputs]);
        if best.is_none_or(|(smallest, _)| value < smallest) {
            best = Some((value, class as u8));
        }
    }
    best.map(|(_, class)| class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Target;
    use crate::data::plan::RowGroup;
    use crate::nn::Loss;

    fn plan() -> Plan {
        let group = |rows| RowGroup { file: 0, index: 0, rows, bytes: 0 };
        Plan { row_groups: vec![group(300), group(500)], rows: 800, ..Plan::default() }
    }

    fn classes(seed: u64) -> RowClasses {
        RowClasses::random(model::RowClasses { tasks: vec![0, 1, 2], every_epochs: 2 }, &plan(), seed).unwrap()
    }

    #[test]
    fn a_row_keeps_its_class_wherever_it_stands_in_a_batch() {
        let classes = classes(4);
        let at = |row_group, row| Origin { row_group, row };
        let batch = |origin: Vec<Origin>| Batch {
            rows: origin.len(),
            present: (0..origin.len()).map(|row| row != 1).collect(),
            origin,
            ..Batch::default()
        };
        let (one, other) = (batch(vec![at(1, 7), at(0, 0), at(0, 299)]), batch(vec![at(0, 299), at(0, 0), at(1, 7)]));
        let (one, other) = (classes.of(&one), classes.of(&other));
        assert_eq!((one[0], one[2], one[1]), (other[2], other[0], 0));
        assert_eq!(one[0], u32::from(classes.saved().0[307]));
        for class in 0..3 {
            let share = classes.saved().0.iter().filter(|&&c| c == class).count();
            assert!((200..330).contains(&share), "{share} of 800");
        }
        assert_eq!(classes, self::classes(4));
        assert_ne!(classes, self::classes(5));
    }

    #[test]
    fn saved_classes_must_fit() {
        let mut classes = classes(4);
        assert!(!classes.due(1) && classes.due(2));
        classes.restore((vec![2; 800], 6)).unwrap();
        assert!(!classes.due(7) && classes.due(8));
        assert!(classes.restore((vec![3; 800], 0)).is_err());
        assert!(classes.restore((vec![0; 799], 0)).is_err());
    }

    #[test]
    fn the_best_fitted_labelled_task_wins() {
        let task = |name: &str| TaskSpec {
            name: name.to_string(),
            loss: Loss::BinaryCrossEntropy,
            outputs: 1,
            weight: 1.0,
            reaches: true,
        };
        let tasks = [task("a"), task("b"), task("c")];
        let target = |label: &[f32], weight: &[f32]| Target { label: label.to_vec(), weight: weight.to_vec() };
        let batch = Batch {
            rows: 3,
            targets: vec![
                target(&[1.0, 1.0, 0.0], &[1.0, 1.0, 0.0]),
                target(&[1.0, 1.0, 0.0], &[1.0, 1.0, 0.0]),
                target(&[1.0, 1.0, 0.0], &[0.0, 0.5, 0.0]),
            ],
            ..Batch::default()
        };
        let logits = [vec![2.0, 0.0, 0.0], vec![1.0, 0.0, 0.0], vec![9.0, 0.5, 0.0]];
        let best = |row| best_class(&[0, 1, 2], &tasks, &logits, &batch, row);
        assert_eq!((best(0), best(1), best(2)), (Some(0), Some(2), None));
    }
}
