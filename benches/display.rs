//! What it costs to show a run: the progress display, a line of the log, and the file for Prometheus, as `tandem train` writes them.
//!
//! ```text
//! cargo bench --bench display
//! ```
//!
//! Steps are idle and take 10 ms, less than those of any job worth watching, with a line of the log every tenth. The live display is
//! drawn where stderr is a terminal; elsewhere plain lines are written.

use serde_json::Map;
use std::fs;
use std::time::{Duration, Instant};
use tandem::observe::progress::{Plan, Step};
use tandem::observe::{Events, Format, Progress, Terminal};
use tandem::train::events::{self, Notice};
use tandem::train::prometheus::Prometheus;

const TASKS: [&str; 3] = ["click", "cart", "buy"];
const STEPS: u64 = 1000;
const STEP: Duration = Duration::from_millis(10);
const LOG_EVERY: u64 = 10;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let terminal = Terminal::stderr(Format::Text);
    let tasks: Vec<String> = TASKS.map(str::to_string).into();
    let mut progress = Progress::start(&terminal, 0, Plan { steps: STEPS, done: 0, epochs: 1, tasks });
    let mut log = Events::create(&folder.path().join("metrics.jsonl"))?;
    let mut gauges = Prometheus::new("bench");
    let mut next = Instant::now();

    let (mut shown, mut logged) = (Vec::new(), Vec::new());
    for step in 1..=STEPS {
        std::thread::sleep(STEP);
        let start = Instant::now();
        progress.step(&Step { epoch: 0, step, rows: 4096, losses: &[0.5, 0.25, 0.125] });
        shown.push(start.elapsed());
        let start = Instant::now();
        if step % LOG_EVERY == 0 {
            let notice = notice(step);
            notice.write(&mut log)?;
            gauges.notice(&notice);
            if start >= next {
                fs::write(folder.path().join("metrics.prom"), gauges.text())?;
                next = start + Duration::from_secs(1);
            }
        }
        logged.push(start.elapsed());
    }
    progress.finish();
    let kind = if terminal.is_interactive() { "the live display" } else { "plain lines" };
    report(kind, &shown);
    report("the log and metrics.prom", &logged);
    Ok(())
}

fn report(what: &str, times: &[Duration]) {
    let total: Duration = times.iter().sum();
    let mean_us = 1e6 * total.as_secs_f64() / times.len() as f64;
    let longest_us = 1e6 * times.iter().max().map_or(0.0, Duration::as_secs_f64);
    let share = 100.0 * mean_us / (1e6 * STEP.as_secs_f64());
    println!(
        "{what}: {mean_us:.1} µs a step on average, {longest_us:.0} µs at most: {share:.2} % of steps of {STEP:?}"
    );
}

fn notice(step: u64) -> Notice {
    let of_tasks = |value: f64| -> Map<_, _> { TASKS.iter().map(|task| (task.to_string(), value.into())).collect() };
    Notice::Step(events::Step {
        step,
        epoch: 0,
        samples_per_s: 409_600.0,
        lr_factor: 1.0,
        losses: of_tasks(0.5),
        plain_losses: Map::new(),
        weights: of_tasks(1.0),
        scope: Some("shared"),
        grad_norms: of_tasks(0.1),
        cosines: vec![vec![0.5; TASKS.len()]; TASKS.len()],
        grad_norm: 0.2,
        table_rows: Map::new(),
    })
}
