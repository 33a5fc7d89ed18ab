//! The metrics of every task within each scenario: one [`Evaluator`] for each of them.

use super::report::ScenarioReport;
use super::{Evaluator, Task};
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};

/// Gathers the metrics of the rows of one rank by scenario.
pub struct ByScenario {
    names: Vec<String>,
    /// One for each name, and the last for "other".
    evaluators: Vec<Evaluator>,
    rows: Vec<u64>,
}

impl ByScenario {
    /// A fresh one for scenarios of these names; `rows` is as in [`Evaluator::new`]. Without names nothing is
    /// gathered.
    pub fn new(tasks: &[Task], rows: u64, names: &[String]) -> Self {
        let count = if names.is_empty() { 0 } else { names.len() + 1 };
        let evaluators = (0..count).map(|_| Evaluator::new(tasks, rows)).collect();
        Self { names: names.to_vec(), evaluators, rows: vec![0; count] }
    }

    /// Counts the rows of a batch that are `present`; `scenarios` has each row's number.
    pub fn count(&mut self, scenarios: &[u32], present: &[bool]) -> Result<()> {
        for (&scenario, _) in scenarios.iter().zip(present).filter(|(_, present)| **present) {
            *self.rows.get_mut(scenario as usize).ok_or_else(unknown)? += 1;
        }
        Ok(())
    }

    /// Takes in rows of one task, as [`Evaluator::add`] does; `scenarios` has each row's number.
    pub fn add(
        &mut self,
        scenarios: &[u32],
        task: usize,
        logits: &[f32],
        (labels, weights): (&[f32], &[f32]),
        groups: &[u64],
    ) -> Result<()> {
        let outputs = logits.len() / labels.len().max(1);
        let mut by_scenario: Vec<Vec<usize>> = vec![Vec::new(); self.evaluators.len()];
        for (row, &scenario) in scenarios.iter().enumerate() {
            by_scenario.get_mut(scenario as usize).ok_or_else(unknown)?.push(row);
        }
        for (evaluator, rows) in self.evaluators.iter_mut().zip(&by_scenario).filter(|(_, rows)| !rows.is_empty()) {
            let pick = |values: &[f32]| -> Vec<f32> { rows.iter().map(|&row| values[row]).collect() };
            let logits = rows.iter().flat_map(|&row| &logits[row * outputs..][..outputs]);
            let logits: Vec<f32> = logits.copied().collect();
            let groups: Vec<u64> = rows.iter().filter_map(|&row| groups.get(row).copied()).collect();
            evaluator.add(task, &logits, &pick(labels), &pick(weights), &groups)?;
        }
        Ok(())
    }

    /// The metrics of every scenario over all ranks' rows; the same bits on every rank, at any number of ranks.
    /// Collective.
    pub fn finish(mut self, comm: &dyn Communicator) -> Result<Vec<ScenarioReport>> {
        collectives::all_reduce_sum(comm, &mut self.rows)?;
        let names = self.names.into_iter().map(Some).chain([None]);
        let mut reports = Vec::new();
        for ((evaluator, scenario), rows) in self.evaluators.into_iter().zip(names).zip(self.rows) {
            if scenario.is_some() || rows > 0 {
                reports.push(ScenarioReport { scenario, rows, tasks: evaluator.finish(comm)? });
            }
        }
        Ok(reports)
    }
}

fn unknown() -> Error {
    Error::internal("a row has a scenario without a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use crate::config::job::TaskKind;
    use crate::metric::testing::dealt;

    fn tasks() -> Vec<Task> {
        let task = |name: &str, kind, outputs, grouped| Task {
            name: name.to_string(),
            kind,
            outputs,
            grouped,
            ranked_at: Vec::new(),
        };
        vec![task("click", TaskKind::Binary, 1, true), task("kind", TaskKind::Multiclass, 3, false)]
    }

    /// One row's draw for a purpose.
    fn draw(row: u64, what: u64) -> f32 {
        crate::random::unit(4, &[row, what]) as f32
    }

    type Row = (Vec<f32>, f32, f32, u64);

    /// Logits, label, weight and group of a row of a task.
    fn row(task: usize, row: u64) -> Row {
        let weight = f32::from(u8::from(!row.is_multiple_of(11)));
        match task {
            0 => (vec![draw(row, 1)], f32::from(u8::from(draw(row, 2) < 0.4)), weight, row % 5),
            _ => ((3..6).map(|what| draw(row, what)).collect(), (row % 3) as f32, weight, 0),
        }
    }

    fn scenario(row: u64) -> u32 {
        // Number 1 has no rows.
        [0, 2, 2, 3][row as usize % 4]
    }

    const ROWS: std::ops::Range<u64> = 0..240;

    fn by_scenario(ranks: usize) -> Vec<ScenarioReport> {
        let names = ["a", "b", "c"].map(String::from);
        let all: Vec<u64> = ROWS.collect();
        let reports = threads::ranks(ranks, |comm| {
            let mut gathered = ByScenario::new(&tasks(), 240, &names);
            let mine = dealt(&all, comm);
            let scenarios: Vec<u32> = mine.iter().map(|&row| scenario(row)).collect();
            gathered.count(&scenarios, &vec![true; mine.len()]).unwrap();
            for task in 0..2 {
                let rows: Vec<Row> = mine.iter().map(|&number| row(task, number)).collect();
                let logits: Vec<f32> = rows.iter().flat_map(|row| row.0.clone()).collect();
                let labels: Vec<f32> = rows.iter().map(|row| row.1).collect();
                let weights: Vec<f32> = rows.iter().map(|row| row.2).collect();
                let groups: Vec<u64> = rows.iter().map(|row| row.3).collect();
                gathered.add(&scenarios, task, &logits, (&labels, &weights), &groups).unwrap();
            }
            gathered.finish(comm).unwrap()
        });
        assert!(reports.iter().all(|report| *report == reports[0]));
        reports[0].clone()
    }

    #[test]
    fn each_scenario_has_the_metrics_of_its_own_rows_on_any_number_of_ranks() {
        let one = by_scenario(1);
        for ranks in 2..=4 {
            assert_eq!(by_scenario(ranks), one);
        }
        let heads: Vec<_> = one.iter().map(|report| (report.scenario.as_deref(), report.rows)).collect();
        assert_eq!(heads, [(Some("a"), 60), (Some("b"), 0), (Some("c"), 120), (None, 60)]);
        for (number, report) in one.iter().enumerate() {
            let mut alone = Evaluator::new(&tasks(), 240);
            for task in 0..2 {
                for (logits, label, weight, group) in
                    ROWS.filter(|&r| scenario(r) as usize == number).map(|r| row(task, r))
                {
                    alone.add(task, &logits, &[label], &[weight], &[group]).unwrap();
                }
            }
            assert_eq!(report.tasks, alone.finish(&crate::comm::solo::Solo).unwrap());
        }
        assert_eq!(one[1].tasks[0].get("auc"), None, "a scenario without rows has no AUC");
    }

    #[test]
    fn padding_is_not_counted_and_without_names_there_is_nothing() {
        let mut gathered = ByScenario::new(&tasks(), 9, &["a".to_string()]);
        gathered.count(&[0, 0, 1], &[true, false, false]).unwrap();
        let reports = gathered.finish(&crate::comm::solo::Solo).unwrap();
        assert_eq!(reports.iter().map(|report| report.rows).collect::<Vec<_>>(), [1]);
        assert!(ByScenario::new(&tasks(), 9, &[]).finish(&crate::comm::solo::Solo).unwrap().is_empty());
        assert!(ByScenario::new(&tasks(), 9, &["a".to_string()]).count(&[2], &[true]).is_err());
    }
}
