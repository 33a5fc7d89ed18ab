//! A log whose scenarios become clients.

use super::{How, JOB, run};
use crate::common::job::{Workplace, newest};
use crate::common::log;
use crate::common::state::State;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use tandem::federated::events::Notice;

/// A log in two files, and in the folders of a partition column that is no column of the files.
fn place() -> Workplace {
    let clients = "  clients: [{name: a, root: a}, {name: b, root: b}, {name: c, root: c}]\n";
    let text = JOB.replacen(clients, "", 1).replacen("data: {", "data: {scenario: hour, ", 1);
    let place = Workplace::new(&text);
    log::write(&place.path("train/dt=1/a.parquet"), log::columns(0..150), 31);
    log::write(&place.path("train/dt=2/b.parquet"), log::columns(150..240), 50);
    log::write(&place.path("valid/a.parquet"), log::columns(300..420), 40);
    log::write(&place.path("test/a.parquet"), log::columns(500..600), 40);
    place
}

/// `hour` and `user` of all rows of a folder, in order, and whether there is a column `dt`.
fn rows(folder: &Path) -> (Vec<(i64, i64)>, bool) {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let (mut rows, mut dated) = (Vec::new(), true);
    for path in paths {
        for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let column = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
            rows.extend(column("hour").into_iter().zip(column("user")));
            dated &= batch.column_by_name("dt").is_some();
        }
    }
    (rows, dated)
}

#[test]
fn every_scenario_trains_on_its_own_rows() {
    let place = place();
    let job = place.job(&["federated.rounds=2"]);
    let ends = [1, 2].map(|ranks| {
        let run_dir = place.path(&format!("run{ranks}"));
        let seen = run(&job, ranks, &run_dir, How::default());
        let Some(Notice::Eval(last)) = seen.notices.last() else { panic!("no test") };
        let named: Vec<String> = last.report.clients.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(named, ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(last.report.tasks[0].get("rows"), Some(100.0));
        let state = |name: &String| State::read(&newest(&run_dir.join("clients").join(name)));
        named.iter().map(state).collect::<Vec<_>>()
    });
    assert_eq!(ends[0], ends[1]);

    let whole: Vec<(i64, i64)> =
        ["train/dt=1", "train/dt=2"].into_iter().flat_map(|dir| rows(&place.path(dir)).0).collect();
    for hour in 0..6 {
        let (own, dated) = rows(&place.path(&format!("run2/data/{hour}/train")));
        let expected: Vec<(i64, i64)> = whole.iter().copied().filter(|row| row.0 == hour).collect();
        assert_eq!(own, expected, "the rows of the scenario in the order of the log");
        assert!(dated, "what the folders say is a column now");
    }
}

#[test]
fn a_log_is_parted_once_and_again_when_it_changes() {
    let place = place();
    let job = place.job(&["federated.rounds=1", "federated.method=local"]);
    let run_dir = place.path("run");
    run(&job, 1, &run_dir, How::default());
    std::fs::write(run_dir.join("data/mark"), "").unwrap();
    run(&job, 1, &run_dir, How { resume: true, ..How::default() });
    assert!(run_dir.join("data/mark").exists(), "the same log");
    log::write(&place.path("test/a.parquet"), log::columns(500..700), 40);
    run(&job, 1, &run_dir, How { resume: true, ..How::default() });
    assert!(!run_dir.join("data/mark").exists(), "another log");
}
