//! LLM4MSR on a small log: vectors that are read once, travel to their owners, are never trained, and stay in checkpoints.

use crate::common::job::{EVERY_FEATURE, How, Workplace, assert_same_metrics, newest, train, try_train};
use crate::common::log;
use crate::common::state::State;
use arrow::array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tandem::comm::threads;
use tandem::config::job::Paths;
use tandem::data::schema::Purpose;
use tandem::data::store::{Local, Store};
use tandem::metric::TaskReport;
use tandem::observe::Stages;
use tandem::random;
use tandem::train::dataset::Dataset;
use tandem::train::trained::Trained;

/// Numbers of a user's vector, and of a scenario's.
const DIMS: (usize, usize) = (5, 3);

fn page(row: u64) -> Option<&'static str> {
    [Some("shop"), Some("home"), None, Some("feed"), Some("home")][(row % 5) as usize]
}

fn columns(rows: Range<u64>) -> log::Columns {
    let page: ArrayRef = Arc::new(rows.clone().map(page).collect::<StringArray>());
    // Users of their own: those of the log are made for other tests.
    let viewer: ArrayRef = Arc::new(rows.clone().map(|row| (row * 7 % 23) as i64).collect::<Int64Array>());
    log::columns(rows).into_iter().chain([("page", page), ("viewer", viewer)]).collect()
}

fn vectors(rows: usize, dim: usize, seed: u64) -> ArrayRef {
    let values: Vec<f32> = (0..(rows * dim) as u64).map(|i| random::unit(seed, &[i]) as f32 - 0.4).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let offsets = OffsetBuffer::from_lengths(vec![dim; rows]);
    Arc::new(ListArray::new(item, offsets, Arc::new(Float32Array::from(values)), None))
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, rows_of_group: usize) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    for start in (0..batch.num_rows()).step_by(rows_of_group) {
        writer.write(&batch.slice(start, rows_of_group.min(batch.num_rows() - start))).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

/// Knowledge of the viewers 0 to 17 of 23, and of all pages but those that `without` names.
fn write_knowledge(place: &Workplace, seed: u64, without: &[&str]) {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..18));
    write(&place.path("user.parquet"), vec![("key", keys), ("vector", vectors(18, DIMS.0, seed))], 4);
    let pages: Vec<&str> = ["home", "feed", "shop", "gone"].into_iter().filter(|p| !without.contains(p)).collect();
    let columns = vec![
        ("vector", vectors(pages.len(), DIMS.1, seed + 1)),
        ("user_mean", vectors(pages.len(), DIMS.0, seed + 2)),
        ("key", Arc::new(StringArray::from(pages)) as ArrayRef),
    ];
    write(&place.path("scenario.parquet"), columns, 10);
}

fn place() -> Workplace {
    let feature = "  - {name: known, kind: categorical, column: viewer, table: knowledge}\ntasks:\n";
    let text = EVERY_FEATURE.replacen("tasks:\n", feature, 1);
    let place = Workplace::new(&text);
    log::write(&place.path("train/a.parquet"), columns(0..90), 31);
    log::write(&place.path("train/b.parquet"), columns(90..250), 50);
    log::write(&place.path("valid/a.parquet"), columns(10_000..10_060), 25);
    write_knowledge(&place, 3, &[]);
    place
}

/// The job's overrides: LLM4MSR with these options on the job's own model.
fn settings(place: &Workplace, options: &str) -> Vec<String> {
    let path = |name| place.path(name).display().to_string();
    vec![
        "data.scenario=page".to_string(),
        format!("tables={{knowledge: {{init: {{kind: file, path: {}}}}}}}", path("user.parquet")),
        "freeze={tables: [knowledge]}".to_string(),
        format!(
            "model={{kind: llm4msr, scenario_knowledge: {}, user_knowledge: known, knowledge_width: 6, \
             user_layers: [5, 4], scenario_layers: [4], backbone: {{kind: mmoe, experts: 3, expert: [8], tower: [4]}}, \
             {options}}}",
            path("scenario.parquet")
        ),
    ]
}

fn job(place: &Workplace, options: &str, more: &[&str]) -> tandem::config::Checked {
    let settings = settings(place, options);
    place.job(&settings.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn any_number_of_ranks_trains_the_same() {
    const TOLERANCE: f64 = 2e-4;
    for (options, balance) in [("rank: 2", "balance.kind=uniform"), ("rank: 0", "balance.kind=mgda")] {
        let place = place();
        let job = job(&place, options, &[balance]);
        let run = |ranks: usize| {
            let run_dir = place.path(&format!("run{ranks}"));
            let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
            (train(&job, ranks, &run_dir, how), State::read(&newest(&run_dir)))
        };
        let (alone, state) = run(1);
        for ranks in [2, 4] {
            let (seen, other) = run(ranks);
            state.assert_close(&other, TOLERANCE, &format!("{options}, {ranks} ranks"));
            for (one, many) in alone.evaluations().into_iter().zip(seen.evaluations()) {
                assert_same_metrics(one.1, many.1, 5.0 * TOLERANCE, &format!("{options}, {ranks} ranks"));
            }
        }
    }
}

fn evaluate(place: &Workplace, checkpoint: &Path, ranks: usize) -> Vec<TaskReport> {
    let reports = threads::run(ranks, threads::Options::default(), |comm| {
        let mut trained = Trained::load(&comm, checkpoint)?;
        let store: Arc<dyn Store> = Arc::new(Local);
        trained.job.data.root = Some(place.path("").display().to_string());
        let paths = Paths::One("valid".to_string());
        let valid = Dataset::open(&comm, &store, &trained.job, Some(&paths), Purpose::Evaluate)?.unwrap();
        valid.evaluate(&comm, &mut trained.trainable, &trained.statistics, 16, &Stages::start())
    });
    reports.into_iter().map(|rank| rank.unwrap_or_else(|e| panic!("{e}")).tasks).next().unwrap()
}

#[test]
fn a_run_goes_on_and_is_evaluated_without_the_files() {
    let place = place();
    let job = job(&place, "rank: 2", &[]);
    let straight = train(&job, 1, &place.path("straight"), How::default());
    train(&job, 2, &place.path("cut"), How { stop_after: Some(7), ..How::default() });
    for name in ["user.parquet", "scenario.parquet"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    train(&job, 3, &place.path("cut"), How { resume: true, ..How::default() });
    let [straight_end, end] = ["straight", "cut"].map(|run| newest(&place.path(run)));
    State::read(&straight_end).assert_close(&State::read(&end), 2e-4, "resumed");
    let last = straight.evaluations().pop().unwrap().1.to_vec();
    assert_same_metrics(&last, &evaluate(&place, &straight_end, 2), 1e-5, "from the checkpoint");
}

#[test]
fn without_effect_it_trains_as_its_backbone() {
    let place = place();
    // The user level alone would move the input by the bias of its last layer, so there is none.
    let options = "kappa: 0, learn_kappa: false, init_std: 0";
    let path = place.path("scenario.parquet").display().to_string();
    let neutral = format!(
        "model={{kind: llm4msr, scenario_knowledge: {path}, backbone: {{kind: mmoe, experts: 3, expert: [8], tower: [4]}}, \
         {options}}}"
    );
    let features = |text: &str| {
        let place = Workplace::new(text);
        log::write(&place.path("train/a.parquet"), columns(0..250), 50);
        log::write(&place.path("valid/a.parquet"), columns(10_000..10_060), 25);
        place
    };
    let plain = features(EVERY_FEATURE);
    let end = |overrides: &[&str], run: &str| {
        let seen = train(&plain.job(overrides), 1, &plain.path(run), How::default());
        seen.evaluations().pop().unwrap().1.to_vec()
    };
    let (neutral, backbone) = (end(&["data.scenario=page", &neutral], "neutral"), end(&[], "backbone"));
    assert_same_metrics(&neutral, &backbone, 0.0, "the backbone");
}

#[test]
fn files_that_do_not_fit_are_told() {
    let error = |place: &Workplace, options: &str, more: &[&str]| {
        let errors = try_train(&job(place, options, more), 2, &place.path("never"), How::default());
        errors.into_iter().next().unwrap().unwrap_err()
    };
    let place = place();
    let given = error(&place, "scenario_fingerprint: '0123'", &[]);
    assert_eq!(given.place("key"), Some("model.scenario_fingerprint"));
    let given = error(&place, "rank: 2", &["tables.knowledge.init.fingerprint='0123'"]);
    assert_eq!(given.place("key"), Some("tables.knowledge.init.fingerprint"));
    let thawed = error(&place, "rank: 2", &["freeze={}"]);
    assert!(thawed.to_string().contains("freeze: {tables: [knowledge]}"), "{thawed}");
    let wide = error(&place, "rank: 2", &["tables.knowledge.dim=7"]);
    assert!(wide.to_string().contains("vectors of 5"), "{wide}");
    write_knowledge(&place, 3, &["feed"]);
    let missing = error(&place, "rank: 2", &[]);
    assert!(missing.to_string().contains("scenario `feed`"), "{missing}");
    std::fs::remove_file(place.path("user.parquet")).unwrap();
    let gone = error(&place, "rank: 2", &[]);
    assert!(gone.to_string().contains("user.parquet"), "{gone}");
}

#[test]
fn a_table_from_a_file_can_be_trained_on() {
    let place = place();
    let table =
        format!("tables={{knowledge: {{init: {{kind: file, path: {}}}}}}}", place.path("user.parquet").display());
    let job = place.job(&[&table]);
    let ends = [1, 3].map(|ranks| {
        let run_dir = place.path(&format!("trained{ranks}"));
        train(&job, ranks, &run_dir, How::default());
        State::read(&newest(&run_dir))
    });
    ends[0].assert_close(&ends[1], 2e-4, "ranks");
}
