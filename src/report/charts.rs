//! The line charts of the page, as the data that its script draws.

use super::run_log::RunLog;
use serde::Serialize;
use serde_json::Value;

/// Points of a curve: beyond, neighbours are replaced by their mean.
const MOST_POINTS: usize = 400;

/// A bucket of fewer rows than this tells little of calibration.
const LEAST_ROWS: f64 = 20.0;

/// Values of an evaluation that are no curves of their own.
const NOT_CURVES: [&str; 11] = [
    "auc_bound",
    "gauc_equal",
    "gauc_groups",
    "gauc_skipped",
    "queries",
    "queries_skipped",
    "rows",
    "positives",
    "mse",
    "normalized_entropy",
    "calibration",
];

/// Charts under one heading.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub text: &'static str,
    /// Numbers of its charts among all.
    pub charts: Vec<usize>,
}

/// One chart: curves over a common x.
#[derive(Debug, Default, Serialize)]
pub(super) struct Chart {
    pub title: String,
    /// What x is.
    pub x: &'static str,
    /// `line`, `points` or `bars`.
    pub kind: &'static str,
    /// Draws the diagonal, where a perfect curve lies, or one of chance.
    pub diagonal: bool,
    /// Of the y axis, where it is fixed.
    pub range: Option<[f64; 2]>,
    pub labels: Vec<String>,
    /// Colour of each curve.
    pub colours: Vec<usize>,
    /// x, then each curve; `null` where it has no value.
    pub data: Vec<Vec<Option<f64>>>,
}

/// A curve: its name, its colour, its points in ascending order of x.
struct Curve {
    label: String,
    colour: usize,
    points: Vec<(f64, f64)>,
}

impl Chart {
    fn of(title: String, x: &'static str, kind: &'static str, curves: Vec<Curve>) -> Option<Self> {
        let curves: Vec<Curve> = curves.into_iter().filter(|curve| !curve.points.is_empty()).collect();
        let mut xs: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().map(|(x, _)| *x)).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        if xs.is_empty() {
            return None;
        }
        let aligned = |curve: &Curve| {
            let mut values = vec![None; xs.len()];
            for &(x, y) in &curve.points {
                values[xs.partition_point(|&known| known < x)] = Some(y);
            }
            values
        };
        let data = std::iter::once(xs.iter().copied().map(Some).collect()).chain(curves.iter().map(aligned)).collect();
        let colours = curves.iter().map(|curve| curve.colour).collect();
        let labels = curves.into_iter().map(|curve| curve.label).collect();
        Some(Self { title, x, kind, labels, colours, data, ..Self::default() })
    }
}

/// All sections that have something to show, and their charts.
pub(super) fn sections(runs: &[RunLog]) -> (Vec<Section>, Vec<Chart>) {
    let mut charts = Vec::new();
    let mut sections = Vec::new();
    let mut add = |id, title, text, of_section: Vec<Chart>| {
        let first = charts.len();
        charts.extend(of_section);
        if charts.len() > first {
            sections.push(Section { id, title, text, charts: (first..charts.len()).collect() });
        }
    };
    add(
        "learning",
        "Learning",
        "Loss of each task in training, and what the evaluations on valid say.",
        learning(runs),
    );
    add(
        "quality",
        "Predictions",
        "On test, else on the last evaluation of valid. ROC: true over false positive rate. Calibration: the share of \
         positives over the mean prediction, in buckets of half a logit with 20 rows or more; on the diagonal both are \
         equal. GAUC: how many groups have which AUC.",
        quality(runs),
    );
    add(
        "balance",
        "Balance of the tasks",
        "Weights that the balancing method gives, and norms of the gradients.",
        balance(runs),
    );
    add("speed", "Speed and tables", "Rows a second over all ranks, and how the tables grow.", speed(runs));
    (sections, charts)
}

/// The steps' numbers at `path`, thinned.
fn over_steps(run: &RunLog, path: &[&str]) -> Vec<(f64, f64)> {
    let events = if run.rounds.is_empty() { &run.steps } else { &run.rounds };
    let points = events.iter().filter_map(|event| Some((event["step"].as_f64()?, at(event, path)?))).collect();
    thinned(points)
}

fn at(event: &Value, path: &[&str]) -> Option<f64> {
    path.iter().try_fold(event, |value, key| value.get(key))?.as_f64()
}

/// Means of neighbouring points, where there are too many.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    points.chunks(width).map(mean).collect()
}

/// One curve a run.
fn by_run(runs: &[RunLog], points: impl Fn(&RunLog) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let curve = |(colour, run): (usize, &RunLog)| Curve { label: run.name.clone(), colour, points: points(run) };
    runs.iter().enumerate().map(curve).collect()
}

/// Names over all runs, in the order in which they appear.
fn all_of(runs: &[RunLog], names: impl Fn(&RunLog) -> Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in runs.iter().flat_map(names) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn learning(runs: &[RunLog]) -> Vec<Chart> {
    let mut charts = Vec::new();
    for task in all_of(runs, RunLog::tasks) {
        let losses = by_run(runs, |run| over_steps(run, &["losses", &task]));
        charts.extend(Chart::of(format!("{task} · loss in training"), "step", "line", losses));
        for metric in all_of(runs, |run| curves_of(run, &task)) {
            let curves = by_run(runs, |run| over_evals(run, &task, &metric));
            // A single point is no curve; it stands in the table.
            let curves = curves.into_iter().filter(|curve| curve.points.len() > 1).collect();
            charts.extend(Chart::of(format!("{task} · {metric} on valid"), "step", "line", curves));
        }
    }
    charts.extend(runs.iter().filter(|run| !run.rounds.is_empty()).flat_map(losses_of_clients));
    charts
}

/// Of a federated run: each task's loss at the first clients, round by round.
fn losses_of_clients(run: &RunLog) -> Vec<Chart> {
    let clients = run.rounds.last().and_then(|round| round["losses"].as_object());
    let clients: Vec<&String> = clients.into_iter().flat_map(|clients| clients.keys().take(super::MOST_RUNS)).collect();
    let of_task = |task: String| {
        let curve = |(colour, client): (usize, &&String)| Curve {
            label: client.to_string(),
            colour,
            points: over_steps(run, &["losses", client, &task]),
        };
        let curves = clients.iter().enumerate().map(curve).collect();
        Chart::of(format!("{task} · loss of the clients · {}", run.name), "round", "line", curves)
    };
    run.tasks().into_iter().filter_map(of_task).collect()
}

fn curves_of(run: &RunLog, task: &str) -> Vec<String> {
    let metrics = run.last_eval("valid").and_then(|eval| eval["tasks"][task].as_object());
    let named = metrics.into_iter().flatten().map(|(name, _)| name.clone());
    named.filter(|name| !NOT_CURVES.contains(&name.as_str())).collect()
}

fn over_evals(run: &RunLog, task: &str, metric: &str) -> Vec<(f64, f64)> {
    let valid = run.evals.iter().filter(|eval| eval["split"] == "valid");
    thinned(valid.filter_map(|eval| Some((eval["step"].as_f64()?, at(eval, &["tasks", task, metric])?))).collect())
}

fn quality(runs: &[RunLog]) -> Vec<Chart> {
    let curves = |run: &RunLog, task: &str, name: &str| -> Vec<Value> {
        let curves = run.final_eval().map(|eval| &eval["curves"][task][name]);
        curves.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut charts = Vec::new();
    for task in all_of(runs, RunLog::tasks) {
        let roc = by_run(runs, |run| roc(&curves(run, &task, "roc")));
        let roc = Chart::of(format!("{task} · ROC"), "false positive rate", "line", roc);
        charts.extend(roc.map(|chart| Chart { diagonal: true, range: Some([0.0, 1.0]), ..chart }));
        let calibration = by_run(runs, |run| calibration(&curves(run, &task, "calibration")));
        let calibration = Chart::of(format!("{task} · calibration"), "mean prediction", "points", calibration);
        charts.extend(calibration.map(|chart| Chart { diagonal: true, ..chart }));
        let gauc = by_run(runs, |run| histogram(&curves(run, &task, "gauc")));
        charts.extend(Chart::of(format!("{task} · AUC of the groups"), "AUC", "bars", gauc));
    }
    charts
}

/// The curve at rates that all runs share, close together where rates are low.
fn roc(points: &[Value]) -> Vec<(f64, f64)> {
    const RATES: usize = 64;
    let points: Vec<(f64, f64)> = points.iter().filter_map(|p| Some((p[0].as_f64()?, p[1].as_f64()?))).collect();
    if points.is_empty() {
        return points;
    }
    let rates = (0..=RATES).map(|i| (i as f64 / RATES as f64).powi(2));
    rates.map(|rate| (rate, interpolated(&points, rate))).collect()
}

/// The height at `x` of the curve through points that go from x = 0 to x = 1; where it rises steeply, the top.
fn interpolated(points: &[(f64, f64)], x: f64) -> f64 {
    let above = points.partition_point(|point| point.0 <= x);
    match (above.checked_sub(1).and_then(|below| points.get(below)), points.get(above)) {
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
        (Some(a), None) => a.1,
        (None, _) => 0.0,
    }
}

fn calibration(buckets: &[Value]) -> Vec<(f64, f64)> {
    let kept = buckets.iter().filter(|bucket| bucket["rows"].as_f64().is_some_and(|rows| rows >= LEAST_ROWS));
    kept.filter_map(|bucket| Some((bucket["predicted"].as_f64()?, bucket["observed"].as_f64()?))).collect()
}

/// Each bin's count above its middle.
fn histogram(bins: &[Value]) -> Vec<(f64, f64)> {
    let middle = |bin: usize| (bin as f64 + 0.5) / bins.len() as f64;
    bins.iter().enumerate().filter_map(|(bin, count)| Some((middle(bin), count.as_f64()?))).collect()
}

/// Of each run the curves of its tasks: their weights and the norms of their gradients.
fn balance(runs: &[RunLog]) -> Vec<Chart> {
    let mut charts = Vec::new();
    for run in runs {
        let of_run = if runs.len() > 1 { format!(" · {}", run.name) } else { String::new() };
        for (key, title) in [("weights", "weight of each task"), ("grad_norms", "norm of each task's gradient")] {
            let curve =
                |(colour, task): (usize, String)| Curve { points: over_steps(run, &[key, &task]), label: task, colour };
            let curves = run.tasks().into_iter().enumerate().map(curve).collect();
            charts.extend(Chart::of(format!("{title}{of_run}"), "step", "line", curves));
        }
    }
    let norms = by_run(runs, |run| over_steps(run, &["grad_norm"]));
    charts.extend(Chart::of("norm of the update".to_string(), "step", "line", norms));
    charts
}

fn speed(runs: &[RunLog]) -> Vec<Chart> {
    let speed = by_run(runs, |run| over_steps(run, &["samples_per_s"]));
    let rates = by_run(runs, |run| over_steps(run, &["lr_factor"]));
    let mut charts: Vec<Chart> = Chart::of("rows a second".to_string(), "step", "line", speed).into_iter().collect();
    charts.extend(Chart::of("factor of the learning rates".to_string(), "step", "line", rates));
    let tables = |run: &RunLog| -> Vec<String> {
        let rows = run.steps.last().and_then(|step| step["table_rows"].as_object());
        rows.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    for run in runs {
        let of_run = if runs.len() > 1 { format!(" · {}", run.name) } else { String::new() };
        let mut names = tables(run);
        // The largest eight: more curves cannot be told apart.
        let last = |name: &String| run.steps.last().and_then(|step| at(step, &["table_rows", name])).unwrap_or(0.0);
        names.sort_by(|a, b| last(b).total_cmp(&last(a)));
        names.truncate(super::MOST_RUNS);
        let curve = |(colour, name): (usize, String)| Curve {
            points: over_steps(run, &["table_rows", &name]),
            label: name,
            colour,
        };
        let curves = names.into_iter().enumerate().map(curve).collect();
        charts.extend(Chart::of(format!("rows of the tables{of_run}"), "step", "line", curves));
    }
    charts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_become_their_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(points);
        assert!(thin.len() <= MOST_POINTS && thin[1] == (4.0, 2.0 / 3.0), "{:?}", &thin[..3]);
    }

    #[test]
    fn curves_share_their_x() {
        let curve =
            |label: &str, points: &[(f64, f64)]| Curve { label: label.into(), colour: 0, points: points.to_vec() };
        let curves = vec![curve("a", &[(1.0, 5.0), (3.0, 7.0)]), curve("none", &[]), curve("b", &[(2.0, 6.0)])];
        let chart = Chart::of("t".into(), "step", "line", curves).unwrap();
        assert_eq!(chart.labels, ["a", "b"]);
        let rows: [&[Option<f64>]; 3] =
            [&[Some(1.0), Some(2.0), Some(3.0)], &[Some(5.0), None, Some(7.0)], &[None, Some(6.0), None]];
        assert_eq!(chart.data, rows);
        assert!(Chart::of("t".into(), "step", "line", Vec::new()).is_none());
    }

    #[test]
    fn clients_of_a_federated_run_have_their_curves() {
        let round = |step: u64| serde_json::json!({"step": step, "losses": {"a": {"x": step}, "b": {"x": 2 * step}}});
        let job = serde_yaml::from_str("{tasks: [{name: x}]}").unwrap();
        let run = RunLog { job, rounds: vec![round(1), round(2)], ..RunLog::default() };
        let charts = losses_of_clients(&run);
        assert_eq!((charts.len(), &charts[0].labels), (1, &vec!["a".to_string(), "b".to_string()]));
        assert_eq!(charts[0].data[2], [Some(2.0), Some(4.0)]);
    }

    #[test]
    fn a_curve_is_read_between_its_points() {
        let points = [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)];
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|x| interpolated(&points, x)), [0.5, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(interpolated(&[(0.0, 0.0), (1.0, 1.0)], 0.3), 0.3);
    }
}
