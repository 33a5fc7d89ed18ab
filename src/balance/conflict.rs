//! How much the tasks of a run conflict, and what the balancing method makes of it: sums over the steps, from the Gram
//! matrix that the method sees anyway, or that a step took for the log.

use super::{Scope, gram};
use serde::Serialize;
use std::fmt;

/// Counts over the steps of a run.
#[derive(Debug, Clone, Default)]
pub struct Conflict {
    steps: u64,
    /// What the last step compared.
    scope: Option<Scope>,
    /// Of tasks k < l, in order of k and then of l.
    pairs: Vec<PairSums>,
    tasks: Vec<TaskSums>,
}

#[derive(Debug, Clone, Copy, Default)]
struct PairSums {
    steps: u64,
    conflicts: u64,
    cosine: f64,
    conflicting_cosine: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct TaskSums {
    steps: u64,
    weight: f64,
    against: u64,
    against_sum: u64,
}

/// What [`Conflict`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Steps that were counted.
    pub steps: u64,
    /// Whose gradients were compared: a `balance.scope`.
    pub scope: &'static str,
    /// Every pair of tasks.
    pub pairs: Vec<Pair>,
    /// Every task.
    pub tasks: Vec<Task>,
}

/// Two tasks' gradients.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// Their names.
    pub tasks: [String; 2],
    /// Share of the steps in which the gradients' product is negative, among those in which both have one.
    pub conflicts: f64,
    /// Mean cosine.
    pub cosine: f64,
    /// Mean cosine over the steps of conflict; 0 if there are none.
    pub conflicting_cosine: f64,
}

/// One task's part in the updates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// Its name.
    pub task: String,
    /// Mean weight.
    pub weight: f64,
    /// Share of the steps whose update points against its gradient, which raises its loss.
    pub against: f64,
    /// The same share if all tasks had weight 1.
    pub against_plain_sum: f64,
}

impl Conflict {
    /// Counts one step: the K × K Gram matrix in `scope`, and the weights that the method gave.
    pub fn add(&mut self, scope: Scope, gram: &[f64], weights: &[f64]) {
        let tasks = weights.len();
        if gram.len() != tasks * tasks || tasks == 0 {
            return;
        }
        self.steps += 1;
        self.scope = Some(scope);
        self.pairs.resize(tasks * (tasks - 1) / 2, PairSums::default());
        self.tasks.resize(tasks, TaskSums::default());
        let cosines = gram::cosines(gram, tasks);
        let moves = |k: usize| gram[k * tasks + k] > 0.0;
        let both = (0..tasks).flat_map(|k| (k + 1..tasks).map(move |l| (k, l)));
        for (pair, (k, l)) in self.pairs.iter_mut().zip(both).filter(|(_, (k, l))| moves(*k) && moves(*l)) {
            pair.add(cosines[k * tasks + l]);
        }
        for (k, task) in self.tasks.iter_mut().enumerate().filter(|(k, _)| moves(*k)) {
            let row = &gram[k * tasks..(k + 1) * tasks];
            task.add(weights[k], row.iter().zip(weights).map(|(g, w)| g * w).sum(), row.iter().sum());
        }
    }

    /// What was found, if any step was counted; `names` are the tasks'.
    pub fn report(&self, names: &[String]) -> Option<Report> {
        let scope = self.scope.filter(|_| names.len() == self.tasks.len())?.name();
        let both =
            names.iter().enumerate().flat_map(|(k, a)| names[k + 1..].iter().map(move |b| [a.clone(), b.clone()]));
        let pairs = self.pairs.iter().zip(both).map(|(sums, tasks)| sums.report(tasks)).collect();
        let tasks = self.tasks.iter().zip(names).map(|(sums, name)| sums.report(name)).collect();
        Some(Report { steps: self.steps, scope, pairs, tasks })
    }
}

impl PairSums {
    fn add(&mut self, cosine: f64) {
        self.steps += 1;
        self.cosine += cosine;
        if cosine < 0.0 {
            self.conflicts += 1;
            self.conflicting_cosine += cosine;
        }
    }

    fn report(&self, tasks: [String; 2]) -> Pair {
        let steps = self.steps.max(1) as f64;
        Pair {
            tasks,
            conflicts: self.conflicts as f64 / steps,
            cosine: self.cosine / steps,
            conflicting_cosine: self.conflicting_cosine / self.conflicts.max(1) as f64,
        }
    }
}

impl TaskSums {
    /// `along` is the product of the task's gradient with the update, `along_sum` with the plain sum.
    fn add(&mut self, weight: f64, along: f64, along_sum: f64) {
        self.steps += 1;
        self.weight += weight;
        self.against += u64::from(along < 0.0);
        self.against_sum += u64::from(along_sum < 0.0);
    }

    fn report(&self, name: &str) -> Task {
        let steps = self.steps.max(1) as f64;
        Task {
            task: name.to_string(),
            weight: self.weight / steps,
            against: self.against as f64 / steps,
            against_plain_sum: self.against_sum as f64 / steps,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names = self.pairs.iter().map(|pair| format!("{} – {}", pair.tasks[0], pair.tasks[1]));
        let names: Vec<String> = names.collect();
        let longest = self.tasks.iter().map(|task| &task.task).chain(&names).map(|name| name.chars().count());
        let width = longest.max().unwrap_or(0).max(5);
        writeln!(f, "{:<width$}  {:>9}  {:>8}  {:>11}", "tasks", "conflict", "cosine", "in conflict")?;
        for (name, pair) in names.iter().zip(&self.pairs) {
            let (share, cosine, deep) = (100.0 * pair.conflicts, pair.cosine, pair.conflicting_cosine);
            writeln!(f, "{name:<width$}  {share:>7.1} %  {cosine:>8.3}  {deep:>11.3}")?;
        }
        writeln!(f, "\n{:<width$}  {:>9}  {:>13}  {:>11}", "task", "weight", "against it", "plain sum")?;
        for Task { task, weight, against, against_plain_sum } in &self.tasks {
            let (against, plain) = (100.0 * against, 100.0 * against_plain_sum);
            writeln!(f, "{task:<width$}  {weight:>9.4}  {against:>11.1} %  {plain:>9.1} %")?;
        }
        write!(
            f,
            "over {} steps, gradients in scope `{}`; `against it`: updates that raise this task's loss, and how many the \
             plain sum would be",
            self.steps, self.scope
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::gram_of;

    fn names() -> Vec<String> {
        ["a", "b", "c"].map(str::to_string).to_vec()
    }

    #[test]
    fn conflicts_are_counted_by_pair_and_harm_by_task() {
        let mut conflict = Conflict::default();
        assert!(conflict.report(&names()).is_none(), "nothing to say before the first step");
        // b points against a, and is longer; c is absent in the first step.
        conflict.add(Scope::Shared, &gram_of(&[vec![1.0, 0.0], vec![-2.0, 0.0], vec![0.0, 0.0]]), &[3.0, 1.0, 0.0]);
        conflict.add(Scope::Shared, &gram_of(&[vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]]), &[1.0, 1.0, 1.0]);
        let report = conflict.report(&names()).unwrap();
        assert_eq!(report.steps, 2);
        let pairs: Vec<_> = report.pairs.iter().map(|p| (p.conflicts, p.cosine, p.conflicting_cosine)).collect();
        assert_eq!(pairs, [(0.5, 0.0, -1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]);
        assert_eq!(report.pairs[1].tasks, ["a", "c"]);
        let tasks: Vec<_> = report.tasks.iter().map(|t| (t.weight, t.against, t.against_plain_sum)).collect();
        // Step 1: 3·(1, 0) + (−2, 0) = (1, 0) is against b; the plain sum (−1, 0) is against a.
        assert_eq!(tasks, [(2.0, 0.0, 0.5), (1.0, 0.5, 0.0), (1.0, 0.0, 0.0)]);
        let text = report.to_string();
        assert!(
            text.contains("a – b")
                && text.contains("50.0 %")
                && text.contains("over 2 steps, gradients in scope `shared`"),
            "{text}"
        );
    }

    #[test]
    fn without_a_gram_matrix_there_is_nothing_to_report() {
        let mut conflict = Conflict::default();
        conflict.add(Scope::Shared, &[], &[1.0, 1.0, 1.0]);
        assert!(conflict.report(&names()).is_none());
    }
}
