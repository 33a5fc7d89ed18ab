//! A step whose numbers are not finite: what did it is named, no parameter is touched, and it can be taken again.

use crate::common::job::{How, Workplace, newest, train, try_train};
use crate::common::log::{self, draw};
use crate::common::state::State;
use arrow::array::{ArrayRef, Float32Builder, ListBuilder};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use tandem::comm::solo::Solo;
use tandem::comm::threads;
use tandem::train::events::Notice;
use tandem::train::non_finite::What;
use tandem::train::non_finite::replay::replay;

/// Four lanes of 12 rows in the order of the file, 4 rows of each a step: three steps.
const JOB: &str = "
name: non_finite
data: {train: log.parquet, lanes: 4, shuffle_window: 1}
features:
  - {name: user, kind: categorical, dim: 3}
  - {name: seen, kind: sequence, column: tags, table: user, max_len: 3, pooling: mean}
  - {name: x, kind: vector, length: 64}
  - {name: age, kind: numeric}
tasks:
  - {name: click, label: a}
  - {name: stars, label: c, kind: regression}
model: {kind: shared_bottom, bottom: [64, 6], tower: [3], dropout: 0.2}
train: {global_batch: 16, epochs: 2, log_every: 1}
checkpoint: {buckets: 16}
";

/// The row that does it: of lane 1, and read in the third step.
const BAD_ROW: u64 = 21;
const BAD_STEP: u64 = 2;

/// A log whose bad row has this in each number of `x`, and this many stars.
fn workplace(x: f32, stars: f64) -> Workplace {
    let place = Workplace::new(JOB);
    let rows = 0..48u64;
    let mut vectors = ListBuilder::new(Float32Builder::new());
    for row in rows.clone() {
        let pixel = |i: u64| if row == BAD_ROW { x } else { draw(row, &format!("pixel {i}")) as f32 };
        (0..64).for_each(|i| vectors.values().append_value(pixel(i)));
        vectors.append(true);
    }
    let columns = vec![
        ("user", log::ints(rows.clone().map(|row| Some((row % 7) as i64)))),
        ("tags", log::columns(rows.clone()).swap_remove(1).1),
        ("x", Arc::new(vectors.finish()) as ArrayRef),
        ("age", log::floats(rows.clone().map(|row| Some(draw(row, "age"))))),
        ("a", log::ints(rows.clone().map(|row| Some(i64::from(draw(row, "a") < 0.5))))),
        ("c", log::floats(rows.map(|row| Some(if row == BAD_ROW { stars } else { draw(row, "c") })))),
    ];
    log::write(&place.path("log.parquet"), columns, 100);
    place
}

/// The inputs of the bad row overflow in the forward pass.
fn bad_loss() -> Workplace {
    workplace(3e38, 1.0)
}

/// Its losses are finite, but the gradient of its stars is not.
fn bad_gradient() -> Workplace {
    workplace(1e6, 3e38)
}

fn how(seed: u64) -> How {
    How { threads: threads::Options::unruly(seed), ..How::default() }
}

fn folder(run_dir: &Path) -> std::path::PathBuf {
    run_dir.join(format!("non-finite/step-{BAD_STEP:08}"))
}

/// Trains on `ranks` ranks until the step fails on all of them alike; the message.
fn fails(place: &Workplace, overrides: &[&str], ranks: usize, run_dir: &Path) -> String {
    let errors = try_train(&place.job(overrides), ranks, run_dir, how(ranks as u64)).into_iter();
    let mut messages: Vec<String> = errors.map(|seen| seen.expect_err("the step is refused").to_string()).collect();
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:#?}");
    messages.swap_remove(0)
}

fn replays(run_dir: &Path) -> tandem::train::non_finite::replay::Replayed {
    replay(&(Rc::new(Solo) as tandem::comm::Comm), &folder(run_dir)).unwrap_or_else(|error| panic!("{error}"))
}

/// That two checkpoints hold the same but for what the step saw.
fn assert_untouched(before: &State, after: &State, what: &str) {
    assert_eq!(before.dense, after.dense, "{what}");
    assert_eq!(before.balance, after.balance, "{what}");
    for (key, row) in before.rows.iter().filter(|(key, _)| after.rows.contains_key(*key)) {
        assert_eq!(row.floats, after.rows[key].floats, "{what}: {key:?}");
    }
}

#[test]
fn a_loss_names_task_feature_file_row_group_and_row_and_replays_as_it_was() {
    let place = bad_loss();
    for (ranks, norm) in [(1, "none"), (3, "none"), (2, "batch")] {
        let run_dir = place.path(&format!("{ranks}{norm}"));
        let norm = format!("model.norm={norm}");
        let message = fails(&place, &[&norm], ranks, &run_dir);
        let expected = [
            "the loss of task `click` is not finite",
            "log.parquet, row group 0, row 21, feature `x` with input 3",
            "after step 2",
            "tandem replay",
            "non-finite/step-00000002`",
        ];
        for part in expected {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        let replayed = replays(&run_dir);
        assert_eq!((replayed.step, replayed.rows), (BAD_STEP, 16));
        assert_eq!(replayed.now.as_ref(), Some(&replayed.before), "{ranks} ranks");

        let good = place.path(&format!("{ranks} good"));
        train(&place.job(&[&norm, &format!("train.max_steps={BAD_STEP}")]), ranks, &good, how(9));
        let (before, after) = (State::read(&newest(&good)), State::read(&folder(&run_dir)));
        assert!(!after.rows.is_empty());
        assert_untouched(&before, &after, &norm);
    }
}

#[test]
fn a_gradient_is_traced_to_its_row_whatever_the_method_looks_at() {
    let place = bad_gradient();
    let methods = [
        ("{kind: uniform}", 1),
        ("{kind: famo}", 2),
        ("{kind: cagrad}", 3),
        ("{kind: mgda, scope: representation}", 2),
        ("{kind: mgda, scope: shared+rows}", 2),
        ("{kind: graddrop}", 2),
        ("{kind: db_mtl}", 1),
        ("{kind: nash_mtl}", 2),
    ];
    for (method, ranks) in methods {
        let run_dir = place.path(&format!("{method}{ranks}"));
        let message = fails(&place, &[&format!("balance={method}")], ranks, &run_dir);
        let expected = [
            "the gradient of task `stars` is not finite",
            "row group 0, row 21, feature `x` with input 1000000, parameter ",
            "after step 2",
        ];
        for part in expected {
            assert!(message.contains(part), "{method}: no {part:?} in {message}");
        }
        let replayed = replays(&run_dir);
        assert_eq!(replayed.before.what, What::Gradient);
        assert_eq!(replayed.now.as_ref(), Some(&replayed.before), "{method}");
    }
}

#[test]
fn skipped_steps_change_nothing_and_are_counted() {
    let skip = "train.non_finite=skip";
    for (place, method) in [(bad_loss(), "dwa"), (bad_gradient(), "famo"), (bad_gradient(), "gradnorm")] {
        let (kind, norm) = (format!("balance.kind={method}"), "model.norm=batch");
        for ranks in [1, 2] {
            let run = |steps: u64| {
                let run_dir = place.path(&format!("{method}{ranks} {steps}"));
                let job = place.job(&[skip, &kind, norm, &format!("train.max_steps={steps}")]);
                let seen = train(&job, ranks, &run_dir, how(ranks as u64));
                (seen, State::read(&newest(&run_dir)))
            };
            let ((_, before), (seen, after)) = (run(BAD_STEP), run(BAD_STEP + 1));
            assert_untouched(&before, &after, method);
            assert_eq!(seen.step, BAD_STEP + 1);
            let (seen, last) = run(6);
            assert!(last.dense.values().flatten().all(|x| x.is_finite()));
            assert_ne!(last.dense, after.dense);
            let skipped = seen.notices.iter().filter_map(|notice| match notice {
                Notice::Skipped(skipped) => Some((skipped.step, skipped.path.is_some())),
                _ => None,
            });
            assert_eq!(skipped.collect::<Vec<_>>(), [(3, true), (6, true)]);
            let Some(Notice::End(end)) = seen.notices.last() else { panic!("no end") };
            assert_eq!((end.skipped, seen.steps().len()), (2, 4));
        }
    }
}

#[test]
fn a_model_that_gives_nothing_finite_any_more_ends_the_run_even_so() {
    let place = workplace(0.5, 1.0);
    let job = ["train.non_finite=skip", "train.epochs=20", "optimizer.dense.lr=1e37", "optimizer.dense.kind=sgd"];
    let run_dir = place.path("diverged");
    let message = fails(&place, &job, 2, &run_dir);
    assert!(message.contains("steps left out in a row 20"), "{message}");
    let recorded = std::fs::read_dir(run_dir.join("non-finite")).expect("a folder").count();
    assert_eq!(recorded, 10);
}
