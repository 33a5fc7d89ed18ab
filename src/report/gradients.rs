//! How the tasks' gradients agree over time, as a heat map, and summed up over the run.

use super::run_log::RunLog;
use serde::Serialize;
use serde_json::Value;

/// Columns of a heat map.
const COLUMNS: usize = 60;

/// More pairs than this are no picture any more.
const MOST_PAIRS: usize = 45;

/// The gradients of one run.
#[derive(Debug, Serialize)]
pub(super) struct Gradients {
    name: String,
    scope: Value,
    /// First and last step of the map.
    steps: [f64; 2],
    pairs: Vec<Pair>,
    /// The `conflict` of the `end` event.
    conflict: Value,
}

#[derive(Debug, Serialize)]
struct Pair {
    tasks: [String; 2],
    mean: f64,
    /// Steps and mean cosine of each column.
    cells: Vec<([f64; 2], f64)>,
}

/// What the log of a run says; without compared steps there are no pairs.
pub(super) fn of_run(run: &RunLog) -> Gradients {
    let compared: Vec<(f64, &Value)> =
        run.steps.iter().filter_map(|step| Some((step["step"].as_f64()?, step.get("cosines")?))).collect();
    let tasks = run.tasks();
    let both = (0..tasks.len()).flat_map(|k| (k + 1..tasks.len()).map(move |l| (k, l))).take(MOST_PAIRS);
    let pair = |(k, l): (usize, usize)| {
        let cosines: Vec<(f64, f64)> =
            compared.iter().filter_map(|(step, cosines)| Some((*step, cosines[k][l].as_f64()?))).collect();
        let width = cosines.len().div_ceil(COLUMNS).max(1);
        let mean = |cells: &[(f64, f64)]| cells.iter().map(|cell| cell.1).sum::<f64>() / cells.len().max(1) as f64;
        let cell = |cells: &[(f64, f64)]| ([cells[0].0, cells[cells.len() - 1].0], mean(cells));
        let tasks = [tasks[k].clone(), tasks[l].clone()];
        Pair { tasks, mean: mean(&cosines), cells: cosines.chunks(width).map(cell).collect() }
    };
    let ends = [compared.first(), compared.last()].map(|end| end.map_or(0.0, |(step, _)| *step));
    let scope = run.steps.iter().rev().find_map(|step| step.get("scope")).cloned();
    Gradients {
        name: run.name.clone(),
        scope: scope.unwrap_or_default(),
        steps: ends,
        pairs: both.map(pair).filter(|pair| !pair.cells.is_empty()).collect(),
        conflict: run.end["conflict"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cosines_of_neighbouring_steps_share_a_cell() {
        let step = |step: u64| {
            json!({"step": step, "scope": "shared", "losses": {"a": 1, "b": 1},
            "cosines": [[1.0, step as f64], [step as f64, 1.0]]})
        };
        let run = RunLog { steps: (1..=100).map(step).collect(), ..RunLog::default() };
        let gradients = of_run(&run);
        assert_eq!((gradients.scope, gradients.steps), (json!("shared"), [1.0, 100.0]));
        let pair = &gradients.pairs[0];
        assert_eq!((pair.tasks.clone(), pair.mean, pair.cells.len()), (["a".into(), "b".into()], 50.5, 50));
        assert_eq!(pair.cells[1], ([3.0, 4.0], 3.5));
        assert!(of_run(&RunLog::default()).pairs.is_empty());
    }
}
