//! How far a run is: a bar on a terminal, a plain line now and then in a file.

use super::terminal::Terminal;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Time between two plain lines, where stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

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

/// The progress display of a run, and the meter of its speed. Only rank 0 shows anything.
pub struct Progress {
    plan: Plan,
    speed: Speed,
    display: Display,
}

enum Display {
    Hidden,
    Bar(Terminal, ProgressBar),
    Lines { terminal: Terminal, next: Instant, last: Option<String> },
}

impl Progress {
    /// Starts the clock, and on rank 0 the display.
    pub fn start(terminal: &Terminal, rank: usize, plan: Plan) -> Self {
        let now = Instant::now();
        let display = if rank > 0 {
            Display::Hidden
        } else if terminal.is_interactive() {
            Display::Bar(terminal.clone(), bar(terminal, &plan))
        } else {
            Display::Lines { terminal: terminal.clone(), next: now, last: None }
        };
        Self { plan, speed: Speed::start(now), display }
    }

    /// Counts one step, and shows it if it is time.
    pub fn step(&mut self, step: &Step) {
        let now = Instant::now();
        self.speed.step(now, step.rows);
        match &mut self.display {
            Display::Hidden => {}
            Display::Bar(_, bar) => {
                bar.set_position(step.step);
                bar.set_message(describe(&self.plan, step, &self.speed));
            }
            Display::Lines { terminal, next, last } => {
                let line = describe(&self.plan, step, &self.speed);
                if now >= *next {
                    terminal.line(&line);
                    *next = now + LINE_EVERY;
                    *last = None;
                } else {
                    *last = Some(line);
                }
            }
        }
    }

    /// Shows one line, above the bar if there is one.
    pub fn message(&self, text: &str) {
        match &self.display {
            Display::Hidden => {}
            Display::Bar(terminal, _) | Display::Lines { terminal, .. } => terminal.line(text),
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

    /// Takes the display away, leaving its last state as a line.
    pub fn finish(self) {
        match self.display {
            Display::Hidden | Display::Lines { last: None, .. } => {}
            Display::Bar(_, bar) => bar.abandon(),
            Display::Lines { terminal, last: Some(line), .. } => terminal.line(&line),
        }
    }
}

fn bar(terminal: &Terminal, plan: &Plan) -> ProgressBar {
    let bar = terminal.add(ProgressBar::new(plan.steps).with_position(plan.done));
    // A template of our own that does not parse would show in the first test of it; the default will do.
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}%  {wide_msg}") {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar
}

/// `epoch 1/3  step 1,200/4,882  81,234 rows/s  ETA 1m 12s  click 0.4312  buy 0.1234`
fn describe(plan: &Plan, step: &Step, speed: &Speed) -> String {
    let mut text = format!(
        "epoch {}/{}  step {}/{}  {} rows/s  ETA {}",
        step.epoch + 1,
        plan.epochs,
        HumanCount(step.step),
        HumanCount(plan.steps),
        HumanCount(speed.rows_per_s() as u64),
        duration(plan.steps.saturating_sub(step.step) as f64 * speed.s_per_step()),
    );
    for (task, loss) in plan.tasks.iter().zip(step.losses) {
        text.push_str(&format!("  {task} {loss:.4}"));
    }
    text
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
    fn a_step_is_described_in_one_line() {
        let start = Instant::now();
        let mut speed = Speed::start(start);
        speed.step(start + Duration::from_millis(50), 4096);
        let step = Step { epoch: 0, step: 1200, rows: 4096, losses: &[0.43121, f64::NAN] };
        assert_eq!(
            describe(&plan(), &step, &speed),
            "epoch 1/3  step 1,200/4,882  81,920 rows/s  ETA 3m 04s  click 0.4312  buy NaN"
        );
    }

    #[test]
    fn durations_read_well() {
        let texts: Vec<String> = [0.4, 59.6, 185.0, 3720.0, 183_600.0].into_iter().map(duration).collect();
        assert_eq!(texts, ["0s", "1m 00s", "3m 05s", "1h 02m", "2d 03h"]);
    }

    #[test]
    fn other_ranks_measure_but_show_nothing() {
        let mut progress = Progress::start(&Terminal::stderr(), 1, plan());
        std::thread::sleep(Duration::from_millis(1));
        progress.step(&Step { epoch: 0, step: 1, rows: 10, losses: &[] });
        assert!(progress.samples_per_s() > 0.0);
        assert!(matches!(progress.display, Display::Hidden));
        progress.finish();
    }

    #[test]
    fn the_bars_template_is_valid() {
        assert!(ProgressStyle::with_template("{bar:24} {percent:>3}%  {wide_msg}").is_ok());
    }
}
