//! Matrix factorisation of pairs with drawn negatives, and the full ranking of it, at any number of ranks.

use crate::common::job::{How, Workplace, assert_same_metrics, newest, train};
use crate::common::log::{self, draw};
use crate::common::state::{State, assert_identical};
use crate::common::{mpirun, text_of};
use arrow::array::{ArrayRef, Int64Builder, ListBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use tandem::comm::{Comm, threads};
use tandem::data::schema::Purpose;
use tandem::data::store::{Local, Store};
use tandem::metric::TaskReport;
use tandem::observe::Stages;
use tandem::train::dataset::Dataset;
use tandem::train::run::Ending;
use tandem::train::trained::Trained;

const JOB: &str = "
name: retrieval
data: {train: train, valid: valid, shuffle_window: 20}
features:
  - {name: user, kind: categorical, dim: 5}
  - {name: item, kind: categorical, dim: 5}
  - {name: tags, kind: categorical, dim: 5, table: tag}
  - {name: last, kind: sequence, column: seen, table: item, max_len: 2}
tasks:
  - {name: like, kind: bpr, pair: [user, item], where: like, negatives: {count: 2}, ranking: {at: [1, 3, 30]}}
  - {name: tag, kind: bpr, pair: [item, tags], ranking: {at: [2]}}
  - {name: next, kind: bpr, pair: [item, last], weight: 0.5, negatives: {popularity: 0.75}, ranking: {at: []}}
  - {name: rate, label: like, pair: [user, item], ranking: {at: [3]}}
model: {kind: mf}
optimizer: {sparse: {kind: adagrad, lr: 0.1, l2: 1.0e-4}}
train: {global_batch: 24, epochs: 2, log_every: 1}
checkpoint: {buckets: 64}
";

/// Rows of the log: users 0 to 11 and items 0 to 24 in training; later also users and items that nobody knows.
fn user(row: u64) -> u64 {
    (draw(row, "user").powi(2) * if row < 10_000 { 12.0 } else { 16.0 }) as u64
}

fn item(row: u64) -> u64 {
    (draw(row, "item") * if row < 10_000 { 25.0 } else { 32.0 }) as u64
}

fn likes(row: u64) -> bool {
    // The first user likes nothing.
    user(row) > 0 && draw(row, "like") < 0.5
}

fn lists(rows: Range<u64>, of: impl Fn(u64) -> Vec<u64>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in rows {
        of(row).into_iter().for_each(|id| lists.values().append_value(id as i64));
        lists.append(true);
    }
    Arc::new(lists.finish())
}

fn tags(row: u64) -> Vec<u64> {
    vec![item(row) % 5, 10 + (draw(row, "tag") * 8.0) as u64]
}

fn columns(rows: Range<u64>) -> log::Columns {
    let ints = |of: &dyn Fn(u64) -> u64| log::ints(rows.clone().map(|row| Some(of(row) as i64)));
    let seen = |row: u64| (0..row % 4).map(|i| (draw(row, &format!("seen {i}")) * 25.0) as u64).collect();
    vec![
        ("user", ints(&user)),
        ("item", ints(&item)),
        ("tags", lists(rows.clone(), tags)),
        ("seen", lists(rows.clone(), seen)),
        ("like", ints(&|row| u64::from(likes(row)))),
    ]
}

const TRAIN: Range<u64> = 0..250;
const VALID: Range<u64> = 10_000..10_120;

fn workplace() -> Workplace {
    let place = Workplace::new(JOB);
    log::write(&place.path("train/a.parquet"), columns(0..90), 31);
    log::write(&place.path("train/b.parquet"), columns(90..TRAIN.end), 50);
    log::write(&place.path("valid/a.parquet"), columns(VALID), 25);
    place
}

/// The metrics of a checkpoint over `data.valid`, on `ranks` ranks.
fn evaluate(place: &Workplace, checkpoint: &Path, ranks: usize) -> Vec<TaskReport> {
    let job = place.job(&[]);
    let one = |comm: Comm| {
        let mut trained = Trained::load(&comm, checkpoint)?;
        let store: Arc<dyn Store> = Arc::new(Local);
        let open = |paths, purpose| Dataset::open(&comm, &store, &job, Some(paths), purpose).map(Option::unwrap);
        let log = open(&job.data.train, Purpose::Train)?;
        let mut valid = open(job.data.valid.as_ref().unwrap(), Purpose::Evaluate)?;
        valid.relations = log.collect_relations(&comm, &trained.statistics)?;
        let report = valid.evaluate(&comm, &mut trained.trainable, &trained.statistics, 16, &Stages::start())?;
        Ok(report.tasks)
    };
    let mut all: Vec<_> = threads::run(ranks, threads::Options::unruly(ranks as u64), one)
        .into_iter()
        .map(|reports| reports.unwrap_or_else(|error| panic!("{error}")))
        .collect();
    assert!(all.iter().all(|reports| *reports == all[0]), "ranks differ");
    all.swap_remove(0)
}

type Sets = BTreeMap<u64, BTreeSet<u64>>;

/// Right-hand ids by left-hand id, of some pairs.
fn sets(pairs: impl Iterator<Item = (u64, u64)>) -> Sets {
    let mut sets = Sets::new();
    pairs.for_each(|(left, right)| {
        sets.entry(left).or_default().insert(right);
    });
    sets
}

/// One relation of the log.
struct Reference {
    tables: (&'static str, &'static str),
    candidates: BTreeSet<u64>,
    known: Sets,
    asked: Sets,
}

impl Reference {
    fn user_item() -> Self {
        let liked = |rows: Range<u64>| sets(rows.filter(|&row| likes(row)).map(|row| (user(row), item(row))));
        Self {
            tables: ("user", "item"),
            candidates: TRAIN.map(item).collect(),
            known: liked(TRAIN),
            asked: liked(VALID),
        }
    }

    fn item_tag() -> Self {
        let tagged =
            |rows: Range<u64>| sets(rows.flat_map(|row| tags(row).into_iter().map(move |tag| (item(row), tag))));
        let candidates = TRAIN.flat_map(tags).collect();
        Self { tables: ("item", "tag"), candidates, known: tagged(TRAIN), asked: tagged(VALID) }
    }

    /// Recall@k, NDCG@k, the number of queries and of those left out, in float64 and one by one.
    fn ranked(&self, state: &State, k: usize) -> (f64, f64, f64, f64) {
        let row = |table: &str, id: u64| -> Vec<f64> {
            let row = state.rows.get(&(table.to_string(), id));
            row.map_or(vec![0.0; 5], |row| row.floats[..5].iter().map(|&x| f64::from(x)).collect())
        };
        let (mut recall, mut ndcg, mut queries, mut skipped) = (0.0, 0.0, 0.0, 0.0);
        for (left, asked) in &self.asked {
            let known = self.known.get(left).cloned().unwrap_or_default();
            let relevant: BTreeSet<u64> =
                asked.iter().filter(|id| self.candidates.contains(id) && !known.contains(id)).copied().collect();
            if known.is_empty() || relevant.is_empty() {
                skipped += 1.0;
                continue;
            }
            let query = row(self.tables.0, *left);
            let score = |id: &u64| query.iter().zip(row(self.tables.1, *id)).map(|(a, b)| a * b).sum::<f64>();
            let mut ranking: Vec<(f64, u64)> = self.candidates.difference(&known).map(|id| (score(id), *id)).collect();
            ranking.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
            let hits: Vec<usize> = (0..k.min(ranking.len())).filter(|&p| relevant.contains(&ranking[p].1)).collect();
            recall += hits.len() as f64 / relevant.len() as f64;
            ndcg += hits.iter().map(|&p| gain(p)).sum::<f64>() / (0..k.min(relevant.len())).map(gain).sum::<f64>();
            queries += 1.0;
        }
        (recall / queries, ndcg / queries, queries, skipped)
    }
}

fn check_against_reference(place: &Workplace, checkpoint: &Path) -> Vec<TaskReport> {
    let reports = evaluate(place, checkpoint, 1);
    let state = State::read(checkpoint);
    let users = Reference::user_item();
    for (task, reference, lengths) in
        [(0, &users, &[1, 3, 30][..]), (1, &Reference::item_tag(), &[2]), (3, &users, &[3])]
    {
        for &k in lengths {
            let (recall, ndcg, queries, skipped) = reference.ranked(&state, k);
            let expected = [
                (format!("recall@{k}"), recall),
                (format!("ndcg@{k}"), ndcg),
                ("queries".to_string(), queries),
                ("queries_skipped".to_string(), skipped),
            ];
            for (name, value) in expected {
                let found = reports[task].get(&name);
                assert!(found.is_some_and(|x| (x - value).abs() < 1e-12), "task {task}, {name}: {found:?}, {value}");
            }
        }
    }
    for ranks in 2..=4 {
        assert_eq!(evaluate(place, checkpoint, ranks), reports, "{ranks} ranks");
    }
    reports
}

#[test]
fn rankings_are_those_of_a_slow_reference_to_the_bit_at_any_number_of_ranks() {
    let place = workplace();
    let run_dir = place.path("run");
    let seen = train(&place.job(&["train.epochs=6"]), 2, &run_dir, How::default());
    let reports = check_against_reference(&place, &newest(&run_dir));
    let last = seen.evaluations().last().unwrap().1.to_vec();
    assert_same_metrics(&last, &reports, 0.0, "the run's own evaluation");
    assert!(reports[0].get("queries") > Some(5.0) && reports[0].get("queries_skipped") > Some(1.0));
    assert!(reports[0].get("recall@30") == Some(1.0), "there are fewer candidates than that");
    assert!(reports[3].get("auc").is_some() && reports[0].get("auc").is_none());
    assert!(reports[2].get("recall@3").is_none(), "a task that is not ranked");
}

/// No id is admitted, so every score is 0.
#[test]
fn equal_scores_are_in_the_order_of_their_ids() {
    let place = workplace();
    let run_dir = place.path("run");
    let never = "tables={user: {admission: {min_count: 9999}}, item: {admission: {min_count: 9999}}}";
    train(&place.job(&[never, "train.max_steps=2"]), 1, &run_dir, How::default());
    assert!(State::read(&newest(&run_dir)).waiting("item") > 5);
    let reports = check_against_reference(&place, &newest(&run_dir));
    assert!(reports[0].get("recall@3").is_some_and(|recall| recall < 1.0));
}

#[test]
fn training_is_the_same_at_any_number_of_ranks() {
    let place = workplace();
    let variants = [
        &["balance.kind=uniform"][..],
        &["balance.kind=uncertainty", "kernels=reference"],
        &["balance={kind: pmtrec}"],
        &["balance={kind: mgda, scope: shared+rows}"],
    ];
    for overrides in variants {
        let run = |ranks: usize| {
            let run_dir = place.path(&format!("{}{ranks}", overrides[0]));
            let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
            let seen = train(&place.job(overrides), ranks, &run_dir, how);
            (State::read(&newest(&run_dir)), seen)
        };
        let (alone, seen) = run(1);
        assert!(seen.steps().iter().all(|step| step.losses["like"].as_f64().is_some_and(|loss| loss > 0.0)));
        for ranks in 2..=4 {
            alone.assert_close(&run(ranks).0, 2e-4, &format!("{overrides:?}, {ranks} ranks"));
        }
    }
}

/// PMTRec whose main task has the whole weight trains it as if it were alone, to the last bit, and leaves rows of the
/// other tasks as they were drawn: an optimizer's momentum must not move what fades out.
#[test]
fn a_main_task_with_the_whole_weight_trains_as_if_it_were_alone() {
    let place = workplace();
    let run = |name: &str, ranks: usize, overrides: &[&str]| {
        let run_dir = place.path(&format!("{name} {ranks}"));
        train(
            &place.job(&[&["optimizer.sparse={kind: adam, lr: 0.01}"], overrides].concat()),
            ranks,
            &run_dir,
            How::default(),
        );
        State::read(&newest(&run_dir))
    };
    let like = "{name: like, kind: bpr, pair: [user, item], where: like, negatives: {count: 2}}";
    let others = "{name: tag, kind: bpr, pair: [item, tags], ranking: {at: []}}, \
                  {name: next, kind: bpr, pair: [item, last], weight: 0.5, ranking: {at: []}}";
    let alone = format!("tasks=[{like}]");
    let features = "features=[{name: user, kind: categorical, dim: 5}, {name: item, kind: categorical, dim: 5}]";
    let together = format!("tasks=[{like}, {others}]");
    let pmtrec = "balance={kind: pmtrec, main: like, focus: constant}";
    for ranks in [1, 3] {
        let alone = run("alone", ranks, &[features, &alone]);
        let together = run("together", ranks, &[&together, pmtrec]);
        let mut left = 0;
        for (key, row) in &together.rows {
            match alone.rows.get(key) {
                Some(same) => assert_eq!(row.floats, same.floats, "{key:?}, {ranks} ranks"),
                None => {
                    left += 1;
                    assert!(row.floats[5..].iter().all(|state| *state == 0.0), "{key:?} was trained");
                }
            }
        }
        assert!(alone.rows.len() > 20 && left > 5, "{} rows of the main task, {left} others", alone.rows.len());
        let sum = run("sum", ranks, &["balance={kind: uniform}"]);
        assert!(alone.rows.iter().any(|(key, row)| sum.rows[key].floats != row.floats), "a plain sum is another thing");
    }
}

#[test]
fn training_learns_what_is_liked() {
    let place = workplace();
    let of = |epochs: usize| {
        let run_dir = place.path(&format!("{epochs}"));
        let overrides = [&format!("train.epochs={epochs}"), "train.eval.best.metric=ndcg@3"];
        let seen = train(&place.job(&overrides), 1, &run_dir, How::default());
        let (first, last) = (seen.steps()[0].clone(), seen.steps().last().unwrap().losses.clone());
        (first.losses["like"].as_f64().unwrap(), last["like"].as_f64().unwrap())
    };
    let (first, last) = of(20);
    assert!((first - 2f64.ln()).abs() < 0.05, "an untrained model does not tell pairs apart: {first}");
    assert!(last < 0.5 * first, "{first} to {last}");
}

/// A row that carries no pair touches no embedding.
#[test]
fn only_rows_of_pairs_are_trained() {
    let place = workplace();
    let run_dir = place.path("run");
    let tasks = "tasks=[{name: like, kind: bpr, pair: [user, item], where: like}]";
    let features = "features=[{name: user, kind: categorical, dim: 5}, {name: item, kind: categorical, dim: 5}]";
    train(&place.job(&[features, tasks]), 2, &run_dir, How::default());
    let state = State::read(&newest(&run_dir));
    let users: BTreeSet<u64> = state.rows.keys().filter(|(table, _)| table == "user").map(|(_, id)| *id).collect();
    assert_eq!(users, TRAIN.filter(|&row| likes(row)).map(user).collect());
    let positives = TRAIN.filter(|&row| likes(row)).count() as u64;
    assert_eq!((state.sightings("user"), state.sightings("item")), (2 * positives, 2 * 2 * positives));
}

#[test]
fn a_stopped_run_goes_on_as_if_it_had_not_stopped() {
    let place = workplace();
    let job = place.job(&["train.epochs=3", "optimizer.sparse={kind: adam, lr: 0.01}"]);
    let straight = place.path("straight");
    assert_eq!(train(&job, 2, &straight, How::default()).step, 33);
    let stopped = place.path("stopped");
    for (steps, resume) in [(7, false), (9, true)] {
        let how = How { resume, stop_after: Some(steps), ..How::default() };
        assert_eq!(train(&job, 2, &stopped, how).ending, Ending::Signal);
    }
    train(&job, 2, &stopped, How { resume: true, ..How::default() });
    assert_identical(&newest(&straight), &newest(&stopped));

    let other = place.path("other");
    train(&job, 3, &other, How { stop_after: Some(16), ..How::default() });
    train(&job, 1, &other, How { resume: true, ..How::default() });
    State::read(&newest(&straight)).assert_close(&State::read(&newest(&other)), 2e-4, "3 ranks, then 1");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

fn tandem(ranks: usize, args: &[&str]) -> Option<Output> {
    mpirun(ranks, Path::new(env!("CARGO_BIN_EXE_tandem")), args)
}

#[test]
fn the_program_trains_evaluates_predicts_and_inspects() {
    let place = workplace();
    let (job, run, out) = (place.job_file(), place.path("run"), place.path("out"));
    let (job, run, out, valid) = (text(&job), text(&run), text(&out), place.path("valid"));
    let Some(done) = tandem(2, &["--quiet", "train", job, "--run-dir", run]) else { return };
    assert!(done.status.success(), "{}", text_of(&done));
    let checkpoint = newest(&place.path("run"));
    let expected = evaluate(&place, &checkpoint, 1);

    let eval = ["eval", text(&checkpoint), "--data", text(&valid), "--json"];
    for more in [&[][..], &["--train", text(&place.path("train"))]] {
        let Some(done) = tandem(3, &[&eval[..], more].concat()) else { return };
        assert!(done.status.success(), "{}", text_of(&done));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let like = &report["tasks"]["like"];
        assert_eq!(like["ndcg@3"].as_f64(), expected[0].get("ndcg@3"), "{report}");
        assert_eq!(like["queries"].as_u64().map(|n| n as f64), expected[0].get("queries"), "{report}");
    }

    let Some(done) = tandem(2, &["predict", text(&checkpoint), "--data", text(&valid), "--out", out]) else { return };
    assert!(done.status.success(), "{}", text_of(&done));
    check_predictions(&place.path("out"), &State::read(&checkpoint));
    let Some(done) = tandem(1, &["inspect", run]) else { return };
    assert!(done.status.success() && text_of(&done).contains("dense       0 floats"), "{}", text_of(&done));

    std::fs::rename(place.path("train"), place.path("moved")).unwrap();
    let Some(done) = tandem(2, &eval) else { return };
    assert!(done.status.code() == Some(1) && text_of(&done).contains("--train"), "{}", text_of(&done));
    std::fs::rename(place.path("valid"), place.path("train")).unwrap();
    let other = place.path("train");
    let Some(done) = tandem(2, &["eval", text(&checkpoint), "--data", text(&other)]) else { return };
    assert!(done.status.code() == Some(1) && text_of(&done).contains("not those that"), "{}", text_of(&done));
}

/// `pred_like` is the score of the row's pair, and `pred_tag` the mean score of its tags.
fn check_predictions(out: &Path, state: &State) {
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let mut paths: Vec<_> = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let (mut like, mut tag, mut rate) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let file = std::fs::File::open(path).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            for (column, all) in [("pred_like", &mut like), ("pred_tag", &mut tag), ("pred_rate", &mut rate)] {
                all.extend(batch[column].as_primitive::<Float32Type>().values().iter().map(|&x| f64::from(x)));
            }
        }
    }
    let row = |table: &str, id: u64| state.rows.get(&(table.to_string(), id)).map(|row| row.floats[..5].to_vec());
    let score = |a: Option<Vec<f32>>, b: Option<Vec<f32>>| match (a, b) {
        (Some(a), Some(b)) => a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum(),
        _ => 0.0,
    };
    assert_eq!(like.len() as u64, VALID.end - VALID.start);
    for (i, number) in VALID.enumerate() {
        let expected: f64 = score(row("user", user(number)), row("item", item(number)));
        assert!((like[i] - expected).abs() < 1e-5, "row {number}: {} and {expected}", like[i]);
        assert!((rate[i] - 1.0 / (1.0 + (-expected).exp())).abs() < 1e-5);
        let scores = tags(number).into_iter().map(|tag| score(row("item", item(number)), row("tag", tag)));
        assert!((tag[i] - scores.sum::<f64>() / 2.0).abs() < 1e-5);
    }
}
