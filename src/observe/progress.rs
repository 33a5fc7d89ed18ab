//! How far a run is: a bar on a terminal, a plain line now and then in a file.

use super::environment::resident_bytes;
use super::terminal::{Format, Terminal};
use crate::comm::Comm;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// Time between two plain lines, where stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Time between two pictures of the bar.
const FRAME_EVERY: Duration = Duration::from_millis(100);

/// Time between two looks at the memory and the messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const BAR: &str = "{bar:24} {percent:>3}%  {wide_msg}";

/// Time over which the speed is averaged: long enough to be steady, short enough to show a change.
const AVERAGE_OVER_S: f64 = 5.0;

/// What a run has before it.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Steps of the whole run, those done before a resume included.
    pub steps: u64,
    /// Steps done before this start.
    pub done: u64,
    /// Number of epochs.
    pub epochs: u64,
    /// Task names, in the order of the losses.
    pub tasks: Vec<String>,
}

/// What one step did.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Epoch of the step, from 0.
    pub epoch: u64,
    /// Steps done so far, this one included.
    pub step: u64,
    /// Rows of all ranks in the step.
    pub rows: u64,
    /// Mean loss of each task.
    pub losses: &'a [f64],
}

/// The progress display of a run, and the meter of its speed. Only rank 0 shows anything. However short a step, it is
/// described a few times a second only.
pub struct Progress {
    plan: Plan,
    speed: Speed,
    latest: Latest,
    load: Load,
    display: Display,
    next: Instant,
}

enum Display {
    Hidden,
    /// The bar, and a line of losses below it.
    Bars(Terminal, ProgressBar, ProgressBar),
    Lines(Terminal),
}

/// The last step, and the last evaluation.
#[derive(Debug, Default)]
struct Latest {
    epoch: u64,
    step: u64,
    losses: Vec<f64>,
    /// Task, metric, value.
    scores: Vec<(String, String, f64)>,
    /// Whether it is not shown yet.
    unseen: bool,
}

/// What training takes of the machine.
struct Load {
    /// Memory that this process holds.
    memory_bytes: u64,
    /// Share of the time that this rank is in calls to others; none on one rank.
    comm_share: Option<f64>,
    comm: Option<Comm>,
    at: Instant,
    comm_s: f64,
}

impl Progress {
    /// Starts the clock, and on rank 0 the display.
    pub fn start(terminal: &Terminal, rank: usize, plan: Plan) -> Self {
        let now = Instant::now();
        let display = if rank > 0 {
            Display::Hidden
        } else if terminal.is_interactive() {
            let (bar, below) = bars(terminal, &plan);
            Display::Bars(terminal.clone(), bar, below)
        } else {
            Display::Lines(terminal.clone())
        };
        let load = Load { memory_bytes: 0, comm_share: None, comm: None, at: now, comm_s: 0.0 };
        Self { plan, speed: Speed::start(now), latest: Latest::default(), load, display, next: now }
    }

    /// Shows what share of the time goes into messages of `comm`.
    pub fn watching(mut self, comm: &Comm) -> Self {
        self.load.comm = Some(comm.clone()).filter(|comm| comm.size() > 1);
        self
    }

    /// Counts one step, and shows it if it is time.
    pub fn step(&mut self, step: &Step) {
        let now = Instant::now();
        self.speed.step(now, step.rows);
        if matches!(self.display, Display::Hidden) {
            return;
        }
        (self.latest.epoch, self.latest.step, self.latest.unseen) = (step.epoch, step.step, true);
        self.latest.losses.clear();
        self.latest.losses.extend_from_slice(step.losses);
        if now >= self.next {
            self.show(now);
        }
    }

    /// Shows these values (task, metric, value) of the last evaluation from now on.
    pub fn scored(&mut self, scores: Vec<(String, String, f64)>) {
        self.latest.scores = scores;
    }

    fn show(&mut self, now: Instant) {
        self.load.look(now);
        self.latest.unseen = false;
        let (ahead, losses) = (describe(&self.plan, &self.latest, &self.speed), self.losses());
        match &self.display {
            Display::Hidden => {}
            Display::Bars(_, bar, below) => {
                bar.set_position(self.latest.step);
                bar.set_message(ahead);
                below.set_message(losses);
                self.next = now + FRAME_EVERY;
            }
            Display::Lines(terminal) => {
                match terminal.format() {
                    Format::Text => terminal.line(&format!("{ahead}  {losses}")),
                    Format::Json => terminal.event("progress", self.fields()),
                }
                self.next = now + LINE_EVERY;
            }
        }
    }

    /// `click 0.4312  buy 0.1234  ·  auc click 0.7812  ·  1.2 GiB  ·  4% in messages`
    fn losses(&self) -> String {
        let losses = self.plan.tasks.iter().zip(&self.latest.losses).map(|(task, loss)| format!("{task} {loss:.4}"));
        let mut parts = vec![losses.collect::<Vec<_>>().join("  ")];
        let scores = self.latest.scores.iter().map(|(task, metric, score)| format!("{metric} {task} {score:.4}"));
        parts.push(scores.collect::<Vec<_>>().join("  "));
        if self.load.memory_bytes > 0 {
            parts.push(HumanBytes(self.load.memory_bytes).to_string());
        }
        parts.extend(self.load.comm_share.map(|share| format!("{:.0}% in messages", 100.0 * share)));
        parts.retain(|part| !part.is_empty());
        parts.join("  ·  ")
    }

    fn fields(&self) -> Map<String, Value> {
        let Latest { epoch, step, losses, scores, .. } = &self.latest;
        let losses: Map<String, Value> =
            self.plan.tasks.iter().cloned().zip(losses.iter().map(|&l| l.into())).collect();
        let mut by_metric: Map<String, Value> = Map::new();
        for (task, metric, score) in scores {
            let of_metric = by_metric.entry(metric.clone()).or_insert_with(|| Map::new().into());
            of_metric[task] = (*score).into();
        }
        let fields = serde_json::json!({
            "epoch": epoch,
            "steps": self.plan.steps,
            "samples_per_s": self.speed.rows_per_s(),
            "eta_s": self.plan.steps.saturating_sub(*step) as f64 * self.speed.s_per_step(),
            "losses": losses,
            "scores": by_metric,
            "memory_bytes": self.load.memory_bytes,
            "comm_share": self.load.comm_share,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Shows one line, above the bar if there is one.
    pub fn message(&self, text: &str) {
        match &self.display {
            Display::Hidden => {}
            Display::Bars(terminal, ..) | Display::Lines(terminal) => terminal.line(text),
        }
    }

    /// Leaves the time since the last step out of the speed: after an evaluation or a checkpoint.
    pub fn restart_clock(&mut self) {
        self.speed.last = Instant::now();
    }

    /// Rows of all ranks a second, over the last seconds of training; 0 before the first step.
    pub fn samples_per_s(&self) -> f64 {
        self.speed.rows_per_s()
    }

    /// Takes the display away, leaving its last state.
    pub fn finish(mut self) {
        if self.latest.unseen {
            self.show(Instant::now());
        }
        if let Display::Bars(_, bar, below) = self.display {
            bar.abandon();
            below.abandon();
        }
    }
}

impl Load {
    fn look(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        if since < LOOK_EVERY && self.memory_bytes > 0 {
            return;
        }
        self.memory_bytes = resident_bytes();
        if let Some(comm) = &self.comm {
            let comm_s = comm.traffic().seconds;
            self.comm_share = Some((comm_s - self.comm_s) / since.as_secs_f64().max(1e-9)).filter(|_| !since.is_zero());
            self.comm_s = comm_s;
        }
        self.at = now;
    }
}

fn bars(terminal: &Terminal, plan: &Plan) -> (ProgressBar, ProgressBar) {
    let bar = terminal.add(ProgressBar::new(plan.steps).with_position(plan.done));
    let below = terminal.add(ProgressBar::new(plan.steps));
    // A template of our own that does not parse would show in the first test of it; the default will do.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
        below.set_style(style);
    }
    (bar, below)
}

/// `epoch 1/3  step 1,200/4,882  81,234 rows/s  ETA 1m 12s`
fn describe(plan: &Plan, latest: &Latest, speed: &Speed) -> String {
    format!(
        "epoch {}/{}  step {}/{}  {} rows/s  ETA {}",
        latest.epoch + 1,
        plan.epochs,
        HumanCount(latest.step),
        HumanCount(plan.steps),
        HumanCount(speed.rows_per_s() as u64),
        duration(plan.steps.saturating_sub(latest.step) as f64 * speed.s_per_step()),
    )
}

/// `42s`, `3m 05s`, `1h 02m`, `2d 03h`.
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Speed as a ratio of exponentially faded sums: true from the first step, and steady for steps of any length.
struct Speed {
    last: Instant,
    rows: f64,
    steps: f64,
    seconds: f64,
}

impl Speed {
    fn start(now: Instant) -> Self {
        Self { last: now, rows: 0.0, steps: 0.0, seconds: 0.0 }
    }

    fn step(&mut self, now: Instant, rows: u64) {
        let seconds = now.saturating_duration_since(self.last).as_secs_f64();
        let fade = (-seconds / AVERAGE_OVER_S).exp();
        self.last = now;
        self.rows = self.rows * fade + rows as f64;
        self.steps = self.steps * fade + 1.0;
        self.seconds = self.seconds * fade + seconds;
    }

    fn rows_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.rows / self.seconds } else { 0.0 }
    }

    fn s_per_step(&self) -> f64 {
        if self.steps > 0.0 { self.seconds / self.steps } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan { steps: 4882, done: 0, epochs: 3, tasks: vec!["click".to_string(), "buy".to_string()] }
    }

    #[test]
    fn a_steady_run_has_its_true_speed_from_the_first_step() {
        let start = Instant::now();
        let mut speed = Speed::start(start);
        assert_eq!(speed.rows_per_s(), 0.0);
        for i in 1..100 {
            speed.step(start + Duration::from_millis(250 * i), 1000);
            assert!((speed.rows_per_s() - 4000.0).abs() < 1e-6, "{i}: {}", speed.rows_per_s());
            assert!((speed.s_per_step() - 0.25).abs() < 1e-9);
        }
    }

    #[test]
    fn the_speed_follows_a_change() {
        let start = Instant::now();
        let mut speed = Speed::start(start);
        (1..100).for_each(|i| speed.step(start + Duration::from_millis(100 * i), 1000));
        (1..100).for_each(|i| speed.step(start + Duration::from_millis(9900 + 400 * i), 1000));
        assert!((speed.rows_per_s() - 2500.0).abs() < 50.0, "{}", speed.rows_per_s());
    }

    #[test]
    fn a_step_is_described_in_words_and_numbers() {
        let start = Instant::now();
        let mut speed = Speed::start(start);
        speed.step(start + Duration::from_millis(50), 4096);
        let mut progress = Progress::start(&Terminal::stderr(Format::Text), 0, plan());
        let latest = Latest { step: 1200, losses: vec![0.43121, f64::NAN], ..Latest::default() };
        assert_eq!(describe(&plan(), &latest, &speed), "epoch 1/3  step 1,200/4,882  81,920 rows/s  ETA 3m 04s");
        progress.latest = latest;
        progress.scored(vec![("click".to_string(), "auc".to_string(), 0.78123)]);
        (progress.load.memory_bytes, progress.load.comm_share) = (3 << 30, Some(0.042));
        assert_eq!(progress.losses(), "click 0.4312  buy NaN  ·  auc click 0.7812  ·  3.00 GiB  ·  4% in messages");
        let fields = progress.fields();
        assert_eq!(fields["losses"], serde_json::json!({"click": 0.43121, "buy": null}));
        assert_eq!((&fields["scores"]["auc"]["click"], &fields["steps"]), (&0.78123.into(), &4882.into()));
    }

    #[test]
    fn durations_read_well() {
        let texts: Vec<String> = [0.4, 59.6, 185.0, 3720.0, 183_600.0].into_iter().map(duration).collect();
        assert_eq!(texts, ["0s", "1m 00s", "3m 05s", "1h 02m", "2d 03h"]);
    }

    #[test]
    fn other_ranks_measure_but_show_nothing() {
        let mut progress = Progress::start(&Terminal::stderr(Format::Text), 1, plan());
        std::thread::sleep(Duration::from_millis(1));
        progress.step(&Step { epoch: 0, step: 1, rows: 10, losses: &[] });
        assert!(progress.samples_per_s() > 0.0);
        assert!(matches!(progress.display, Display::Hidden));
        progress.finish();
    }

    #[test]
    fn a_short_step_is_shown_once_in_a_while_and_the_last_one_at_the_end() {
        let mut progress = Progress::start(&Terminal::stderr(Format::Text), 0, plan());
        progress.next = Instant::now() + Duration::from_secs(3600);
        progress.step(&Step { epoch: 0, step: 1, rows: 10, losses: &[0.5, 0.5] });
        assert!(progress.latest.unseen, "it is not time yet");
        progress.next = Instant::now();
        progress.step(&Step { epoch: 0, step: 2, rows: 10, losses: &[0.5, 0.5] });
        assert!(!progress.latest.unseen && progress.next > Instant::now() - FRAME_EVERY);
        progress.finish();
    }

    #[test]
    fn the_bars_template_is_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
