use super::super::decode::Decoder;
use super::super::place::Place;
use super::super::scan::{Scan, share, steps};
use super::super::store::{Blob, Local};
use super::super::testing::{TestFile, floats, ints, schema};
use super::*;
use crate::comm::solo::Solo;
use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use std::collections::BTreeMap;

const JOB: &str = "
features:
  - {name: row, kind: categorical}
  - {name: word, kind: categorical}
  - {name: history, kind: sequence, max_len: 3}
  - {name: x, kind: numeric, transform: standardize}
tasks:
  - {name: t, label: y}
";

/// Rows `first..first + rows`, each telling its number.
fn table(first: i64, rows: usize) -> TestFile {
    let range = first..first + rows as i64;
    let words: Vec<String> = range.clone().map(|i| format!("w{}", i % 7)).collect();
    let history = range.clone().map(|i| (i % 5 != 0).then(|| (0..i % 5).map(move |k| Some(i + k)).collect::<Vec<_>>()));
    TestFile::new(&[
        ("row", ints(range.clone())),
        ("word", Arc::new(StringArray::from(words)) as ArrayRef),
        ("history", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(history))),
        ("x", floats(range.clone().map(|i| i as f64))),
        ("y", ints(range.map(|i| i % 2))),
    ])
}

struct Data {
    _folder: tempfile::TempDir,
    source: Source,
    rows: RecordBatch,
}

/// Files of these sizes, numbered on.
fn data(sizes: &[usize], row_group_rows: usize) -> Data {
    let folder = tempfile::tempdir().unwrap();
    let mut first = 0;
    let mut batches = Vec::new();
    for (i, &rows) in sizes.iter().enumerate() {
        let file = table(first, rows).row_group_rows(row_group_rows);
        file.write(&folder.path().join(format!("{i:03}.parquet")));
        batches.push(file.batch().clone());
        first += rows as i64;
    }
    let schema = Arc::new(schema(JOB));
    let plan = Arc::new(Plan::read(&Solo, &Local, &[folder.path().display().to_string()], &schema).unwrap());
    let store: Arc<dyn Store> = Arc::new(Local);
    let files = Files::new(store.clone(), plan.clone(), schema.clone(), Columns::Needed);
    let statistics = Arc::new(Statistics::collect(&Solo, &files).unwrap());
    let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
    Data { _folder: folder, source: Source { store, plan, schema, statistics, relations: None }, rows }
}

fn load(data: &Data, layout: Layout, order: Order, (rank, ranks): (usize, usize), cursor: Cursor) -> Vec<Batch> {
    let lanes = layout.hosted(rank, ranks).unwrap();
    let options = Options { layout, order, lanes, prefetch: 2, threads: 1 + rank % 3 };
    let mut loader = Loader::start(data.source.clone(), options, cursor).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        batches.push(batch);
    }
    assert_eq!(batches.len() as u64, loader.steps());
    assert_eq!(loader.progress().rows as usize, batches.iter().map(|b| numbers(b).len()).sum::<usize>());
    batches
}

/// `(slot, row number)` of the rows of a batch, padding left out.
fn numbers(batch: &Batch) -> Vec<(u32, u64)> {
    assert!(batch.rows > 0);
    let present = (0..batch.rows).filter(|&row| batch.present[row]);
    present.map(|row| (batch.slots[row], batch.ids[0].row(row)[0])).collect()
}

/// The global batches of an epoch: every rank's rows of each step, by slot.
fn epoch(data: &Data, layout: Layout, order: Order, ranks: usize, cursor: Cursor) -> Vec<BTreeMap<u32, u64>> {
    let mut steps = vec![BTreeMap::new(); layout.steps_after(cursor.taken) as usize];
    for rank in 0..ranks {
        let batches = load(data, layout, order, (rank, ranks), cursor);
        assert_eq!(batches.len(), steps.len(), "every rank runs the same number of steps");
        for (step, batch) in steps.iter_mut().zip(&batches) {
            for (slot, row) in numbers(batch) {
                assert!(step.insert(slot, row).is_none(), "slot {slot} twice");
            }
        }
    }
    steps
}

fn all_rows(steps: &[BTreeMap<u32, u64>]) -> Vec<u64> {
    let mut rows: Vec<u64> = steps.iter().flat_map(|step| step.values().copied()).collect();
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_row_once_an_epoch_at_any_number_of_ranks(
        sizes in prop::collection::vec(0usize..120, 1..5),
        group in 1usize..60,
        lanes in 1usize..7,
        b in 1usize..9,
        window in 1usize..50,
        number in 0u64..3,
        taken_steps in 0u64..20,
    ) {
        prop_assume!(sizes.iter().sum::<usize>() > 0);
        let data = data(&sizes, group);
        let rows = data.source.plan.rows;
        let layout = Layout { rows, lanes, rows_per_lane: b };
        let order = Order::shuffled(11, window);
        let whole = epoch(&data, layout, order, 1, Cursor { epoch: number, taken: 0 });
        prop_assert_eq!(all_rows(&whole), (0..rows).collect::<Vec<_>>());
        for ranks in 2..=lanes.min(4) {
            prop_assert_eq!(&epoch(&data, layout, order, ranks, Cursor { epoch: number, taken: 0 }), &whole);
        }
        let done = taken_steps.min(whole.len() as u64);
        let cursor = Cursor { epoch: number, taken: done * b as u64 };
        let rest = epoch(&data, layout, order, lanes.min(2), cursor);
        prop_assert_eq!(&rest[..], &whole[done as usize..]);
    }
}

#[test]
fn uneven_files_end_together() {
    let data = data(&[1, 0, 999, 7], 300);
    let layout = Layout::train(1007, 64, Some(16)).unwrap();
    let order = Order::shuffled(3, 32);
    let one = epoch(&data, layout, order, 1, Cursor::default());
    assert_eq!((one.len(), all_rows(&one)), (16, (0..1007).collect()));
    assert_eq!(epoch(&data, layout, order, 4, Cursor::default()), one);
    assert_ne!(epoch(&data, layout, order, 1, Cursor { epoch: 1, taken: 0 }), one);
}

#[test]
fn a_rank_without_rows_pads() {
    let data = data(&[3], 10);
    let layout = Layout { rows: 3, lanes: 4, rows_per_lane: 2 };
    let batches = load(&data, layout, Order::sequential(), (0, 4), Cursor::default());
    let [batch] = batches.as_slice() else { panic!("one step") };
    assert_eq!((batch.rows, &batch.present[..], &batch.targets[0].weight[..]), (1, &[false][..], &[0.0][..]));
    assert_eq!((batch.dense.len(), batch.ids[0].row(0).len(), batch.origin.len(), batch.slots.len()), (1, 0, 1, 1));
}

#[test]
fn the_parquet_path_equals_the_in_memory_path() {
    let data = data(&[70, 0, 130], 64);
    let layout = Layout { rows: 200, lanes: 1, rows_per_lane: 200 };
    let mut batches = load(&data, layout, Order::sequential(), (0, 1), Cursor::default());
    let loaded = batches.pop().unwrap();
    let place = Place { file: "memory", row_group: 0, number: 0, first_row: 0 };
    let mut decoder = Decoder::new(data.source.schema.clone(), &data.source.statistics).unwrap();
    let memory = decoder.record_batch(&data.rows, &place).unwrap();
    assert_eq!(loaded, Batch { origin: loaded.origin.clone(), ..memory });
    let origin = loaded.origin[140];
    assert_eq!((data.source.plan.path(origin.row_group).ends_with("002.parquet"), origin.row), (true, 6));
}

#[test]
fn lanes_in_one_row_group_read_it_once() {
    let data = data(&[400, 400], 400);
    let read_bytes = |lanes| {
        let layout = Layout { rows: 800, lanes, rows_per_lane: 5 };
        let options = Options { layout, order: Order::shuffled(1, 10), lanes: 0..lanes, prefetch: 2, threads: 1 };
        let mut loader = Loader::start(data.source.clone(), options, Cursor::default()).unwrap();
        while loader.next().unwrap().is_some() {}
        loader.progress().read_bytes
    };
    assert_eq!(read_bytes(20), read_bytes(1));
}

#[test]
fn a_shuffled_batch_holds_whole_rows() {
    let data = data(&[90, 60], 40);
    let place = Place { file: "memory", row_group: 0, number: 0, first_row: 0 };
    let mut decoder = Decoder::new(data.source.schema.clone(), &data.source.statistics).unwrap();
    let memory = decoder.record_batch(&data.rows, &place).unwrap();
    let layout = Layout { rows: 150, lanes: 3, rows_per_lane: 7 };
    for batch in load(&data, layout, Order::shuffled(1, 20), (0, 1), Cursor::default()) {
        for row in 0..batch.rows {
            let number = batch.ids[0].row(row)[0] as usize;
            for (column, expected) in batch.ids.iter().zip(&memory.ids) {
                assert_eq!(column.row(row), expected.row(number));
            }
            assert_eq!(batch.dense[row], memory.dense[number]);
            assert_eq!(batch.targets[0].label[row], memory.targets[0].label[number]);
        }
    }
}

#[test]
fn the_cursor_names_the_next_batch() {
    let data = data(&[100], 30);
    let layout = Layout { rows: 100, lanes: 4, rows_per_lane: 3 };
    let order = Order::shuffled(5, 8);
    let whole = load(&data, layout, order, (0, 1), Cursor::default());
    let options = Options { layout, order, lanes: 0..4, prefetch: 3, threads: 2 };
    let mut loader = Loader::start(data.source.clone(), options.clone(), Cursor::default()).unwrap();
    for expected in &whole[..5] {
        let cursor = loader.cursor();
        assert_eq!(loader.next().unwrap().as_ref(), Some(expected));
        let mut resumed = Loader::start(data.source.clone(), options.clone(), cursor).unwrap();
        assert_eq!(resumed.next().unwrap().as_ref(), Some(expected));
        // Dropped with batches waiting and lanes half read: must not hang.
    }
}

#[test]
fn a_bad_row_surfaces_at_its_step_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut data = data(&[10], 10);
    let labels = (0..200).map(|i| if i == 150 { 7 } else { 0 });
    let rows = table(0, 200).batch().clone();
    let mut columns: Vec<_> = (0..4).map(|i| (JOB_COLUMNS[i], rows.column(i).clone())).collect();
    columns.push(("y", ints(labels)));
    TestFile::new(&columns).row_group_rows(60).write(&folder.path().join("bad.parquet"));
    let pattern = folder.path().display().to_string();
    data.source.plan = Arc::new(Plan::read(&Solo, &Local, &[pattern], &data.source.schema).unwrap());
    let layout = Layout { rows: 200, lanes: 2, rows_per_lane: 5 };
    let options = Options { layout, order: Order::shuffled(5, 10), lanes: 0..2, prefetch: 4, threads: 3 };
    let mut loader = Loader::start(data.source.clone(), options, Cursor::default()).unwrap();
    let error = loop {
        match loader.next() {
            Ok(batch) => assert!(batch.is_some(), "the error was lost"),
            Err(error) => break error.to_string(),
        }
    };
    for part in ["bad.parquet", "row group 2", "row 30", "column y", "value 7", "fix:"] {
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    assert_eq!(loader.next().unwrap_err().to_string(), error);
}

const JOB_COLUMNS: [&str; 4] = ["row", "word", "history", "x"];

/// A store whose files break after their footers were read.
struct Breaking(fn(&[u8]) -> Vec<u8>);

struct Bytes(Vec<u8>);

impl Blob for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_range(&self, start: u64, length: usize) -> std::io::Result<bytes::Bytes> {
        let start = (start as usize).min(self.0.len());
        Ok(self.0[start..(start + length).min(self.0.len())].to_vec().into())
    }
}

impl Store for Breaking {
    fn list(&self, pattern: &str) -> Result<Vec<super::super::store::FileInfo>> {
        Local.list(pattern)
    }
    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("opening", path.as_ref(), &e))?;
        Ok(Arc::new(Bytes(self.0(&bytes))))
    }
}

#[test]
fn files_that_break_during_the_run_are_named() {
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let scribbled = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[4..600].fill(0xa5);
        bytes
    };
    let replaced = |_: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        table(0, 3).write(&folder.path().join("x.parquet"));
        std::fs::read(folder.path().join("x.parquet")).unwrap()
    };
    for breakage in [cut, scribbled, replaced] {
        let mut data = data(&[100], 50);
        data.source.store = Arc::new(Breaking(breakage));
        let layout = Layout { rows: 100, lanes: 2, rows_per_lane: 5 };
        let options = Options { layout, order: Order::sequential(), lanes: 0..2, prefetch: 2, threads: 2 };
        let mut loader = Loader::start(data.source.clone(), options, Cursor::default()).unwrap();
        let error = (0..=20).find_map(|_| loader.next().err()).expect("an error").to_string();
        assert!(error.contains("000.parquet"), "{error}");
    }
}

/// A store whose data pages make the reader panic, as damaged ones can.
struct Panicking;

struct Panics(Bytes);

impl Blob for Panics {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_range(&self, start: u64, length: usize) -> std::io::Result<bytes::Bytes> {
        // The first column's pages; the footer stands at the end.
        assert!(start > 4, "a planned panic");
        self.0.read_range(start, length)
    }
}

impl Store for Panicking {
    fn list(&self, pattern: &str) -> Result<Vec<super::super::store::FileInfo>> {
        Local.list(pattern)
    }
    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Panics(Bytes(std::fs::read(path).map_err(|e| Error::io("opening", path.as_ref(), &e))?))))
    }
}

/// Whoever reads, on whatever thread: the loader's, this one, rayon's.
#[test]
fn a_panic_of_the_reader_is_an_error_that_names_the_file() {
    let mut data = data(&[100], 50);
    data.source.store = Arc::new(Panicking);
    let layout = Layout { rows: 100, lanes: 2, rows_per_lane: 5 };
    let options = Options { layout, order: Order::sequential(), lanes: 0..2, prefetch: 2, threads: 2 };
    let mut loader = Loader::start(data.source.clone(), options, Cursor::default()).unwrap();
    let loaded = (0..=20).find_map(|_| loader.next().err());
    let scanned = Scan::new(data.source.clone(), share(&data.source.plan, 0, 1), 10).unwrap().next().err();
    let job = JOB.replace("name: x", "name: x, column: row");
    let files = Files::new(Arc::new(Panicking), data.source.plan.clone(), Arc::new(schema(&job)), Columns::Needed);
    let summed = Statistics::collect(&Solo, &files).err();
    for error in [loaded, scanned, summed] {
        let error = error.expect("an error").to_string();
        for part in ["cannot read the row group: a planned panic", "000.parquet", "row group 0", "fix:"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
}

#[test]
fn a_panic_of_the_decoder_is_an_error() {
    let data = data(&[10], 10);
    let layout = Layout { rows: 10, lanes: 1, rows_per_lane: 5 };
    let options = Options { layout, order: Order::sequential(), lanes: 0..1, prefetch: 1, threads: 1 };
    let loader = Loader::start(data.source.clone(), options, Cursor::default()).unwrap();
    let error = loader.shared.timed::<()>(|| panic!("a planned panic")).unwrap_err();
    assert!(error.to_string().contains("a planned panic"), "{error}");
}

#[test]
fn partition_folders_become_columns() {
    let folder = tempfile::tempdir().unwrap();
    for (day, rows) in [(1, 0..3), (2, 3..5)] {
        TestFile::new(&[("row", ints(rows))]).write(&folder.path().join(format!("day={day}/kind=a/f.parquet")));
    }
    let yaml = "features: [{name: row, kind: categorical}, {name: day, kind: categorical}, \
                {name: kind, kind: categorical}]\ntasks: []";
    let schema = Arc::new(schema(yaml));
    let store: Arc<dyn Store> = Arc::new(Local);
    let plan = Arc::new(Plan::read(&Solo, &Local, &[folder.path().display().to_string()], &schema).unwrap());
    let source = Source { store, plan, schema, statistics: Arc::default(), relations: None };
    let mut scan = Scan::new(source.clone(), share(&source.plan, 0, 1), 100).unwrap();
    let mut days = Vec::new();
    while let Some(rows) = scan.next().unwrap() {
        days.extend_from_slice(rows.batch.ids[1].ids());
        assert!(rows.batch.ids[2].ids().iter().all(|&id| id == super::super::string_id("a")));
    }
    assert_eq!(days, [1, 1, 1, 2, 2]);
}

#[test]
fn scanning_keeps_order_and_all_columns() {
    let data = data(&[70, 0, 133], 64);
    for (ranks, batch_rows) in [(1, 1000), (3, 10), (4, 33), (7, 1)] {
        let mut found = Vec::new();
        let mut ids = Vec::new();
        for rank in 0..ranks {
            let pieces = share(&data.source.plan, rank, ranks);
            let mut scan = Scan::new(data.source.clone(), pieces.clone(), batch_rows).unwrap();
            let mut count = 0;
            while let Some(rows) = scan.next().unwrap() {
                assert_eq!((rows.input.num_rows(), rows.batch.slots.len()), (rows.batch.rows, rows.batch.rows));
                assert_eq!(rows.input.schema(), data.rows.schema());
                ids.extend_from_slice(rows.batch.ids[0].ids());
                found.push(rows.input);
                count += 1;
            }
            assert_eq!(count, steps(&pieces, batch_rows));
        }
        assert_eq!(ids, (0..203).collect::<Vec<u64>>());
        assert_eq!(concat_batches(&found[0].schema(), &found).unwrap().columns(), data.rows.columns());
    }
}

#[test]
fn strings_arrive_as_dictionaries() {
    let data = data(&[100], 100);
    let Source { store, plan, schema, .. } = data.source;
    let files = Files::new(store, plan, schema, Columns::Needed);
    let piece = super::super::lanes::Piece { row_group: 0, start: 20, rows: 60 };
    let slice = files.read(piece, &[1], 100).unwrap().take(60).unwrap().unwrap();
    assert!(matches!(slice.columns[0].data_type(), arrow::datatypes::DataType::Dictionary(..)));
    assert_eq!((slice.batch.num_columns(), slice.first_row, slice.batch.num_rows()), (1, 20, 60));
}
