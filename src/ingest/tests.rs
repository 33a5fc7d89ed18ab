use super::*;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::io::Write;

/// A folder with text files.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn request(&self, inputs: &[PathBuf]) -> Request {
        Request {
            inputs: inputs.to_vec(),
            reading: Reading::default(),
            kinds: BTreeMap::new(),
            dropped: Vec::new(),
            explode: None,
            out: self.path("out"),
            row_group_rows: 1000,
            split: None,
            split_by: None,
            guess_rows: 100,
            skip_bad_lines: false,
        }
    }

    fn read(&self, name: &str) -> RecordBatch {
        let file = std::fs::File::open(self.path("out").join(name)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let schema = reader.schema().clone();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
        concat_batches(&schema, &batches).unwrap()
    }
}

fn ints(rows: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    rows.column_by_name(column).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().map(|text| text.map(String::from)).collect()
}

#[test]
fn csv_becomes_typed_columns_in_row_groups() {
    let place = Place::new();
    let mut text = "user,price,city,code\n".to_string();
    (0..2500).for_each(|row| text += &format!("{row},{}.5,\"Rome, {}\",007\n", row % 9, row % 3));
    text += "2500,,,\n";
    let summary = ingest(&place.request(&[place.file("log.csv", text)])).unwrap();
    assert_eq!((summary.rows["all"], summary.files, summary.skipped), (2501, 1, 0));
    let kinds: Vec<&str> = summary.columns.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["whole number", "number", "text", "text"]);
    let rows = place.read("log.parquet");
    assert_eq!(ints(&rows, "user")[2499..], [Some(2499), Some(2500)]);
    let prices = rows.column_by_name("price").unwrap().as_primitive::<Float64Type>();
    assert_eq!((prices.value(10), prices.null_count()), (1.5, 1));
    assert_eq!(texts(&rows, "city")[1].as_deref(), Some("Rome, 1"));
    let file = std::fs::File::open(place.path("out/log.parquet")).unwrap();
    let footer = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().clone();
    let groups: Vec<i64> = footer.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [1000, 1000, 501]);
    let column = footer.row_group(0).column(2);
    assert!(
        matches!(column.compression(), parquet::basic::Compression::ZSTD(_))
            && column.dictionary_page_offset().is_some()
    );
}

#[test]
fn a_value_that_does_not_fit_is_named_by_file_and_line() {
    let place = Place::new();
    let mut text = "user,price\n".to_string();
    (0..9000).for_each(|row| text += &format!("{row},{}\n", if row == 8999 { "cheap" } else { "1" }));
    let input = place.file("log.csv", text);
    let error = ingest(&place.request(std::slice::from_ref(&input))).unwrap_err().to_string();
    assert!(
        error.contains("log.csv, line 9001, column price") && error.contains("`cheap` is no whole number"),
        "{error}"
    );
    assert!(error.contains("--types"), "{error}");
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 0, "nothing is left of it");
    let mut request = place.request(&[input]);
    request.skip_bad_lines = true;
    assert_eq!(ingest(&request).unwrap().skipped, 1);
    assert_eq!(place.read("log.parquet").num_rows(), 8999);
}

#[test]
fn lines_of_the_wrong_width_and_of_no_utf8_are_named_too() {
    let place = Place::new();
    let input = place.file("log.csv", "a,b\n1,2\n1,2,3\n");
    let error = ingest(&place.request(&[input])).unwrap_err().to_string();
    assert!(error.contains("3 values for 2 columns") && error.contains("line 3"), "{error}");
    let input = place.file("latin.csv", b"a\nCaf\xe9\n");
    let mut request = place.request(&[input]);
    let error = ingest(&request).unwrap_err().to_string();
    assert!(error.contains("latin.csv") && error.contains("--latin1"), "{error}");
    request.reading.latin1 = true;
    ingest(&request).unwrap();
    assert_eq!(texts(&place.read("latin.parquet"), "a"), [Some("Café".to_string())]);
}

#[test]
fn json_lines_may_lack_columns_and_hold_lists() {
    let place = Place::new();
    let input =
        place.file("log.jsonl", "{\"user\": 1, \"seen\": [3, 4], \"city\": \"Rome\"}\n\n{\"user\": 2, \"seen\": []}\n");
    ingest(&place.request(&[input])).unwrap();
    let rows = place.read("log.parquet");
    assert_eq!(ints(&rows, "user"), [Some(1), Some(2)]);
    assert_eq!(texts(&rows, "city"), [Some("Rome".to_string()), None]);
    let seen = rows.column_by_name("seen").unwrap().as_list::<i32>();
    assert_eq!((seen.value_length(0), seen.value_length(1)), (2, 0));
    let place = Place::new();
    let error = ingest(&place.request(&[place.file("log.jsonl", "{\"a\": 1}\n[1]\n")])).unwrap_err().to_string();
    assert!(error.contains("log.jsonl, line 2") && error.contains("no JSON object"), "{error}");
}

#[test]
fn several_files_keep_their_order_and_zipped_ones_are_read() {
    let place = Place::new();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(b"a\n2\n").unwrap();
    let inputs = [place.file("b.csv", "a\n1\n"), place.file("a.csv.gz", zipped.finish().unwrap())];
    assert_eq!(ingest(&place.request(&inputs)).unwrap().files, 2);
    assert_eq!(ints(&place.read("part-0000-b.parquet"), "a"), [Some(1)]);
    assert_eq!(ints(&place.read("part-0001-a.parquet"), "a"), [Some(2)]);
    let error = ingest(&place.request(&inputs)).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
}

#[test]
fn users_stay_together_in_a_split() {
    let place = Place::new();
    let text: String = (0..4000).map(|row| format!("{}::{row}\n", row % 200)).collect();
    let mut request = place.request(&[place.file("ratings.dat", text)]);
    request.reading = Reading {
        format: Some(Format::Csv),
        delimiter: Some("::".to_string()),
        names: vec!["user".to_string(), "item".to_string()],
        latin1: false,
    };
    request.split = Some([0.6, 0.2, 0.2]);
    request.split_by = Some("user".to_string());
    let summary = ingest(&request).unwrap();
    let rows = |split: &str| place.read(&format!("{split}/ratings.parquet"));
    let mut users: Vec<Vec<Option<i64>>> = SPLITS.iter().map(|split| ints(&rows(split), "user")).collect();
    assert_eq!(users.iter().map(Vec::len).sum::<usize>(), 4000);
    assert_eq!(summary.rows["train"], users[0].len() as u64);
    users.iter_mut().for_each(|users| {
        users.sort();
        users.dedup();
    });
    assert_eq!(users.iter().map(Vec::len).sum::<usize>(), 200, "no user is in two splits");
    assert!((100..140).contains(&users[0].len()), "{}", users[0].len());
}

#[test]
fn a_column_of_entries_becomes_a_column_a_field() {
    let place = Place::new();
    let text = "7,1,101\u{2}38\u{3}1.0\u{1}109_14\u{2}5\u{3}0.7\u{1}109_14\u{2}6\u{3}0.7\u{1}999\u{2}1\u{3}1.0\n8,0,\n";
    let mut request = place.request(&[place.file("skeleton.csv", text)]);
    request.reading.names = ["id", "click", "feature_list"].map(String::from).to_vec();
    request.explode = Explode::parse("feature_list=101,109_14*");
    let summary = ingest(&request).unwrap();
    assert_eq!(
        summary.columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["id", "click", "f101", "f109_14"]
    );
    let rows = place.read("skeleton.parquet");
    assert_eq!(ints(&rows, "f101"), [Some(38), None]);
    let many = rows.column_by_name("f109_14").unwrap().as_list::<i32>();
    assert_eq!((many.value_length(0), many.is_null(1)), (2, true));
}

#[test]
fn kinds_that_are_given_are_kept() {
    let place = Place::new();
    let mut request = place.request(&[place.file("log.csv", "user,tags,day\n1,3|4,20240101\n")]);
    request.kinds =
        BTreeMap::from([("user".to_string(), Kind::Text), ("tags".to_string(), Kind::parse("ints|").unwrap())]);
    request.dropped = vec!["day".to_string()];
    ingest(&request).unwrap();
    let rows = place.read("log.parquet");
    assert_eq!(rows.num_columns(), 2);
    assert_eq!(texts(&rows, "user"), [Some("1".to_string())]);
    assert!(matches!(rows.column(1).data_type(), DataType::List(item) if *item.data_type() == DataType::Int64));
    let place = Place::new();
    let mut request = place.request(&[place.file("log.csv", "user\n1\n")]);
    request.dropped = vec!["usr".to_string()];
    let error = ingest(&request).unwrap_err().to_string();
    assert!(error.contains("no column `usr`") && error.contains("user"), "{error}");
}
