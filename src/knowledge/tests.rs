//! What is written about a small log, at any number of ranks and passes.

use super::*;
use crate::comm::threads;
use crate::data::store::Local;
use arrow::array::{ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{Float32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;

const TEMPLATE: &str = "
scenario: >-
  {{ name }}: {{ rows }} rows of {{ all.rows }}, {{ users }} users of {{ all.users }},
  {{ tasks.like.mean | percent }} liked, most {{ top.genres[0].name }} ({{ top.genres[0].rows }}).
user:
  column: user_id
  order: time
  fields: [city]
  history: {column: item, last: 3, task: like}
  text: >-
    {{ value }} of {{ fields.city }}, {{ rows }} rows:
    {% for s in scenarios %}{{ s.name }} {{ s.rows }}{% if not loop.last %}, {% endif %}{% endfor %}.
    Last liked: {% for item in history %}{{ item.name }} {% endfor %}
top: [genres]
names:
  page: {1: Home, 2: Search}
  genres: {1: Drama}
";

/// A vector that depends on every letter.
struct Letters;

impl Encode for Letters {
    fn dim(&self) -> usize {
        3
    }

    fn encode(&self, text: &str) -> Result<Vec<f32>> {
        Ok((0..3).map(|i| crate::random::unit(i, &[crate::random::text(text)]) as f32 + 0.1).collect())
    }

    fn describe(&self) -> String {
        "letters".to_string()
    }
}

/// Four users, two pages; user 3 has no row on page 2, one row has no page, and one no user.
fn write_log(path: &Path) {
    let users = vec![Some(1), Some(1), Some(2), Some(2), Some(3), Some(1), Some(1), None, Some(4), Some(4)];
    let pages = vec![Some(1), Some(2), Some(1), Some(2), Some(1), Some(1), Some(1), Some(2), None, Some(2)];
    let likes: ArrayRef = Arc::new(UInt8Array::from(vec![1, 1, 0, 1, 0, 1, 1, 1, 1, 0]));
    let items = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let genres = (0..10).map(|row| Some(vec![Some(i64::from(row % 3)), Some(1)]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("user_id", Arc::new(Int64Array::from(users))),
        ("page", Arc::new(Int64Array::from(pages))),
        ("like", likes),
        // Not in the order of the rows.
        ("time", Arc::new(Int64Array::from(vec![5, 4, 3, 2, 1, 9, 1, 0, 0, 0]))),
        ("item", Arc::new(StringArray::from(items.to_vec()))),
        (
            "city",
            Arc::new(StringArray::from(vec![
                "Rome", "Bonn", "Kyiv", "Oslo", "Riga", "Nice", "Pisa", "Lviv", "Graz", "Brno",
            ])),
        ),
        ("genres", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(genres))),
    ];
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    // Row groups of three rows.
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    for start in (0..10).step_by(3) {
        writer.write(&batch.slice(start, 3.min(10 - start))).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
}

fn job(log: &Path) -> Job {
    let log = log.display();
    serde_yaml::from_str(&format!(
        "name: test\nmodel: {{kind: mmoe}}\ndata: {{train: {log}, valid: nowhere, scenario: page}}\n\
         features: [{{name: item, kind: categorical, dim: 2}}]\ntasks: [{{name: like, label: like}}]"
    ))
    .unwrap()
}

fn write_all(job: &Job, template: &str, out: &Path, ranks: usize, passes: usize) -> Result<Summary> {
    let template = Template::parse(template)?;
    let done = threads::ranks(ranks, |comm| {
        let request = Request { job, template: &template, out, passes };
        write(comm, Arc::new(Local), request, &Letters, &mut |_, _| {})
    });
    done.into_iter().next().unwrap()
}

fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let texts = batch.column_by_name("text").unwrap().as_string::<i32>();
    let mut texts: Vec<String> = texts.iter().flatten().map(str::to_string).collect();
    texts.sort();
    texts
}

#[test]
fn texts_say_what_the_log_holds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.parquet");
    write_log(&log);
    let out = folder.path().join("out");
    let summary = write_all(&job(&log), TEMPLATE, &out, 1, 1).unwrap();
    assert_eq!(summary, Summary { rows: 10, scenarios: 2, users: 4, dim: 3 });
    assert_eq!(
        texts(&read(&out.join("scenario.parquet"))),
        [
            "Home: 5 rows of 10, 3 users of 4, 60% liked, most Drama (6).",
            "Search: 4 rows of 10, 3 users of 4, 75% liked, most Drama (6).",
        ]
    );
    assert_eq!(
        texts(&read(&out.join("user.parquet"))),
        [
            "1 of Nice, 4 rows: Home 3, Search 1. Last liked: b a f",
            "2 of Kyiv, 2 rows: Home 1, Search 1. Last liked: d",
            "3 of Riga, 1 rows: Home 1. Last liked:",
            "4 of Brno, 2 rows: Search 1. Last liked: i",
        ]
    );
}

#[test]
fn a_scenario_has_the_mean_of_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.parquet");
    write_log(&log);
    let out = folder.path().join("out");
    write_all(&job(&log), TEMPLATE, &out, 1, 1).unwrap();
    let users = read(&out.join("user.parquet"));
    let keys: Vec<i64> = users.column_by_name("key").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let vectors = users.column_by_name("vector").unwrap().as_list::<i32>();
    let vector = |key: i64| {
        let row = keys.iter().position(|&other| other == key).unwrap();
        vectors.value(row).as_primitive::<Float32Type>().values().to_vec()
    };
    let scenarios = read(&out.join("scenario.parquet"));
    let means = scenarios.column_by_name("user_mean").unwrap().as_list::<i32>();
    for (row, users) in [(0, [1, 2, 3]), (1, [1, 2, 4])] {
        for i in 0..3 {
            let expected = users.iter().map(|&key| f64::from(vector(key)[i])).sum::<f64>() / 3.0;
            let found = means.value(row).as_primitive::<Float32Type>().value(i);
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }
}

#[test]
fn files_are_the_same_at_any_number_of_ranks_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.parquet");
    write_log(&log);
    let files = |ranks, passes| {
        let out = folder.path().join(format!("out-{ranks}-{passes}"));
        write_all(&job(&log), TEMPLATE, &out, ranks, passes).unwrap();
        ["user.parquet", "scenario.parquet"].map(|name| std::fs::read(out.join(name)).unwrap())
    };
    let alone = files(1, 1);
    for (ranks, passes) in [(2, 1), (4, 1), (1, 3), (3, 2), (2, 2000)] {
        assert!(files(ranks, passes) == alone, "{ranks} ranks, {passes} passes");
    }
}

#[test]
fn a_template_may_be_of_scenarios_only() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.parquet");
    write_log(&log);
    let out = folder.path().join("out");
    write_all(&job(&log), "scenario: '{{ name }} {{ users }}'", &out, 2, 1).unwrap();
    assert_eq!(texts(&read(&out.join("scenario.parquet"))), ["1 0", "2 0"]);
    assert!(!out.join("user.parquet").exists());
    assert!(read(&out.join("scenario.parquet")).column_by_name("user_mean").is_none());
}

#[test]
fn mistakes_are_told_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.parquet");
    write_log(&log);
    let out = folder.path().join("out");
    let error = |template: &str, job: &Job| write_all(job, template, &out, 2, 1).unwrap_err().to_string();
    let no_column = error("scenario: x\ntop: [genre]", &job(&log));
    assert!(no_column.contains("no column `genre`") && no_column.contains("genres"), "{no_column}");
    let no_task = error(&TEMPLATE.replace("task: like", "task: love"), &job(&log));
    assert!(no_task.contains("no task `love`"), "{no_task}");
    let no_fact = error("scenario: '{{ tasks.love.mean }}'", &job(&log));
    assert!(no_fact.contains("scenario text"), "{no_fact}");
    let mut no_scenario = job(&log);
    no_scenario.data.scenario = None;
    assert!(error("scenario: x", &no_scenario).contains("data.scenario"));
    write_all(&job(&log), TEMPLATE, &out, 1, 1).unwrap();
    assert!(error(TEMPLATE, &job(&log)).contains("already holds knowledge"));
}
