//! Files of very different lengths: every rank takes the same steps, and every row is seen once an epoch.

use crate::common::job::{How, Workplace, newest, train, try_train};
use crate::common::log::{self, draw};
use crate::common::state::State;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use tandem::comm::threads;

const JOB: &str = "
name: uneven
data: {train: [a.parquet, b.parquet, c.parquet, d.parquet], shuffle_window: 50}
features:
  - {name: id, kind: categorical, dim: 2}
  - {name: x, kind: numeric}
tasks:
  - {name: y, label: y}
  - {name: z, label: z, where: y}
model: {kind: shared_bottom, bottom: [4], tower: []}
train: {global_batch: 64}
checkpoint: {buckets: 16}
";

/// Rows of the four files.
pub const FILES: [u64; 4] = [1, 0, 999, 7];

/// The job and its four files, in which every row has an id of its own.
pub fn workplace(rows: [u64; 4]) -> Workplace {
    let place = Workplace::new(JOB);
    let mut start = 0;
    for (name, rows) in ["a", "b", "c", "d"].into_iter().zip(rows) {
        write(&place.path(&format!("{name}.parquet")), start..start + rows);
        start += rows;
    }
    place
}

fn write(path: &Path, rows: Range<u64>) {
    let label = |what: &'static str| log::ints(rows.clone().map(move |row| Some(i64::from(draw(row, what) < 0.4))));
    let columns = vec![
        ("id", log::ints(rows.clone().map(|row| Some(row as i64)))),
        ("x", log::floats(rows.clone().map(|row| Some(draw(row, "x"))))),
        ("y", label("y")),
        ("z", label("z")),
    ];
    log::write(path, columns, 300);
}

/// How often each id was seen in training.
pub fn sightings(checkpoint: &Path) -> BTreeMap<u64, u32> {
    State::read(checkpoint).rows.into_iter().map(|((_, id), row)| (id, row.count)).collect()
}

fn each(rows: u64, times: u32) -> BTreeMap<u64, u32> {
    (0..rows).map(|id| (id, times)).collect()
}

#[test]
fn all_ranks_take_the_same_steps_and_see_each_row_once_an_epoch() {
    for (files, lanes, batch, steps) in [
        // 64 lanes of 15 or 16 rows, one row a step.
        (FILES, "auto", 64, 16),
        // 4 lanes of 251 or 252 rows, 5 rows a step.
        (FILES, "4", 20, 51),
        // More rows in a step than there are: most ranks run out in the first one.
        ([1, 0, 5, 0], "4", 400, 1),
        ([0, 4, 0, 0], "auto", 64, 16),
    ] {
        let place = workplace(files);
        let sizes = [&format!("data.lanes={lanes}")[..], &format!("train.global_batch={batch}")];
        let steps = if files[1] == 4 { 1 } else { steps };
        let run_dir = place.path("run");
        let how = How { resume: true, threads: threads::Options::unruly(batch), ..How::default() };
        for epoch in 1..=2 {
            let job = place.job(&[&sizes[..], &[&format!("train.epochs={epoch}")]].concat());
            let ranks = try_train(&job, 4, &run_dir, how).into_iter();
            let ranks: Vec<_> = ranks.map(|rank| rank.unwrap_or_else(|error| panic!("{error}"))).collect();
            assert!(ranks.iter().all(|rank| rank.step == epoch * steps && rank.calls == ranks[0].calls), "{ranks:?}");
            assert_eq!(sightings(&newest(&run_dir)), each(files.iter().sum(), epoch as u32), "epoch {epoch}");
        }
    }
}

#[test]
fn uneven_files_train_to_the_same_parameters_on_any_number_of_ranks() {
    let place = workplace(FILES);
    let job = place.job(&["data.lanes=4", "train.global_batch=100"]);
    let state = |ranks: usize| {
        let run_dir = place.path(&format!("{ranks}"));
        train(&job, ranks, &run_dir, How::default());
        State::read(&newest(&run_dir))
    };
    let alone = state(1);
    for ranks in 2..=4 {
        alone.assert_close(&state(ranks), 1e-4, &format!("{ranks} ranks"));
    }
}

#[test]
fn more_ranks_than_lanes_are_refused_on_every_rank() {
    let place = workplace([1, 0, 2, 0]);
    for rank in try_train(&place.job(&[]), 4, &place.path("run"), How::default()) {
        let error = rank.expect_err("3 rows make 3 lanes at most");
        assert!(error.exit_code() == 2 && error.to_string().contains("data.lanes"), "{error}");
    }
}
