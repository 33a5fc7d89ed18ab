//! Time of a step against the number of tasks, without balancing and with an exact method, which takes one backward
//! pass a task.

use crate::common::median;
use crate::plot::{Chart, Line};
use crate::rank::{Log, MAX_TASKS, Shape, alone};

const REPEATS: usize = 3;
const BALANCES: [&str; 2] = ["uniform", "mgda"];

pub fn run(log: &Log) -> anyhow::Result<()> {
    let mut times = vec![[const { Vec::new() }; 2]; MAX_TASKS];
    for _ in 0..REPEATS {
        for (tasks, times) in (1..).zip(&mut times) {
            for (balance, times) in BALANCES.into_iter().zip(times) {
                times.push(alone(log, &Shape { tasks, balance, ..Shape::default() }, 2, 6)?.all);
            }
        }
    }
    println!("| tasks | uniform, ms a step | exact MGDA, ms a step | ratio |\n|---|---|---|---|");
    let (mut uniform, mut mgda) = (Vec::new(), Vec::new());
    for (tasks, times) in (1..).zip(times) {
        let [plain, exact] = times.map(median);
        println!("| {tasks} | {plain:.1} | {exact:.1} | {:.2} |", exact / plain);
        uniform.push((f64::from(tasks), plain));
        mgda.push((f64::from(tasks), exact));
    }
    let lines = [Line { name: "exact MGDA", points: mgda }, Line { name: "uniform", points: uniform }];
    Chart { file: "growth-tasks", x: "tasks", y: "ms a step", log_x: false }.save(&lines)
}
