//! A small job on Parquet files of its own, for tests of the commands. Each of them uses a part of this.
#![allow(dead_code)]

use super::common::{mpirun, text_of};
use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Ends a command that hangs, so that its test fails instead. Far above what any of them takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Rows of a row group.
pub const GROUP_ROWS: usize = 20;

/// Named columns of one length.
pub type Columns = Vec<(&'static str, ArrayRef)>;

/// A folder with `train/` (3 files of 2 row groups), `valid/` (1 file) and `job.yaml`.
pub struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// Writes everything. Nothing is wrong with it.
    pub fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        for file in 0..3 {
            fixture.write(&format!("train/{file}.parquet"), columns(40 * file..40 * file + 40));
        }
        fixture.write("valid/0.parquet", columns(1000..1040));
        std::fs::write(fixture.path("job.yaml"), fixture.job_text()).expect("the job is written");
        fixture
    }

    fn job_text(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "name: small\n\
             data: {{root: {dir}, train: train, valid: valid}}\n\
             features:\n  \
               - {{name: age, kind: numeric, transform: standardize}}\n  \
               - {{name: user, kind: categorical, dim: 4}}\n  \
               - {{name: city, kind: categorical, dim: 4}}\n\
             tasks:\n  \
               - {{name: click, label: click}}\n  \
               - {{name: buy, label: buy}}\n\
             model: {{kind: shared_bottom, bottom: [64], tower: [4]}}\n\
             balance: {{kind: uniform}}\n\
             optimizer: {{dense: {{kind: adam}}, sparse: {{kind: rowwise_adagrad}}, schedule: {{kind: constant}}}}\n\
             train: {{global_batch: 20, log_every: 1}}\n\
             checkpoint: {{buckets: 4}}\n\
             run_dir: {dir}/run\n\
             threads: 1\n"
        )
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text, for an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes (or replaces) a Parquet file.
    pub fn write(&self, name: &str, columns: Columns) {
        write_parquet(&self.path(name), columns);
    }

    /// `tandem train` of the job in this process's own world of one rank, with more arguments.
    pub fn train(&self, more: &[&str]) -> Output {
        self.train_on(1, more).expect("one rank needs no mpirun")
    }

    /// The same on `ranks` ranks; `None` without `mpirun`.
    pub fn train_on(&self, ranks: usize, more: &[&str]) -> Option<Output> {
        let job = self.arg("job.yaml");
        tandem_on(ranks, &[&["train", &job], more].concat())
    }

    /// Asserts that the run folder's checkpoint can still be used.
    pub fn assert_evaluates(&self) {
        let output = tandem(&["eval", &self.arg("run"), "--data", &self.arg("valid"), "--json"]);
        assert!(output.status.success(), "{}", text_of(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        assert_eq!(report["rows"], 40, "{report}");
    }

    /// The names in the run's folder of checkpoints, sorted.
    pub fn checkpoints(&self) -> Vec<String> {
        names(&self.path("run/checkpoints"))
    }
}

/// Names in a folder, sorted; none if there is no such folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Rows `rows` of the log: every column is a function of the row's number.
pub fn columns(rows: Range<usize>) -> Columns {
    let ints = |f: fn(usize) -> i64| -> ArrayRef { Arc::new(rows.clone().map(f).collect::<Int64Array>()) };
    let cities = rows.clone().map(|row| ["Rome", "Oslo", "Lima"][row % 3]);
    vec![
        ("age", Arc::new(rows.clone().map(|row| 20.0 + (row * 7 % 50) as f64).collect::<Float64Array>())),
        ("user", ints(|row| (row * 13 % 31) as i64)),
        ("city", Arc::new(StringArray::from_iter_values(cities))),
        ("click", ints(|row| (row % 3 == 0) as i64)),
        ("buy", ints(|row| (row % 6 == 0) as i64)),
    ]
}

/// `columns` with `name` replaced, or added.
pub fn with(mut columns: Columns, name: &'static str, array: ArrayRef) -> Columns {
    match columns.iter_mut().find(|(known, _)| *known == name) {
        Some(column) => column.1 = array,
        None => columns.push((name, array)),
    }
    columns
}

/// `columns` without `name`.
pub fn without(mut columns: Columns, name: &str) -> Columns {
    columns.retain(|(known, _)| *known != name);
    columns
}

/// Writes a Parquet file in row groups of [`GROUP_ROWS`].
pub fn write_parquet(path: &Path, columns: Columns) {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array)| arrow::datatypes::Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).expect("columns of one length");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let file = File::create(path).expect("a new file");
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows written");
    writer.close().expect("a footer");
}

/// All rows of a Parquet file.
pub fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("readable")).expect("Parquet");
    builder.build().expect("a reader").map(|batch| batch.expect("rows")).collect()
}

/// Runs `tandem` on one rank.
pub fn tandem(args: &[&str]) -> Output {
    tandem_on(1, args).expect("one rank needs no mpirun")
}

/// Runs `tandem` on `ranks` ranks, one of them without `mpirun`; `None` where there is no `mpirun`.
pub fn tandem_on(ranks: usize, args: &[&str]) -> Option<Output> {
    let program = Path::new(env!("CARGO_BIN_EXE_tandem"));
    if ranks > 1 {
        return mpirun(ranks, program, args);
    }
    let output = assert_cmd::Command::new(program).args(args).timeout(TIMEOUT).output();
    Some(output.unwrap_or_else(|error| panic!("tandem {args:?}: {error}")))
}

/// Runs a shell script in which `$TANDEM` is the program.
pub fn shell(script: &str) -> Output {
    let output = assert_cmd::Command::new("sh")
        .args(["-c", script])
        .env("TANDEM", env!("CARGO_BIN_EXE_tandem"))
        // Containers run tests as root, and more ranks than cores.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_mpi_yield_when_idle", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        .timeout(TIMEOUT)
        .output();
    output.unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// Asserts exit code `code` and exactly one message, with each of `parts` and a remedy.
pub fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", text_of(output));
    assert_one_message(&output.stderr, parts);
}

/// Asserts that stderr has exactly one message of failure, with each of `parts` and a remedy.
pub fn assert_one_message(stderr: &[u8], parts: &[&str]) {
    let stderr = String::from_utf8_lossy(stderr);
    let messages = stderr.lines().filter(|line| is_message(line)).count();
    assert_eq!(messages, 1, "{stderr}");
    for part in parts.iter().chain(&["\n  fix: "]) {
        assert!(stderr.contains(part), "no {part:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// `error: …`, or `rank 3: …` from a rank of several.
fn is_message(line: &str) -> bool {
    let rank = line.strip_prefix("rank ").and_then(|rest| rest.split_once(": "));
    line.starts_with("error: ") || rank.is_some_and(|(number, _)| number.parse::<usize>().is_ok())
}
