//! Time of a step against the length of one sequence feature, which is in every row.

use crate::common::median;
use crate::plot::{Chart, Line};
use crate::rank::{Log, Shape, alone};

const LENGTHS: [usize; 6] = [0, 25, 50, 100, 150, 200];
const POOLINGS: [&str; 2] = ["mean", "attention"];
const REPEATS: usize = 3;

pub fn run(log: &Log) -> anyhow::Result<()> {
    let mut times = vec![[const { Vec::new() }; 2]; LENGTHS.len()];
    for _ in 0..REPEATS {
        for (length, times) in LENGTHS.into_iter().zip(&mut times) {
            for (pooling, times) in POOLINGS.into_iter().zip(times) {
                times.push(alone(log, &Shape { list: Some((length, pooling)), ..Shape::default() }, 2, 6)?.all);
            }
        }
    }
    println!("| ids a row | mean, ms a step | attention, ms a step |\n|---|---|---|");
    let (mut mean, mut attention) = (Vec::new(), Vec::new());
    for (length, times) in LENGTHS.into_iter().zip(times) {
        let times = times.map(median);
        println!("| {length} | {:.1} | {:.1} |", times[0], times[1]);
        mean.push((length as f64, times[0]));
        attention.push((length as f64, times[1]));
    }
    let lines = [Line { name: "attention", points: attention }, Line { name: "mean", points: mean }];
    Chart { file: "growth-lengths", x: "ids in the sequence of a row", y: "ms a step", log_x: false }.save(&lines)
}
